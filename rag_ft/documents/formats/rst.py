"""Reads reStructuredText with docutils."""

from __future__ import annotations

import re

from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.html import content_of_html

# Nothing is included, executed or fetched, and faults of the markup are no text of the document.
_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "warning_stream": False,
    "stylesheet_path": "",
    "embed_stylesheet": False,
    "_disable_config": True,
    "initial_header_level": 1,
    "doctitle_xform": False,
    "syntax_highlight": "none",
    "math_output": "LaTeX",
    "smart_quotes": False,
    "line_length_limit": 1_000_000,
}


def read_rst(raw: bytes) -> Content:
    """Returns headings, paragraphs, lists, tables, code and footnotes; directives and roles that
    docutils does not know, such as those of Sphinx, keep their text where they can.

    Raises:
        UnreadableError: "not text", or "corrupt".
    """
    import docutils.core
    from docutils.utils import SystemMessage

    try:
        parts = docutils.core.publish_parts(
            _plain_roles(decode(raw)), writer="html5", settings_overrides=_SETTINGS
        )
    except (SystemMessage, RecursionError, ValueError, AttributeError, LookupError) as error:
        raise UnreadableError("corrupt", f"reStructuredText: {error}") from error
    return content_of_html(parts["html_body"])


def _plain_roles(text: str) -> str:
    """Replaces roles by their text, and the directives of Sphinx that hold text by that text."""
    # Raised text keeps its role, which docutils knows.
    role = r":(?!(?:sup|sub)(?:erscript|script)?:)[a-zA-Z][\w:+.-]*:"
    text = re.sub(rf"{role}`([^`<]*?)\s*(?:<[^`>]*>)?`", r"``\1``", text)
    known = r"(?:toctree|index|module|currentmodule|automodule|autoclass|autofunction|highlight)"
    return re.sub(rf"^\.\. {known}::.*(?:\n[ \t]+.*|\n(?=\n[ \t]))*", "", text, flags=re.MULTILINE)
