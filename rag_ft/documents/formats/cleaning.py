"""Tidies text: the last step of every reader."""

from __future__ import annotations

import itertools
import re
import unicodedata
from functools import lru_cache

from rag_ft.storage import encodable
from rag_ft.text import composed

# The encoder reads the title before every chunk, so a title is short.
MAX_TITLE_CHARS = 200
# A block of shorter lines is a list or verse, not a wrapped paragraph.
MIN_WRAPPED_CHARS = 45

# A list item, a table row, a quotation, a field ("Phone: 12"), a setting or a command begins a line
# of its own.
_KEEPS_LINE = re.compile(
    r"""\s | [-*•‣⁃∙–+|>#$·~\u2190-\u21ff\u2460-\u24ff\u25a0-\u27bf\u3220-\u32ff\uf000-\uf0ff]
    | \d{1,3}[.):．]\s | \(?\w{1,3}\)\s | \[\w{1,3}\]\s | [A-Z]\d{1,2}[.:]\s | \d{1,2}[º°]\s | —\s
    | (?:[A-Za-z]|[ivxIVX]{1,5}|[\u2160-\u217f]+)\.\s | [\d一二三四五六七八九十]{1,3}、 | o\s
    | [^\W\d_][\w ]{0,25}:\s | [\w.\[\]-]+\s?[:+]?=
    | (?=\S*+\s?$)\S*[/\\]
    | (?:sudo|pip3?|npm|npx|yarn|git|cd|docker|apt(?:-get)?|curl|wget|mkdir|chmod|kubectl|helm|ssh
      |scp|rsync|export|brew|cargo|systemctl|journalctl|cp|mv|rm|ls|psql|mvn|python3?\s-m)\s
    | make\s[\w-]+$""",
    re.VERBOSE,
)
# Columns that blanks lay out, and the options of a command.
_LAID_OUT = re.compile(
    r"\S(?: {3,}|\t+)\S|[^\W\d_] {2,}\d[\d.,]*(?: {2,}|$)|\s--?[a-z][\w-]*(?:[\s=]|$)"
)
# "1.2 a passport" after "1.1 a ticket", but not "3.5 metres" after any line.
_SECTION = re.compile(r"\d{1,3}(?:\.\d{1,3})+\.?\s|§+\s?\d|(?:Art|Nr|No|№)\.?\s?\d")
# Letters and the marks that belong to them, as in Devanagari. Armenian has a hyphen of its own.
_LETTER = r"[\w\u0300-\u036f\u0900-\u0dff]"
_BROKEN_WORD = re.compile(
    rf"(?<=(?!\d|_){_LETTER})[-\u2010\u058a][ \t]*\n[ \t]*(?=({_LETTER}{{1,40}}))"
)
_COMPOUND = re.compile(rf"{_LETTER}++(?:-{_LETTER}++)++")
_HYPHEN = re.compile("[-\u2010\u058a]")
_LAST_WORD = re.compile(rf"{_LETTER}+$")
# "Vor- und Nachteile": the hyphen stands for what follows.
_AND_OR = "und oder bzw and or y e o et ou og och eller en of i a"
_CONJUNCTIONS = frozenset(_AND_OR.split())
_NEWLINE = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# NUL and other controls, soft hyphen, zero-width space and byte order mark. Zero-width joiners
# stay, because they change the meaning of some scripts.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff]")
_SPACE = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_SOFT_BREAK = re.compile("\u00ad[ \t]*\n[ \t]*(?=\\w)")
# Ligatures of Latin and Armenian, and the forms of Arabic letters, as some fonts of PDFs have them.
_LIGATURE = re.compile(
    "[\u0132\u0133\ufb00-\ufb06\ufb13-\ufb17\ufb50-\ufdc7\ufdf0-\ufdfb\ufe70-\ufefc]"
)
# C1 controls are what cp1252 has at their places, as in character references of HTML.
_CONTROLS_OF_1252 = {
    code: bytes((code,)).decode("cp1252", "ignore") for code in range(0x80, 0xA0) if code != 0x85
}
# The look-behind keeps the time linear for a line of a million spaces.
_LINE_END = re.compile("(?<![ \t])[ \t]+(?=\n)")
_BLANK_LINES = re.compile("\n{4,}")


def tidy(text: str, *, keep_indent: bool = False) -> str:
    """Returns the text in NFC with LF as newline, ordinary spaces and no control characters.

    Ligatures become letters, and a word that a soft hyphen breaks at the end of a line is whole.
    At most two blank lines stand in a row, and no line ends in a space. With `keep_indent` the
    blanks before the first line stay.
    """
    text = _NEWLINE.sub("\n", text)
    if not text.isascii():
        text = _SOFT_BREAK.sub("", text).translate(_CONTROLS_OF_1252)
        text = _LIGATURE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
        text = composed(encodable(_SPACE.sub(" ", text)))
    text = _INVISIBLE.sub("", text)
    if "\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", _LINE_END.sub("", text))
    return text.strip("\n").rstrip() if keep_indent else text.strip()


