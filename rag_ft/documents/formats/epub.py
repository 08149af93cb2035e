"""Reads EPUB books with the standard library: chapters of XHTML in a zip."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from rag_ft.documents.formats.content import Block, Content, UnreadableError
from rag_ft.documents.formats.html import blocks_of_fragment, read_html
from rag_ft.documents.formats.package import DC, Package

_CONTAINER = "{urn:oasis:names:tc:opendocument:xmlns:container}"
_OPF = "{http://www.idpf.org/2007/opf}"


def read_epub(raw: bytes) -> Content:
    """Returns the authors of the book, what it says about itself, and its chapters in their order,
    without the table of contents.

    The title is that of the book. A chapter that cannot be read is noted.

    Raises:
        UnreadableError: "corrupt", "encrypted" for a book with copy protection, or "too large".
    """
    blocks: list[Block] = []
    notes: list[tuple[str, str]] = []
    with Package(raw, "EPUB book") as package:
        if "META-INF/rights.xml" in package.names():
            raise UnreadableError("encrypted", "the book has copy protection")
        container = package.xml("META-INF/container.xml")
        found = None if container is None else container.find(f".//{_CONTAINER}rootfile")
        place = "" if found is None else found.get("full-path", "")
        book = package.xml(place)
        if book is None:
            raise UnreadableError("corrupt", "EPUB book: it has no list of chapters")
        items = {item.get("id"): item for item in book.iter(f"{_OPF}item")}
        title = book.findtext(f".//{DC}title") or ""
        authors = [" ".join((e.text or "").split()) for e in book.iter(f"{DC}creator")]
        blocks.append(Block("paragraph", "; ".join(filter(None, authors))))
        for about in book.iter(f"{DC}description"):
            blocks += blocks_of_fragment(about.text or "")
        for reference in book.iter(f"{_OPF}itemref"):
            item = items.get(reference.get("idref"))
            if item is None or "nav" in (item.get("properties") or "").split():
                continue
            name = posixpath.normpath(
                posixpath.join(posixpath.dirname(place), unquote(item.get("href", "")))
            )
            if "html" not in (item.get("media-type") or ""):
                continue
            try:
                blocks += read_html(package.read(name)).blocks
            except (UnreadableError, KeyError) as error:
                notes.append((f"chapter {name}", str(error)))
    return Content(title, blocks, notes=notes)
