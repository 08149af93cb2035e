"""Reads LaTeX with pylatexenc."""

from __future__ import annotations

import re
from collections.abc import Callable

from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Block, Content, UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.scripts import END, SUB, SUP, plain_scripts
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
    r"\\(part|chapter|section|subsection|subsubsection|paragraph)\*?\s*(?:\[[^\]]{0,500}\])?\{"
)
_TITLE = re.compile(r"\\title\s*(?:\[[^\]]{0,500}\])?\{")
_AUTHORS = re.compile(r"\\author\s*(?:\[[^\]]{0,500}\])?\{")
_COMMENT = re.compile(r"(?<!\\)%[^\n]*")
# What stands between authors, and between an author and the place of work.
_NEXT_AUTHOR, _NEXT_LINE = re.compile(r"\\(?:and|And|AND)\b"), re.compile(r"\\\\")
_NOT_TEXT = re.compile(
    rf"{_COMMENT.pattern}|\\(?:label|vspace|hspace|bibliography|bibliographystyle|usepackage"
    r"|pagestyle|includegraphics|input|include|maketitle|tableofcontents)\*?"
    r"(?:\[[^\]]{0,500}\])?(?:\{[^{}]{0,500}\})?"
)


# Environments of text go: the converter looks for the end of one that never ends again and again.
_ENVIRONMENT = re.compile(
    r"\\(?:begin|end)\s*\{(?!(?:equation|align|gather|multline|eqnarray|math|displaymath|verbatim"
    r"|lstlisting|tabular|array|cases)\*?\})[a-zA-Z]+\*?\}(?:\[[^\]\n]*\])?"
)
_DEFINITION = re.compile(r"\\(?:re)?new(?:command|environment|theorem)\b[^\n]*|\\def\\[^\n]*")


# A name that the file gives to a piece of text, such as `\newcommand{\pump}{P-7\xspace}`.
_NAMED_TEXT = re.compile(
    r"\\(?:(?:re)?newcommand\*?|def)\s*\{?\\(?P<name>[A-Za-z]+)\}?\s*"
    r"\{(?P<text>[^{}#$\n]{1,200}(?:\{[^{}#$\n]{0,100}\}[^{}#$\n]{0,100})?)\}[ \t]*(?:%[^\n]*)?$",
    re.MULTILINE,
)
# Names within names are followed so far.
MAX_NAME_DEPTH = 3


# Code as it stands; the converter would lose it.
_VERBATIM = re.compile(
    r"\\begin\{(?P<name>verbatim\*?|Verbatim|lstlisting|minted|alltt)\}(?:\[[^\]\n]{0,500}\])?"
    r"(?:\{[^{}\n]{0,100}\})?[ \t]*\n(?P<code>.{0,20000}?)\\end\{(?P=name)\}",
    re.DOTALL,
)
_CODE_MARK = "\ue010"
# The address of a link, whose text stands in braces after it.
_LINK = re.compile(r"\\href\s*(?:\[[^\]\n]{0,200}\])?\s*\{[^{}\n]{0,1000}\}(?=\s*\{)")
# Raised and lowered text outside formulas.
_SCRIPT = re.compile(r"\\text(super|sub)script\s*\{([^{}]{1,100})\}")


def _marked(match: re.Match[str]) -> str:
    return f"{SUP if match[1] == 'super' else SUB}{match[2]}{END}"


def read_latex(raw: bytes) -> Content:
    """Returns the document without its commands, its authors first; formulas stay as they are
    written.

    The title is that of `\\title`.

    Raises:
        UnreadableError: "not text", or "corrupt".
    """
    from pylatexenc.latex2text import LatexNodes2Text

    text = _with_named_texts(decode(raw))
    converter = LatexNodes2Text(
        math_mode="verbatim", keep_comments=False, strict_latex_spaces=False
    )

    def plain(part: str) -> str:
        try:
            return plain_scripts(converter.latex_to_text(_SCRIPT.sub(_marked, part)))
        except (*MALFORMED_FILE_ERRORS, RecursionError) as error:
            raise UnreadableError("corrupt", f"LaTeX: {error}") from error

    named = _TITLE.search(text)
    title = " ".join(plain(_braced(text, named.end())[0]).split()) if named else ""
    begin = text.find(r"\begin{document}")
    body = text[begin + len(r"\begin{document}") :] if begin >= 0 else text
    body = body.split(r"\end{document}")[0]
    codes: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        codes.append(match["code"])
        return f"\n\n{_CODE_MARK}{len(codes) - 1}\n\n"

    body = _VERBATIM.sub(put_aside, body)
    body = _NOT_TEXT.sub("", _without_authors(_LINK.sub("", body)))
    body = _ENVIRONMENT.sub("", _DEFINITION.sub("", body))
    blocks: list[Block] = [Block("heading", title, 1)] if title else []
    for found in _AUTHORS.finditer(text):
        blocks.append(Block("paragraph", _names(_braced(text, found.end())[0], plain)))
    at, heading = 0, None
    for match in [*_HEADING.finditer(body), None]:
        part = plain(body[at : match.start() if match else len(body)])
        if heading:
            blocks.append(heading)
        blocks += [
            Block("code", codes[int(b.text[1:])])
            if b.text[:1] == _CODE_MARK and b.text[1:].isdecimal() and int(b.text[1:]) < len(codes)
            else Block("paragraph" if b.kind == "heading" else b.kind, b.text, tight=b.tight)
            for b in content_of_text(part).blocks
        ]
        if match:
            said, at = _braced(body, match.end())
            heading = Block("heading", " ".join(plain(said).split()), _LEVELS[match[1]])
    return Content(title, blocks)


def _with_named_texts(text: str) -> str:
    """Returns the file with the texts that it gives names to in place of the names."""
    named = {match["name"]: match["text"] for match in _NAMED_TEXT.finditer(text)}
    if not named:
        return text
    used = re.compile(rf"\\({'|'.join(named)})(?![A-Za-z])(?:\{{\}})?")
    size = len(text)
    # The definitions themselves go.
    text = _NAMED_TEXT.sub("", text)
    for _ in range(MAX_NAME_DEPTH):
        longer = used.sub(lambda match: f"{{{named[match[1]]}}}", text)
        if longer == text or len(longer) > 10 * size:
            break
        text = longer
    return text.replace(r"\xspace", "")


def _without_authors(body: str) -> str:
    parts, at = [], 0
    for found in _AUTHORS.finditer(body):
        if found.start() >= at:
            parts.append(body[at : found.start()])
            at = _braced(body, found.end())[1]
    return "".join([*parts, body[at:]])


def _names(text: str, plain: Callable[[str], str]) -> str:
    """Returns what `\\author` holds in one line: names, places, notes."""
    text = _NEXT_AUTHOR.sub("; ", _NEXT_LINE.sub(", ", _COMMENT.sub("", text)))
    # A note and a number stand at a name without a blank.
    text = plain(re.sub(r"(?<=[\w}])(?=\\[A-Za-z]{3,}\s*\{)", " ", text))
    text = " ".join(text.split())
    text = re.sub(r"(?:\s*[,;])*\s*;(?:\s*[,;])*", ";", text)
    text = re.sub(r"\s*,(?:\s*,)*", ",", text)
    return " ".join(re.sub(r"([,;])(?=\S)", r"\1 ", text).split()).strip(",; ")


def _braced(text: str, start: int) -> tuple[str, int]:
    """Returns what stands up to the brace that closes the one before `start`, and the place after
    it."""
    depth = 1
    for match in re.finditer(r"(?<!\\)[{}]", text[start : start + 20_000]):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return text[start : start + match.start()], start + match.end()
    return "", start
