"""Decodes bytes to text and tidies text: the first and the last step of every reader."""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.storage import encodable

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32 stands before UTF-16, because its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_CONTROL_SHARE = 0.01
# The encoder reads the title before every chunk, so a title is short.
MAX_TITLE_CHARS = 200
# Western text has few bytes above 127. Other 8-bit encodings (KOI8, Shift-JIS) have mostly such
# bytes, and decoding them as cp1252 gives wrong letters.
MAX_CP1252_HIGH_SHARE = 0.25
# A block of shorter lines is a list or verse, not a wrapped paragraph.
MIN_WRAPPED_CHARS = 45

_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\v\x1b")) + b"\x7f"
_HIGH_BYTES = bytes(range(128, 256))
# A list item, a table row, a quotation or a field ("Phone: 12") begins a line of its own.
_KEEPS_LINE = re.compile(r"\s|[-*•‣–+|>#]|\d{1,3}[.)]\s|\(?\w{1,3}\)\s|[^\W\d_][\w ]{0,25}:\s")
_NEWLINE = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# NUL and other controls, soft hyphen, zero-width space and byte order mark. Zero-width joiners
# stay, because they change the meaning of some scripts.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\ufeff]")
_SPACE = re.compile("[\u00a0\u202f\u2007]")
# The look-behind keeps the time linear for a line of a million spaces.
_LINE_END = re.compile("(?<![ \t])[ \t]+(?=\n)")
_BLANK_LINES = re.compile("\n{4,}")


def decode(raw: bytes, declared: str | None = None) -> str:
    """Returns the text of a file.

    The encoding is that of the byte order mark, else UTF-8, else the declared one, else cp1252
    where the bytes look like Western text.

    Raises:
        UnreadableError: "not text" for binary content or an unknown encoding.
    """
    for mark, encoding in BOMS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                detail = f"the byte order mark says {encoding}, but {error.reason}"
                raise UnreadableError("not text", detail) from error
    if len(raw.translate(None, _CONTROL_BYTES)) < (1 - MAX_CONTROL_SHARE) * len(raw):
        raise UnreadableError("not text", "binary content, or UTF-16 without a byte order mark")

    # ISO-2022 comes before UTF-8, because its bytes are ASCII and decode as UTF-8 too.
    seven_bits = declared is not None and declared.lower().startswith("iso-2022-")
    for name in [declared, "utf-8"] if seven_bits else ["utf-8", declared]:
        try:
            if name:
                return raw.decode(name)
        except (ValueError, LookupError):
            # A page may declare anything: other letters, no encoding, or no encoding of text.
            continue

    # UTF-8 with a few damaged characters is still UTF-8.
    text = raw.decode("utf-8", "replace")
    if sum(c > "\x7f" for c in text) > 5 * text.count("\ufffd"):
        return text
    num_high = len(raw) - len(raw.translate(None, _HIGH_BYTES))
    unknown = "neither UTF-8, UTF-16 with a byte order mark, nor cp1252"
    if b"\x00" in raw or num_high > MAX_CP1252_HIGH_SHARE * len(raw):
        raise UnreadableError("not text", unknown)
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError as error:
        raise UnreadableError("not text", unknown) from error


def tidy(text: str) -> str:
    """Returns the text in NFC with LF as newline, ordinary spaces and no control characters.

    At most two blank lines stand in a row, and no line ends in a space.
    """
    text = _SPACE.sub(" ", _INVISIBLE.sub("", _NEWLINE.sub("\n", text)))
    text = unicodedata.normalize("NFC", encodable(text))
    return _BLANK_LINES.sub("\n\n\n", _LINE_END.sub("", text)).strip()


def tidy_in_place(text: str) -> str:
    """Replaces control characters and lone surrogates one by one, so that the length stays.

    This is for JSONL documents: their questions may come with positions of answers in the text.
    """
    text = _INVISIBLE.sub(" ", text.replace("\r\n", " \n").replace("\r", "\n"))
    return encodable(text)


def unwrap(text: str) -> str:
    """Replaces the line breaks inside wrapped paragraphs by spaces, one by one.

    A line continues in the next where that begins in lower case, or where its first word would not
    have fitted: the line is at least 45 characters long and nearly as long as the longest of its
    block. Lists, tables, verse and fields keep their lines.
    """
    blocks = []
    for block in text.split("\n\n"):
        lines = block.split("\n")
        width = max(map(len, lines))
        if width < MIN_WRAPPED_CHARS:
            blocks.append(block)
            continue
        parts = [lines[0]]
        for line, following in itertools.pairwise(lines):
            word = following.split(" ", 1)[0]
            full = len(line) >= MIN_WRAPPED_CHARS and len(line) + 1 + len(word) > 0.85 * width
            goes_on = word[:1].islower() or (full and not _KEEPS_LINE.match(following))
            parts += [" " if goes_on and word and "|" not in line else "\n", following]
        blocks.append("".join(parts))
    return "\n\n".join(blocks)


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
