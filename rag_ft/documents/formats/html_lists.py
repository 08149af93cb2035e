"""The numbers of ordered lists of HTML."""

from __future__ import annotations

import re
from typing import Any

from rag_ft.documents.formats.numerals import numeral

# The types of ordered lists, in `type`, in a style and as docutils writes them, and what they are
# called in `numeral`.
_TYPES = {
    **{"a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"},
    **dict.fromkeys(("lower-alpha", "lower-latin", "loweralpha"), "lowerLetter"),
    **dict.fromkeys(("upper-alpha", "upper-latin", "upperalpha"), "upperLetter"),
    **dict.fromkeys(("lower-roman", "lowerroman"), "lowerRoman"),
    **dict.fromkeys(("upper-roman", "upperroman"), "upperRoman"),
}
_NUMBER = re.compile(r"[+-]?\d{1,9}")


class OrderedList:
    """Counts the items of an element `ol`."""

    def __init__(self, node: Any) -> None:
        attributes = node.attributes
        is_reversed = "reversed" in attributes
        start = (attributes.get("start") or "").strip()
        self.step = -1 if is_reversed else 1
        self.next = sum(child.tag == "li" for child in node.iter()) if is_reversed else 1
        if _NUMBER.fullmatch(start):
            self.next = int(start)
        style = attributes.get("style") or ""
        named = re.search(r"list-style(?:-type)?\s*:\s*([\w-]+)", style)
        names = [attributes.get("type") or "", *(attributes.get("class") or "").split()]
        names += [named[1]] if named else []
        self.form = next((_TYPES[name.strip()] for name in names if name.strip() in _TYPES), "")

    def marker(self, item: Any) -> str:
        """Returns the number of the next item: `4. `, `c. `."""
        value = (item.attributes.get("value") or "").strip()
        number = int(value) if _NUMBER.fullmatch(value) else self.next
        self.next = number + self.step
        return f"{numeral(number, self.form or 'decimal')}. "
