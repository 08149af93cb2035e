"""What stands on a PDF page beside its text: filled form fields and free notes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from rag_ft.documents.formats.pdf_layout import Line

_WIDGET = 20
# Notes, texts on the page and comments on a part of it: shapes, marked text, stamps.
_COMMENTS = frozenset((1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
_CHECK_BOX, _RADIO_BUTTON, _COMBO_BOX, _LIST_BOX = 2, 3, 4, 5
# A button and a signature hold no text.
_NO_TEXT = (1, 7)
_MARKUP = re.compile(r"<[^<>]{0,500}>")


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
        unseen = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
        if pdfium.FPDFAnnot_GetFlags(note) & unseen:
            pass
        elif kind in _COMMENTS:
            text = _entry(note, b"Contents") or _MARKUP.sub(" ", _entry(note, b"RC"))
        elif kind == _WIDGET:
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


def _entry(note: Any, name: bytes) -> str:
    import pypdfium2.raw as pdfium

    return _string(lambda b, n: pdfium.FPDFAnnot_GetStringValue(note, name, b, n))


def _value(form: Any, note: Any) -> str:
    import pypdfium2.raw as pdfium

    if form is None:
        # A page may show fields that the file lists in no form.
        return _entry(note, b"V")
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, note)
    if kind in (_CHECK_BOX, _RADIO_BUTTON):
        if not pdfium.FPDFAnnot_IsChecked(form, note):
            return ""
        name = _string(lambda b, n: pdfium.FPDFAnnot_GetFormFieldExportValue(form, note, b, n))
        return f"[x] {name}".strip()
    if kind in _NO_TEXT:
        return ""
    if kind in (_COMBO_BOX, _LIST_BOX):
        count = pdfium.FPDFAnnot_GetOptionCount(form, note)
        chosen = [
            _string(partial(pdfium.FPDFAnnot_GetOptionLabel, form, note, at))
            for at in range(count)
            if pdfium.FPDFAnnot_IsOptionSelected(form, note, at)
        ]
        if chosen:
            return ", ".join(chosen)
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
