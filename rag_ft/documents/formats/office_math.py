"""Equations of Office files as text, in the order in which they are read."""

from __future__ import annotations

from xml.etree import ElementTree

from rag_ft.documents.formats.docx_styles import W
from rag_ft.documents.formats.scripts import power

M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"


def equation_text(element: ElementTree.Element) -> str:
    """Returns an equation: `x^2`, `(a + b)/2`, `√(x)`; what has no form of its own as its parts."""
    name = element.tag.removeprefix(M)
    if element.tag in (f"{M}t", f"{W}t"):
        return element.text or ""

    def part(which: str) -> str:
        found = element.find(f"{M}{which}")
        return "" if found is None else equation_text(found)

    if name == "sSup":
        return power(part("e"), part("sup"))
    if name == "sSub":
        return power(part("e"), part("sub"), "_")
    if name == "sSubSup":
        return power(power(part("e"), part("sub"), "_"), part("sup"))
    if name == "f":
        over, under = (p if p.isalnum() else f"({p})" for p in (part("num"), part("den")))
        return f"{over}/{under}"
    if name == "rad":
        # The degree stands before the sign, as in ³√.
        return f"{part('deg')}√({part('e')})"
    if name == "func":
        return f"{part('fName').strip()} {part('e')}"
    if name in ("limLow", "limUpp"):
        return power(part("e"), part("lim"), "_" if name == "limLow" else "^")
    if name == "nary":
        sign = element.find(f"{M}naryPr/{M}chr")
        symbol = "∫" if sign is None else sign.get(f"{M}val", "")
        bounds = "".join(
            f"{mark}{text}" for mark, text in (("_", part("sub")), ("^", part("sup"))) if text
        )
        return f"{symbol}{bounds} {part('e')}"
    if name == "d":
        properties = element.find(f"{M}dPr")
        opening, closing = (
            _value(properties, which, usual) for which, usual in (("begChr", "("), ("endChr", ")"))
        )
        inside = ", ".join(equation_text(child) for child in element.findall(f"{M}e"))
        return f"{opening}{inside}{closing}"
    if name == "eqArr":
        return "; ".join(equation_text(child) for child in element.findall(f"{M}e"))
    if name == "mr":
        return "; ".join(equation_text(child) for child in element.findall(f"{M}e")) + "\n"
    return "".join(equation_text(child) for child in element)


def _value(parent: ElementTree.Element | None, name: str, usual: str) -> str:
    found = None if parent is None else parent.find(f"{M}{name}")
    return usual if found is None else found.get(f"{M}val", usual)
