"""Reads RTF files with striprtf."""

from __future__ import annotations

import re

from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Content, UnreadableError
from rag_ft.documents.formats.rtf_marks import with_marks
from rag_ft.documents.formats.scripts import plain_scripts
from rag_ft.documents.formats.text import content_of_text

_TITLE = re.compile(rb"\{\\title ([^{}\\]{1,300})\}")


def read_rtf(raw: bytes) -> Content:
    """Returns the paragraphs, the table rows and, in brackets, the footnotes; the title is that of
    the file's properties.

    Raises:
        UnreadableError: "corrupt".
    """
    from striprtf.striprtf import rtf_to_text

    if not raw.lstrip().startswith(b"{\\rtf"):
        raise UnreadableError("corrupt", "RTF: it does not begin with {\\rtf")
    try:
        # Every byte above 127 is written as an escape, which names its code page.
        marked = with_marks(raw.decode("latin-1"))
        text = plain_scripts(rtf_to_text(marked, errors="replace"))
    except MALFORMED_FILE_ERRORS as error:
        raise UnreadableError("corrupt", f"RTF: {error}") from error
    # A paragraph ends with one newline; cells end with a bar, also the last one of a row.
    text = re.sub(r"(?<![ \t])[ \t]*\|[ \t]*\n", "\n", text).replace("|", " | ")
    lines = [line for line in text.split("\n") if line.strip()]
    parts = [
        line if n == 0 or (" | " in line and " | " in lines[n - 1]) else "\n" + line
        for n, line in enumerate(lines)
    ]
    content = content_of_text("\n".join(parts))
    title = _TITLE.search(raw)
    return Content(title[1].decode("latin-1") if title else content.title, content.blocks)
