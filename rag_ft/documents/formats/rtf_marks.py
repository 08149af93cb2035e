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
    closers: list[str] = []  # what is written behind each open group
    outer: list[str] = []  # how the text before each open group is raised
    raised = ""  # the word that raises the text at hand
    at = 0
    for match in _TOKEN.finditer(text):
        word = match["word"]
        if match[0] == "{":
            closers.append("")
            outer.append(raised)
            raised = ""
        elif match[0] == "}" and closers:
            parts += [text[at : match.start()], END if raised else "", closers.pop()]
            at, raised = match.start(), outer.pop()
        elif word in _RAISED and match["number"] != "0":
            parts += [text[at : match.end()], END if raised else "", _RAISED[word]]
            at, raised = match.end(), word
        elif raised and (word in _ENDS_RAISED or word in _RAISED):
            parts += [text[at : match.start()], END]
            at, raised = match.start(), ""
        elif word in _READ and closers:
            parts.append(text[at : match.start()].removesuffix("\\*"))
            at = match.end()
            if word == "footnote":
                parts.append(" [")
                closers[-1] = "]"
    return "".join([*parts, text[at:]])
