"""What striprtf leaves out of RTF files: raised text, the numbers of items, footnotes."""

from __future__ import annotations

import re

from rag_ft.documents.formats.scripts import END, SUB, SUP

_TOKEN = re.compile(
    r"\\(?P<word>[a-z]{1,32})(?P<number>-?\d{1,10})?[ ]?|\\'[0-9a-fA-F]{2}|\\[^a-z]|[{}]"
)
_RAISED = {"super": SUP, "sub": SUB}
_ENDS_RAISED = ("nosupersub", "plain", "pard")
# Groups that hold text to be read; striprtf takes them for settings.
_READ = ("pntext", "footnote")


def with_marks(text: str) -> str:
    """Returns an RTF file in which raised text stands between marks, and in which footnotes, in
    brackets, and the numbers of items are ordinary text."""
    if not re.search(r"\\(?:super|sub|pntext|footnote)(?![a-z])", text):
        return text
    parts: list[str] = []
    # For each open group whether it raised its text, and what closes it.
    groups: list[str] = []
    raised = ""
    outer: list[str] = []
    at = 0
    for match in _TOKEN.finditer(text):
        word = match["word"]
        if match[0] == "{":
            groups.append("")
            outer.append(raised)
            raised = ""
        elif match[0] == "}" and groups:
            parts += [text[at : match.start()], END if raised else "", groups.pop()]
            at, raised = match.start(), outer.pop()
        elif word in _RAISED and match["number"] != "0":
            parts += [text[at : match.end()], END if raised else "", _RAISED[word]]
            at, raised = match.end(), word
        elif raised and (word in _ENDS_RAISED or word in _RAISED):
            parts += [text[at : match.start()], END]
            at, raised = match.start(), ""
        elif word in _READ and groups:
            parts.append(text[at : match.start()].removesuffix("\\*"))
            at = match.end()
            if word == "footnote":
                parts.append(" [")
                groups[-1] = "]"
    return "".join([*parts, text[at:]])