def tidy_in_place(text: str) -> str:
    """Replaces control characters and lone surrogates one by one, so that the length stays.

    This is for JSONL documents: their questions may come with positions of answers in the text.
    """
    text = _INVISIBLE.sub(" ", text.replace("\r\n", " \n").replace("\r", "\n"))
    return encodable(text)


def unwrap(text: str, whole: str = "", min_chars: int = MIN_WRAPPED_CHARS) -> str:
    """Replaces the line breaks inside wrapped paragraphs by spaces, and makes broken words whole;
    see `join_broken_words`.

    A line continues in the next where that begins in lower case, or where its first word would not
    have fitted: the line is at least `min_chars` long and nearly as long as the longest of its
    block. Lists, tables, verse, fields, settings and commands keep their lines.
    """
    blocks = []
    for block in join_broken_words(text, whole).split("\n\n"):
        lines = block.split("\n")
        width = max(map(len, lines))
        if width < min_chars:
            blocks.append(block)
            continue
        parts = [lines[0]]
        for line, following in itertools.pairwise(lines):
            parts += [" " if _goes_on(line, following, width, min_chars) else "\n", following]
        blocks.append("".join(parts))
    return "\n\n".join(blocks)


def _goes_on(line: str, following: str, width: int, min_chars: int) -> bool:
    """Whether a paragraph of `width` characters continues from one line to the next."""
    word = following.split(" ", 1)[0]
    if not word or "|" in line or _KEEPS_LINE.match(following):
        return False
    if _SECTION.match(line) and _SECTION.match(following):
        return False
    if _LAID_OUT.search(line) or _LAID_OUT.search(following) or line.endswith(":"):
        return False
    if word[0].islower():
        return len(line) > width / 3 and not line.endswith((".", "!", "?", ";"))
    return len(line) >= min_chars and len(line) + 1 + len(word) > 0.85 * width


def join_broken_words(text: str, whole: str = "") -> str:
    """Joins the words that a hyphen breaks at the end of a line.

    A compound keeps its hyphen where `whole`, the document around the text, has it in one line
    (`north-west`), and so do ranges and names (`10-20`, `Nord-Süd`). The hyphen of `Vor- und
    Nachteile` keeps its blank.
    """
    if not _HYPHEN.search(text):
        return text

    def join(match: re.Match[str]) -> str:
        left = _LAST_WORD.findall(text[max(0, match.start() - 40) : match.start()])[0]
        right = match[1]
        if right.lower() in _CONJUNCTIONS:
            return "- "
        if len(left) < 2 or f"{left}-{right}" in compounds:
            return "-"
        if left.isupper() and right.isupper() and len(right) > 1:
            # Compounds of capitals are as likely, unless all is in capitals.
            return "" if shouts else "-"
        return "" if _goes_with(left[-1]) and _goes_with(right[0]) else "-"

    compounds = _compounds(whole or text)
    shouts = not any(map(str.islower, text))
    text = re.sub(r"(?<=\d)-[ \t]*\n[ \t]*(?=\d)", "-", text)
    return _BROKEN_WORD.sub(join, text)


@lru_cache(maxsize=2)
def _compounds(text: str) -> frozenset[str]:
    """Returns the pairs of words that a hyphen joins within a line."""
    found: set[str] = set()
    for match in _COMPOUND.finditer(text):
        found.update(map("-".join, itertools.pairwise(match[0].split("-"))))
    return frozenset(found)


def _goes_with(letter: str) -> bool:
    """Whether a letter may stand inside a broken word: a small one, or one of India."""
    return letter.islower() or "\u0900" <= letter <= "\u0dff"


def one_line(text: str) -> str:
    """Returns a title: tidy, and without line breaks."""
    return " ".join(tidy(text).split())


def readable(stem: str) -> str:
    """Returns the name of a file as a title: `opening_hours-2024` becomes `Opening hours 2024`."""
    words = re.sub(r"[_\-.\s]+", " ", stem).strip()
    return words[:1].upper() + words[1:]


def is_program_title(title: str) -> bool:
    """Whether a title is empty, or a program wrote it (`Microsoft Word - a.doc`)."""
    program = r"(?i)^(untitled|microsoft word\b)|\.(docx?|pdf|indd|tex|dvi|qxd)$"
    return not title.strip() or re.search(program, title.strip()) is not None
