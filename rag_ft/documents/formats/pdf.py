"""Reads PDF files with pypdfium2, the PDF library of Chromium."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rag_ft.documents.formats.cleaning import is_program_title
from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Content, UnreadableError
from rag_ft.documents.formats.ocr import page_text
from rag_ft.documents.formats.pdf_fields import fields_of
from rag_ft.documents.formats.pdf_layout import (
    MIN_COLUMN_CHARS,
    Line,
    blocks_of_pages,
    in_reading_order,
    place_fields,
)
from rag_ft.documents.formats.text import content_of_text

# A page with fewer characters has no text layer: it is a scan.
MIN_PAGE_CHARS = 1
# Where a larger share of the characters has no meaning, the letters of the page cannot be told.
MAX_UNKNOWN_SHARE = 0.2
_UNKNOWN = re.compile("[\ufffd\uffff\ue000-\uf8ff\x00-\x01\x03-\x08\x0e-\x1f]")
# PDFium writes one of these for a hyphen at the end of a line and the line break after it.
_HYPHENS = ("\ufffe", "\x02")
_LINE = re.compile("(?P<said>[^\r\n\ufffe\x02]*)(?P<end>\r\n?|\n|\ufffe|\x02|\\Z)")
# Lam-alef with any alef, and the name of God, turned round.
_TURNED_LIGATURE = re.compile("[\u0622\u0623\u0625\u0627\u0671]\u0644|\u0647\u0644\u0644\u0627?")
# The characters of a page that are looked at, and the fewest letters that tell a language.
MAX_SAMPLE, MIN_LETTERS = 500, 12
# Two in five letters of English are vowels, and fewer than one in five of a wrong font.
MIN_VOWELS = 0.2
_GUESSED = "\ufffd"
_ROOT = re.compile(rb"(\d{1,9})\s+0\s+obj\s*<<[^<>]{0,200}?/Type\s*/Catalog\b")
# Why a page has no text.
_SCAN = "no text layer; a scan?"
_LETTERS = "the font does not say which letters it shows; run OCR"
# A blank between columns (points).
MIN_GAP = 10.0
# The weight of a font, from 100 to 900.
BOLD = 600


def read_pdf(raw: bytes, *, ocr: bool = False) -> Content:
    """Returns headings, paragraphs, list items and footnotes with their pages.

    Lines and broken words are joined, also over pages; running heads and page numbers that repeat
    are left out; filled form fields and notes stand after their labels. Pages that cannot be read
    are noted, also those without text: they may be scans, whose text is recognised with `ocr`. The
    metadata are {num_pages}.

    Raises:
        UnreadableError: "corrupt"; "encrypted" where an empty password does not open the file;
            "empty" where no page has text; "not text" where the letters of all pages are unknown.
    """
    import pypdfium2

    try:
        document = _opened(raw)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise UnreadableError(
                "encrypted", "password required; save the PDF without one"
            ) from error
        raise UnreadableError("corrupt", f"PDF: {error}") from error
    try:
        document.init_forms()
        return _read(document, ocr=ocr)
    except (pypdfium2.PdfiumError, *MALFORMED_FILE_ERRORS) as error:
        raise UnreadableError("corrupt", f"PDF: {str(error) or type(error).__name__}") from error
    finally:
        document.close()


def _opened(raw: bytes) -> Any:
    """Opens a file; one that is cut off has lost the entry that names its root."""
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError:
        root = _ROOT.search(raw)
        if root is None or b"/Root" in raw or b"/Encrypt" in raw:
            raise
        return pypdfium2.PdfDocument(raw + b"\nendobj\ntrailer<</Root %b 0 R>>\n%%%%EOF" % root[1])


def _read(document: Any, *, ocr: bool) -> Content:
    pages: list[list[Line]] = []
    scans: dict[int, str] = {}  # page -> the text that was recognised
    notes: list[tuple[str, str]] = []
    num_pages = len(document)
    for number in range(1, num_pages + 1):
        lines: list[Line] = []
        try:
            lines = _page_lines(document[number - 1], number)
            reason = _unreadable(lines)
            if reason and ocr:
                scans[number] = page_text(document[number - 1])
                reason = "" if scans[number] else _SCAN
        except (RuntimeError, *MALFORMED_FILE_ERRORS) as error:
            reason = f"damaged: {str(error)[:100]}"
        if reason:
            notes.append((f"page {number}", reason))
        pages.append([] if reason or number in scans else lines)
    if not any(pages) and not any(scans.values()):
        reasons = {reason for _, reason in notes}
        if _LETTERS in reasons:
            raise UnreadableError("not text", _LETTERS)
        if reasons and _SCAN not in reasons:
            raise UnreadableError("corrupt", f"PDF: {notes[0][1]}")
        raise UnreadableError("empty", "no text layer; if the pages are scanned, run OCR first")
    title = (document.get_metadata_value("Title") or "").strip()
    blocks = blocks_of_pages(pages)
    for number, text in scans.items():
        found = [replace(block, page=number) for block in content_of_text(text).blocks]
        at = next((n for n, b in enumerate(blocks) if (b.page or 0) > number), len(blocks))
        blocks[at:at] = found
    if is_program_title(title):
        first = next(
            (b for b in blocks if b.kind == "heading" and b.level == 1 and b.page == 1), None
        )
        title = "" if first is None else " ".join(first.text.split())
    return Content(title, blocks, {"num_pages": num_pages}, notes)


def _unreadable(lines: list[Line]) -> str:
    """Returns why the text of a page is none; "" where it is text."""
    text = "".join(line.text for line in lines)
    if len(text.strip()) < MIN_PAGE_CHARS:
        return _SCAN
    return _LETTERS if len(_UNKNOWN.findall(text)) > MAX_UNKNOWN_SHARE * len(text) else ""


def _page_lines(page: Any, number: int) -> list[Line]:
    """Returns the lines of a page in the order of the file, with the values of its fields."""
    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    text = text_page.get_text_range()
    if _is_guessed(text_page, text):
        return [Line(_GUESSED * len(text), 0, 0, 0, 0, 1, False, number, 1)]
    handle, height = text_page.raw, page.get_height()
    box = [ctypes.c_double() for _ in range(4)]

    def corner(place: int) -> tuple[int, float, float, float, float]:
        index = pdfium.FPDFText_GetCharIndexFromTextIndex(handle, place)
        pdfium.FPDFText_GetCharBox(handle, index, *map(ctypes.byref, box))
        left, right, bottom, top = (value.value for value in box)
        return index, left, right, bottom, top

    text = _with_ligatures(text, corner)
    lines: list[Line] = []
    gaps: list[list[tuple[float, float, int]]] = []
    for match in _LINE.finditer(text):
        bare = match["said"].strip()
        if not bare:
            continue
        start = match.start() + len(match["said"]) - len(match["said"].lstrip())
        index, left, first_right, first_bottom, first_top = corner(start)
        _, _, right, bottom, top = corner(start + len(bare) - 1)
        size = round(pdfium.FPDFText_GetFontSize(handle, index), 1)
        lines.append(
            Line(
                bare + ("-" if match["end"] in _HYPHENS else ""),
                left,
                max(right, first_right),
                min(bottom, first_bottom),
                max(top, first_top),
                size,
                _is_bold(handle, index),
                number,
                height,
            )
        )
        # Blanks that are much wider than a space.
        found = []
        if len(bare) > 2 * MIN_COLUMN_CHARS:
            for blank in re.finditer(r"(?<=\S) +(?=\S)", bare):
                end, begin = corner(start + blank.start() - 1)[2], corner(start + blank.end())[1]
                if begin - end > max(size, MIN_GAP):
                    found.append((end, begin, blank.start()))
        gaps.append(found)
    return place_fields(in_reading_order(lines, gaps), fields_of(page, number))


def _with_ligatures(text: str, box_of: Callable[[int], tuple[float, ...]]) -> str:
    """Returns the text with the letters of Arabic ligatures in their order.

    PDFium turns a line from right to left letter by letter, so that it also turns the letters that
    one sign shows: they have the same box. `box_of` tells that of a place in the text."""

    def turned(match: re.Match[str]) -> str:
        boxes = {box_of(place)[1:3] for place in range(*match.span())}
        return match[0][::-1] if len(boxes) == 1 else match[0]

    return _TURNED_LIGATURE.sub(turned, text)


def _is_guessed(text_page: Any, text: str) -> bool:
    """Whether most letters of a page are guessed, wrongly: the font does not say which letter a
    code shows, and the codes taken as letters make no words of any language with Latin letters."""
    import pypdfium2.raw as pdfium

    sample = min(text_page.count_chars(), MAX_SAMPLE)
    errors = (pdfium.FPDFText_HasUnicodeMapError(text_page.raw, n) == 1 for n in range(sample))
    if 2 * sum(errors) <= sample:
        return False
    shown = [c for c in text[:sample] if not c.isspace()]
    letters = [c for c in shown if "a" <= c.lower() <= "z"]
    vowels = sum(c.lower() in "aeiouy" for c in letters)
    few_letters = sum(map(str.isalnum, shown)) < 0.4 * len(shown)
    return few_letters or (len(letters) >= MIN_LETTERS and vowels < MIN_VOWELS * len(letters))


def _is_bold(handle: Any, index: int) -> bool:
    """Whether a character is printed bold, by the weight or the name of its font."""
    import pypdfium2.raw as pdfium

    if pdfium.FPDFText_GetFontWeight(handle, index) >= BOLD:
        return True
    name = ctypes.create_string_buffer(100)
    pdfium.FPDFText_GetFontInfo(handle, index, name, len(name), None)
    return b"bold" in name.value.lower()
