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
    ElementTree.ParseError,
    NotImplementedError,
    *MALFORMED_FILE_ERRORS,
)
_RELATION = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_OVERRIDE = "{http://schemas.openxmlformats.org/package/2006/content-types}Override"
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

    def read(self, name: str) -> bytes:
        """Returns a part as bytes."""
        return self._zip.read(name)

    def xml(self, name: str) -> ElementTree.Element | None:
        """Returns a part as a tree, with the usual namespaces; None where there is no such part."""
        if name not in self.names():
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
            if kind == "officeDocument" and name in self.names():
                return name
        types = self.xml("[Content_Types].xml")
        for override in types.iter(_OVERRIDE) if types is not None else ():
            name = (override.get("PartName") or "").lstrip("/")
            if ".main+xml" in (override.get("ContentType") or "") and name in self.names():
                return name
        return usual

    def title(self) -> str:
        """Returns the title of the file's properties."""
        tree = self.xml("docProps/core.xml")
        found = None if tree is None else tree.findtext("{http://purl.org/dc/elements/1.1/}title")
        return found or ""
