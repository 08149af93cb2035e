"""Reads a file with a program of the user: docling, marker, or one of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.markdown import content_of_markdown

# In the command this stands for the file; without it the file is the last argument.
PLACE = "{file}"


def read_external(path: Path, command: Sequence[str]) -> Content:
    """Returns what the program writes to its standard output, which is Markdown.

    The worker around it limits its time.

    Raises:
        UnreadableError: "parser failed", with the last line of its errors.
    """
    parts = [str(path) if part == PLACE else part for part in command]
    if PLACE not in command:
        parts.append(str(path))
    try:
        done = subprocess.run(parts, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise UnreadableError("parser failed", f"{parts[0]}: {error.strerror or error}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        detail = said[-1][:200] if said else f"exit code {done.returncode}"
        raise UnreadableError("parser failed", f"{parts[0]}: {detail}")
    return content_of_markdown(decode(done.stdout)) if done.stdout.strip() else Content("", [])
