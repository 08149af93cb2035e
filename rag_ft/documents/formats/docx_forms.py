"""What stands in the forms and drawings of Word files and is no run of text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from rag_ft.documents.formats.alt_text import alt_text
from rag_ft.documents.formats.docx_styles import W

_W14 = "{http://schemas.microsoft.com/office/word/2010/wordml}"
_VML = "{urn:schemas-microsoft-com:vml}"
TICKED, NOT_TICKED = "[x]", "[ ]"
_FALSE = ("0", "false", "off")
# What says in the field of an equation how it is drawn.
_SWITCH = re.compile(r"\\\*\s*(?:\"[^\"]*\"|\S+)|\\[a-z]+\s*\d*", re.IGNORECASE)


def check_box(control: ElementTree.Element) -> str:
    """Returns the state of a content control that is a check box; else "". Its own character is
    unknown to most encoders."""
    box = control.find(f"{W}sdtPr/{_W14}checkbox")
    if box is None:
        return ""
    checked = box.find(f"{_W14}checked")
    state = "0" if checked is None else checked.get(f"{_W14}val", "1")
    return NOT_TICKED if state in _FALSE else TICKED


def field_state(mark: ElementTree.Element) -> str:
    """Returns the state of a check box or of a list to choose from, as older Word files hold them
    at the beginning of a field; else ""."""
    box, choices = mark.find(f"{W}ffData/{W}checkBox"), mark.find(f"{W}ffData/{W}ddList")
    if box is not None:
        checked = box.find(f"{W}checked")
        found = box.find(f"{W}default") if checked is None else checked
        is_ticked = found is not None and found.get(f"{W}val", "1") not in _FALSE
        return TICKED if is_ticked else NOT_TICKED
    if choices is None:
        return ""
    entries = [entry.get(f"{W}val", "") for entry in choices.iter(f"{W}listEntry")]
    result = choices.find(f"{W}result")
    chosen = "0" if result is None else result.get(f"{W}val", "0")
    return entries[int(chosen)] if chosen.isdecimal() and int(chosen) < len(entries) else ""


def equation_field(instruction: str) -> str:
    """Returns the equation that the instruction of a field holds, as older Word files have them:
    `(a+1,b)` for `EQ \\f(a+1,b)`; else ""."""
    words = instruction.split(None, 1)
    if len(words) < 2 or words[0].upper() != "EQ":
        return ""
    return " ".join(_SWITCH.sub("", words[1]).split())


def picture_text(drawing: ElementTree.Element) -> str:
    """Returns what is said in words about the pictures of a drawing, with blanks around it."""
    said = dict.fromkeys(
        alt_text(node.get("alt" if node.tag.startswith(_VML) else "descr"))
        for node in drawing.iter()
        if node.tag.endswith(("}docPr", "}cNvPr")) or node.tag == f"{_VML}shape"
    )
    return "".join(f" {text} " for text in said if text)
