"""What stands on a PDF page beside its text: filled form fields and free notes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from rag_ft.documents.formats.pdf_layout import Line

_FREE_TEXT, _NOTE, _WIDGET = 3, 1, 20
_CHECK_BOX, _RADIO_BUTTON = 2, 3
# A button and a signature hold no text.
_NO_TEXT = (1, 7)


def fields_of(page: Any, number: int) -> list[Line]:
    """Returns the values of text and choice fields, ticked boxes as `[x]`, and the texts of notes,
    each at its place on the page."""
    import pypdfium2.raw as pdfium

    form = page.formenv.raw if page.formenv is not None else None
    found: list[Line] = []
    height = page.get_height()
    for index in range(pdfium.FPDFPage_GetAnnotCount(page.raw)):
        note = pdfium.FPDFPage_GetAnnot(page.raw, index)
        if not note:
            continue
        kind = pdfium.FPDFAnnot_GetSubtype(note)
        text = ""
        if kind in (_FREE_TEXT, _NOTE):
            text = _contents(note)
        elif kind == _WIDGET and form is not None:
            text = _value(form, note)
        rect = pdfium.FS_RECTF()
        if text.strip() and pdfium.FPDFAnnot_GetRect(note, rect):
            found.append(
                Line(
                    " ".join(text.split()), rect.left, rect.right, rect.bottom, rect.top,
                    0.0, False, number, height, is_field=kind == _WIDGET,
                )
            )  # fmt: skip
        pdfium.FPDFPage_CloseAnnot(note)
    return found


def _contents(note: Any) -> str:
    import pypdfium2.raw as pdfium

    return _string(lambda b, n: pdfium.FPDFAnnot_GetStringValue(note, b"Contents", b, n))


def _value(form: Any, note: Any) -> str:
    import pypdfium2.raw as pdfium

    kind = pdfium.FPDFAnnot_GetFormFieldType(form, note)
    if kind in (_CHECK_BOX, _RADIO_BUTTON):
        if not pdfium.FPDFAnnot_IsChecked(form, note):
            return ""
        name = _string(lambda b, n: pdfium.FPDFAnnot_GetFormFieldExportValue(form, note, b, n))
        return f"[x] {name}".strip()
    if kind in _NO_TEXT:
        return ""
    return _string(lambda b, n: pdfium.FPDFAnnot_GetFormFieldValue(form, note, b, n))


def _string(read: Callable[[Any, int], int]) -> str:
    """Calls a function of PDFium twice: for the number of bytes, and for the text in UTF-16."""
    import pypdfium2.raw as pdfium

    size = read(None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    read(ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return buffer.raw[:size].decode("utf-16-le", "replace").rstrip("\0")
