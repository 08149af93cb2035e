"""Reads LaTeX with pylatexenc."""

from __future__ import annotations

import re

from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Block, Content, UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.text import content_of_text

_LEVELS = {
    "part": 1,
    "chapter": 1,
    "section": 2,
    "subsection": 3,
    "subsubsection": 4,
    "paragraph": 5,
}
_HEADING = re.compile(
    r"\\(part|chapter|section|subsection|subsubsection|paragraph)\*?\s*(?:\[[^\]]*\])?\{"
)
_TITLE = re.compile(r"\\title\s*(?:\[[^\]]*\])?\{")
_NOT_TEXT = re.compile(
    r"(?<!\\)%[^\n]*|\\(?:label|vspace|hspace|bibliography|bibliographystyle|usepackage|pagestyle"
    r"|includegraphics|input|include|maketitle|tableofcontents)\*?(?:\[[^\]]*\])?(?:\{[^{}]*\})?"
)


# Environments of text go: the converter looks for the end of one that never ends again and again.
_ENVIRONMENT = re.compile(
    r"\\(?:begin|end)\s*\{(?!(?:equation|align|gather|multline|eqnarray|math|displaymath|verbatim"
    r"|lstlisting|tabular|array|cases)\*?\})[a-zA-Z]+\*?\}(?:\[[^\]\n]*\])?"
)
_DEFINITION = re.compile(r"\\(?:re)?new(?:command|environment|theorem)\b[^\n]*|\\def\\[^\n]*")


def read_latex(raw: bytes) -> Content:
    """Returns the document without its commands; formulas stay as they are written.

    The title is that of `\\title`.

    Raises:
        UnreadableError: "not text", or "corrupt".
    """
    from pylatexenc.latex2text import LatexNodes2Text

    text = decode(raw)
    converter = LatexNodes2Text(
        math_mode="verbatim", keep_comments=False, strict_latex_spaces=False
    )

    def plain(part: str) -> str:
        try:
            return converter.latex_to_text(part)
        except (*MALFORMED_FILE_ERRORS, RecursionError) as error:
            raise UnreadableError("corrupt", f"LaTeX: {error}") from error

    named = _TITLE.search(text)
    title = " ".join(plain(_braced(text, named.end())[0]).split()) if named else ""
    begin = text.find(r"\begin{document}")
    body = text[begin + len(r"\begin{document}") :] if begin >= 0 else text
    body = _NOT_TEXT.sub("", body.split(r"\end{document}")[0])
    body = _ENVIRONMENT.sub("", _DEFINITION.sub("", body))
    blocks: list[Block] = [Block("heading", title, 1)] if title else []
    at, heading = 0, None
    for match in [*_HEADING.finditer(body), None]:
        part = plain(body[at : match.start() if match else len(body)])
        if heading:
            blocks.append(heading)
        blocks += [
            Block("paragraph" if b.kind == "heading" else b.kind, b.text, tight=b.tight)
            for b in content_of_text(part).blocks
        ]
        if match:
            said, at = _braced(body, match.end())
            heading = Block("heading", " ".join(plain(said).split()), _LEVELS[match[1]])
    return Content(title, blocks)


def _braced(text: str, start: int) -> tuple[str, int]:
    """Returns what stands up to the brace that closes the one before `start`, and the place after
    it."""
    depth = 1
    for match in re.finditer(r"(?<!\\)[{}]", text[start : start + 20_000]):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return text[start : start + match.start()], start + match.end()
    return "", start
