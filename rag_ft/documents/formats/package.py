"""The zip packages of office files: parts, relationships, and what would exhaust memory."""

from __future__ import annotations

import io
import posixpath
import zipfile
from types import TracebackType
from urllib.parse import unquote
from xml.etree import ElementTree

from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, UnreadableError

# The parts of a package together; as XML trees they take about ten times as much memory.
MAX_UNPACKED_MB = 100

PACKAGE_ERRORS = (
    zipfile.BadZipFile,
    KeyError,
    SyntaxError,  # of the standard library's XML parser, and of lxml's
    NotImplementedError,
    *MALFORMED_FILE_ERRORS,
)
DC = "{http://purl.org/dc/elements/1.1/}"  # Dublin Core: title, author, date
_RELATION = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_TYPES = "{http://schemas.openxmlformats.org/package/2006/content-types}"
# Word writes the first of these in files saved as "Strict Open XML Document".
_STRICT = (
    (
        b"http://purl.oclc.org/ooxml/wordprocessingml/main",
        b"http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    ),
    (
        b"http://purl.oclc.org/ooxml/officeDocument/",
        b"http://schemas.openxmlformats.org/officeDocument/2006/",
    ),
)


class Package:
    """A zip file whose parts are read one by one; a context manager.

    Raises:
        UnreadableError: "encrypted" for what a password protects, "corrupt", or "too large" when
            unpacked.
    """

    def __init__(self, raw: bytes, kind: str) -> None:
        # The signature of OLE files: Office 97-2003, and what a password encrypts.
        if raw.startswith(b"\xd0\xcf\x11\xe0"):
            raise UnreadableError(
                "encrypted",
                "password-protected or older than Office 2007; save it without a password in the "
                "format of today",
            )
        self.kind = kind
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(raw))
        except PACKAGE_ERRORS as error:
            raise UnreadableError("corrupt", f"{kind}: {error}") from error
        self._stored = {self._plain(name): name for name in self.names()}
        size = sum(info.file_size for info in self._zip.infolist())
        if size > MAX_UNPACKED_MB * 2**20:
            raise UnreadableError(
                "too large",
                f"the {kind} unpacks to {size / 2**20:.0f} MB, more than {MAX_UNPACKED_MB} MB",
            )

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()
        # A parser may raise anything about a damaged part.
        if isinstance(error, PACKAGE_ERRORS):
            raise UnreadableError("corrupt", f"{self.kind}: {error}") from error

    def names(self) -> list[str]:
        """Returns the names of all parts."""
        return self._zip.namelist()

    def holds(self, name: str) -> bool:
        """Returns whether there is such a part."""
        return self._plain(name) in self._stored

    def read(self, name: str) -> bytes:
        """Returns a part as bytes. Raises KeyError where there is none."""
        return self._zip.read(self._stored[self._plain(name)])

    @staticmethod
    def _plain(name: str) -> str:
        # Names of parts are the same in small and capital letters, and some programs write "\\".
        return name.replace("\\", "/").lower()

    def xml(self, name: str) -> ElementTree.Element | None:
        """Returns a part as a tree, with the usual namespaces; None where there is no such part."""
        if not self.holds(name):
            return None
        raw = self.read(name)
        for strict, usual in _STRICT:
            raw = raw.replace(strict, usual)
        return ElementTree.fromstring(raw)

    def relations(self, name: str) -> dict[str, tuple[str, str]]:
        """Returns id -> (last part of the type, name of the part) of what a part refers to."""
        folder, file = posixpath.split(name)
        tree = self.xml(posixpath.join(folder, "_rels", f"{file}.rels"))
        found: dict[str, tuple[str, str]] = {}
        for relation in tree.iter(_RELATION) if tree is not None else ():
            if relation.get("TargetMode") == "External":
                continue
            target = unquote(relation.get("Target") or "")
            place = posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
            kind = (relation.get("Type") or "").rsplit("/", 1)[-1]
            found[relation.get("Id") or ""] = (kind, place)
        return found

    def main_part(self, usual: str) -> str:
        """Returns the name of the part that holds the document."""
        for kind, name in self.relations("").values():
            if kind == "officeDocument" and self.holds(name):
                return name
        for name, kind in self._content_types().items():
            if ".main+xml" in kind and self.holds(name):
                return name
        return usual

    def content_type(self, name: str) -> str:
        """Returns the type of a part: its own, else that of its suffix, else ""."""
        types = self._content_types()
        return types.get(self._plain(name)) or types.get(posixpath.splitext(name)[1].lower(), "")

    def _content_types(self) -> dict[str, str]:
        """Returns the name of a part, or a suffix such as `.xml` -> its type."""
        tree = self.xml("[Content_Types].xml")
        found: dict[str, str] = {}
        for entry in tree.iter() if tree is not None else ():
            own = (entry.get("PartName") or "").lstrip("/") or f".{entry.get('Extension') or ''}"
            if entry.tag in (f"{_TYPES}Override", f"{_TYPES}Default"):
                found[self._plain(own)] = entry.get("ContentType") or ""
        return found

    def title(self) -> str:
        """Returns the title of the file's properties."""
        tree = self.xml("docProps/core.xml")
        found = None if tree is None else tree.findtext(f"{DC}title")
        return found or ""
