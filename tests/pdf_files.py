"""PDF files for tests, with text, form fields and notes at given places."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any


def pdf_of(
    pages: Sequence[Sequence[tuple[float, float, float, str]]],
    title: str = "",
    fields: Sequence[dict[str, Any]] = (),
    fonts: Sequence[str] = ("Helvetica", "Helvetica-Bold"),
) -> bytes:
    """A PDF whose pages show (left, bottom, size, text) in Helvetica, in this order.

    Bold text begins with `*`. `fields` are dictionaries of annotations on the first page; those
    with /FT are form fields.
    """
    from pypdf import PdfWriter
    from pypdf.generic import (
        ArrayObject,
        DecodedStreamObject,
        DictionaryObject,
        NameObject,
    )

    writer = PdfWriter()
    named = DictionaryObject()
    for number, name in enumerate(fonts, 1):
        entries = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": f"/{name}"}
        entries["/Encoding"] = "/WinAnsiEncoding"
        font = DictionaryObject({NameObject(k): NameObject(v) for k, v in entries.items()})
        named[NameObject(f"/F{number}")] = writer._add_object(font)
    for shown in pages:
        page = writer.add_blank_page(612, 792)
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): named})
        content = DecodedStreamObject()
        drawn = []
        for left, bottom, size, text in shown:
            bold = text.startswith("*")
            plain = text.removeprefix("*").replace("\\", "\\\\").replace("(", "\\(")
            plain = plain.replace(")", "\\)")
            drawn.append(f"BT /F{2 if bold else 1} {size} Tf {left} {bottom} Td ({plain}) Tj ET")
        content.set_data("\n".join(drawn).encode("cp1252"))
        page[NameObject("/Contents")] = writer._add_object(content)
    if fields:
        found = [writer._add_object(_object(field)) for field in fields]
        writer.pages[0][NameObject("/Annots")] = ArrayObject(found)
        form = {"/Fields": [f for f, d in zip(found, fields, strict=True) if "/FT" in d]}
        writer._root_object[NameObject("/AcroForm")] = _object(form)
    if title:
        writer.add_metadata({"/Title": title})
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def widget(kind: str, rect: tuple[int, int, int, int], **entries: Any) -> dict[str, Any]:
    """A form field of a kind (/Tx, /Ch or /Btn) with entries such as V="value"."""
    return {
        "/Type": "/Annot",
        "/Subtype": "/Widget",
        "/FT": kind,
        "/Rect": list(rect),
        **{f"/{name}": value for name, value in entries.items()},
    }


def _object(value: Any) -> Any:
    from pypdf.generic import (
        ArrayObject,
        DictionaryObject,
        NameObject,
        NumberObject,
        PdfObject,
        TextStringObject,
    )

    if isinstance(value, PdfObject):
        return value
    if isinstance(value, dict):
        return DictionaryObject({NameObject(k): _object(v) for k, v in value.items()})
    if isinstance(value, list):
        return ArrayObject([_object(v) for v in value])
    if isinstance(value, int):
        return NumberObject(value)
    return NameObject(value) if value.startswith("/") else TextStringObject(value)


def pdf_in_codes(codes: str, ordering: str, encoding: str) -> bytes:
    """A PDF of one line in a font that does not say which letters its codes (in hexadecimal) show,
    unless `ordering` and `encoding` name a known set."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, NameObject

    writer = PdfWriter()
    page = writer.add_blank_page(612, 792)
    system = {"/Registry": "Adobe", "/Ordering": ordering, "/Supplement": 0}
    base = {"/Type": "/Font", "/BaseFont": "/ABCDEF+Odd"}
    descendant = writer._add_object(
        _object({**base, "/Subtype": "/CIDFontType2", "/CIDSystemInfo": system})
    )
    font = {**base, "/Subtype": "/Type0", "/Encoding": encoding, "/DescendantFonts": [descendant]}
    page[NameObject("/Resources")] = _object({"/Font": {"/F1": writer._add_object(_object(font))}})
    content = DecodedStreamObject()
    content.set_data(f"BT /F1 12 Tf 72 700 Td <{codes}> Tj ET".encode())
    page[NameObject("/Contents")] = writer._add_object(content)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def pdf_in_letters(shown: str, letters: dict[str, str]) -> bytes:
    """A PDF that draws a word, and says which letters each of its characters stands for."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    rows = [
        f"<{ord(code):02x}> <{said.encode('utf-16-be').hex()}>" for code, said in letters.items()
    ]
    table = DecodedStreamObject()
    table.set_data(
        "/CIDInit /ProcSet findresource begin begincmap /CMapName /X def 1 begincodespacerange "
        f"<00> <ff> endcodespacerange {len(rows)} beginbfchar {' '.join(rows)} endbfchar "
        "endcmap end".encode()
    )
    writer = PdfWriter()
    entries = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(k): NameObject(v) for k, v in entries.items()})
    font[NameObject("/ToUnicode")] = writer._add_object(table)
    fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
    page = writer.add_blank_page(612, 792)
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    content = DecodedStreamObject()
    content.set_data(f"BT /F1 12 Tf 72 700 Td ({shown}) Tj ET".encode())
    page[NameObject("/Contents")] = writer._add_object(content)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
