"""Reads reStructuredText with docutils."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, ClassVar

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


_DIRECTIVE = re.compile(r"^[ \t]*\.\.[ ]([a-zA-Z][\w.:+-]{0,60}?)::", re.MULTILINE)


def read_rst(raw: bytes) -> Content:
    """Returns headings, paragraphs, lists, tables, code and footnotes; directives and roles that
    docutils does not know, such as those of Sphinx, keep their text where they can.

    Raises:
        UnreadableError: "not text", or "corrupt".
    """
    import docutils.core
    from docutils.utils import SystemMessage

    text = _plain_roles(decode(raw))
    _know_directives(text)
    try:
        parts = docutils.core.publish_parts(text, writer="html5", settings_overrides=_SETTINGS)
    except (SystemMessage, RecursionError, ValueError, AttributeError, LookupError) as error:
        raise UnreadableError("corrupt", f"reStructuredText: {error}") from error
    return content_of_html(parts["html_body"])


def _know_directives(text: str) -> None:
    """Has docutils read the directives that it does not know, such as those of Sphinx, as the text
    that they hold, and code with options of Sphinx as code."""
    from docutils import nodes
    from docutils.parsers.rst import Directive, directives
    from docutils.parsers.rst.directives.body import CodeBlock
    from docutils.parsers.rst.languages import en

    class Unknown(Directive):
        optional_arguments, final_argument_whitespace, has_content = 100, True, True
        option_spec: ClassVar[Any] = defaultdict(lambda: directives.unchanged, {"name": str})

        def run(self) -> list[nodes.Node]:
            said = " ".join(self.arguments)
            inside = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, inside)
            return [*([nodes.paragraph(text=said)] if said else []), *inside.children]

    class Code(CodeBlock):
        option_spec: ClassVar[Any] = defaultdict(lambda: str, CodeBlock.option_spec)

    for name in ("code", "code-block", "sourcecode"):
        directives.register_directive(name, Code)
    for name in {match[1].lower() for match in _DIRECTIVE.finditer(text)}:
        if en.directives.get(name, name) not in directives._directive_registry:
            directives.register_directive(name, Unknown)


def _plain_roles(text: str) -> str:
    """Replaces roles by their text, and the directives of Sphinx that hold text by that text."""
    # Raised text keeps its role, which docutils knows.
    role = r":(?!(?:sup|sub)(?:erscript|script)?:)[a-zA-Z][\w:+.-]*:"
    role = rf"{role}`([^`<]*)(?:<[^`>]*>)?`"
    text = re.sub(role, lambda match: f"``{match[1].rstrip()}``", text)
    known = r"(?:toctree|index|module|currentmodule|automodule|autoclass|autofunction|highlight)"
    return re.sub(rf"^\.\. {known}::.*(?:\n[ \t]+.*|\n(?=\n[ \t]))*", "", text, flags=re.MULTILINE)
