"""Formulas of MathML as text: its TeX where the page has it, else its parts in order."""

from __future__ import annotations

import re
from typing import Any

from rag_ft.documents.formats.scripts import power

# How blogs and older wikis mark the pictures of their formulas.
_TEX_PICTURE = re.compile(r"(?:^|\s)(?:tex|latex|math)(?:\s|$)")
_TEX = ("application/x-tex", "latex", "tex")


def formula_of(node: Any) -> str | None:
    """Returns a formula once, for an element of selectolax that holds one: `math`, the TeX that
    MathJax draws, or a picture of TeX; None for every other element.

    `<msup><mi>x</mi><mn>2</mn></msup>` becomes `x^2`, a fraction `(a)/(b)`.
    """
    if node.tag == "script":
        is_tex = (node.attributes.get("type") or "").lower().startswith("math/tex")
        return _unstyled(node.text() or "") if is_tex else None
    if node.tag == "img":
        is_tex = _TEX_PICTURE.search(node.attributes.get("class") or "") is not None
        return _unstyled(node.attributes.get("alt") or "") if is_tex else None
    if node.tag != "math":
        return None
    for found in node.css("annotation"):
        if (found.attributes.get("encoding") or "").lower() in _TEX:
            return _unstyled(found.text_content or found.text() or "")
    return _unstyled(node.attributes.get("alttext") or "") or _linear(node, 0)


def _unstyled(tex: str) -> str:
    tex = re.sub(r"^\{\\displaystyle\s*(.*)\}$", r"\1", tex.strip(), flags=re.DOTALL)
    return " ".join(tex.split())


def _linear(node: Any, depth: int) -> str:
    name = node.tag or "-"
    if name == "-text":
        return " ".join((node.text_content or "").split())
    if name.startswith("-") or name in ("annotation", "annotation-xml") or depth > 100:
        return ""
    parts = [
        _linear(child, depth + 1)
        for child in node.iter(include_text=True)
        if child.tag != "-comment"
    ]
    parts = [part for part in parts if part]
    if name in ("msup", "mover") and len(parts) == 2:
        return power(parts[0], parts[1])
    if name in ("msub", "munder") and len(parts) == 2:
        return power(parts[0], parts[1], "_")
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return power(power(parts[0], parts[1], "_"), parts[2])
    if name == "mfrac" and len(parts) == 2:
        numerator, denominator = (p if p.isalnum() else f"({p})" for p in parts)
        return f"{numerator}/{denominator}"
    if name == "msqrt":
        return f"√({''.join(parts)})"
    if name == "mo" and parts and re.fullmatch(r"[=+<>≤≥±×·−-]", parts[0]):
        return f" {parts[0]} "
    if name == "mtr":
        return "; ".join(parts)
    return "".join(parts)
