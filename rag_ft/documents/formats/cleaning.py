"""Bytes to text, and text made tidy: what every reader does first and last."""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.storage import encodable

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_CONTROL_SHARE = 0.01
MAX_TITLE_CHARS = 200  # a title is read before every chunk
# Western text has few bytes above 127; other 8-bit encodings (KOI8, Shift-JIS) have mostly such, and would be garbled.
MAX_CP1252_HIGH_SHARE = 0.25

_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\v\x1b")) + b"\x7f"
_HIGH_BYTES = bytes(range(128, 256))
MIN_WRAPPED_CHARS = 45
_KEEPS_LINE = re.compile(r"\s|[-*•‣–+|>#]|\d{1,3}[.)]\s|\(?\w{1,3}\)\s|[^\W\d_][\w ]{0,25}:\s")
_NEWLINE = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# NUL and other controls, soft hyphen, zero-width space and byte order mark. (Zero-width joiners carry meaning.)
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\ufeff]")
_SPACE = re.compile("[\u00a0\u202f\u2007]")
_LINE_END = re.compile(
    "(?<![ \t])[ \t]+(?=\n)"
)  # the look-behind keeps a line of a million spaces linear
_BLANK_LINES = re.compile("\n{4,}")


def decode(raw: bytes, declared: str | None = None) -> str:
    """Text of a file: by its byte order mark, as UTF-8, in the encoding it declares, or as cp1252 where it looks so.

    Raises:
        UnreadableError: "not text" for binary content or an unknown encoding.
    """
    for mark, encoding in BOMS:
        if raw.startswith(mark):
            return _decode_as(raw, encoding)
    if len(raw.translate(None, _CONTROL_BYTES)) < (1 - MAX_CONTROL_SHARE) * len(raw):
        raise UnreadableError("not text", "binary content, or UTF-16 without a byte order mark")
    if (
        declared
        and declared.lower().startswith("iso-2022-")
        and (text := _try_decode(raw, declared)) is not None
    ):
        return text  # first, since its bytes are ASCII
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _decode_other(raw, declared)


def tidy(text: str) -> str:
    """Newlines as LF, NFC, no controls, ordinary spaces, at most two blank lines in a row, no spaces at line ends."""
    text = _SPACE.sub(" ", _INVISIBLE.sub("", _NEWLINE.sub("\n", text)))
    text = unicodedata.normalize("NFC", encodable(text))
    return _BLANK_LINES.sub("\n\n\n", _LINE_END.sub("", text)).strip()


def tidy_in_place(text: str) -> str:
    """Controls and lone surrogates replaced one by one: the length stays, so positions counted in `text` still hold.

    For JSONL documents, whose questions may come with the position of the answer.
    """
    text = _INVISIBLE.sub(" ", text.replace("\r\n", " \n").replace("\r", "\n"))
    return encodable(text)


def unwrap(text: str) -> str:
    """Line breaks that an editor or a page made inside a paragraph become spaces, one for one.

    A line goes on when the next begins in lower case, or when its first word would not have fitted: in a block of
    lines at least 45 long, the line is nearly as long as the longest. Lists, tables, verse and fields stay.
    """
    return "\n\n".join(_unwrap_block(block) for block in text.split("\n\n"))


def one_line(text: str) -> str:
    """A title: tidy, and without line breaks."""
    return " ".join(tidy(text).split())


def readable(stem: str) -> str:
    """A file's name as a title: `opening_hours-2024` becomes `Opening hours 2024`."""
    words = re.sub(r"[_\-.\s]+", " ", stem).strip()
    return words[:1].upper() + words[1:]


def _unwrap_block(block: str) -> str:
    lines = block.split("\n")
    width = max(map(len, lines))
    if width < MIN_WRAPPED_CHARS:
        return block
    parts = [lines[0]]
    for line, following in itertools.pairwise(lines):
        word = following.split(" ", 1)[0]
        full = len(line) >= MIN_WRAPPED_CHARS and len(line) + 1 + len(word) > 0.85 * width
        goes_on = word[:1].islower() or (full and not _KEEPS_LINE.match(following))
        parts += [" " if goes_on and word and "|" not in line else "\n", following]
    return "".join(parts)


def _decode_as(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError("not text", f"marked as {encoding}, but {error.reason}") from error


def _try_decode(raw: bytes, encoding: str) -> str | None:
    """None where it is no such text, no encoding of text, or no encoding at all (whatever a page may declare)."""
    try:
        return raw.decode(encoding)
    except (ValueError, LookupError):
        return None


def _decode_other(raw: bytes, declared: str | None) -> str:
    if declared and (text := _try_decode(raw, declared)) is not None:
        return text
    text = raw.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if sum(c > "\x7f" for c in text) > 5 * damaged:  # UTF-8 with a few damaged characters
        return text
    high = len(raw) - len(raw.translate(None, _HIGH_BYTES))
    if b"\x00" in raw or high > MAX_CP1252_HIGH_SHARE * len(raw):
        raise UnreadableError(
            "not text", "neither UTF-8, UTF-16 with a byte order mark, nor cp1252"
        )
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError as error:
        raise UnreadableError(
            "not text", "neither UTF-8, UTF-16 with a byte order mark, nor cp1252"
        ) from error


def is_program_title(title: str) -> bool:
    """Whether a title says nothing: it is empty, or a program wrote it (`Microsoft Word - a.doc`)."""
    program = r"(?i)^(untitled|microsoft word\b)|\.(docx?|pdf|indd|tex|dvi|qxd)$"
    return not title.strip() or re.search(program, title.strip()) is not None
