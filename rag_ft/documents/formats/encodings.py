"""Decodes the bytes of a file: byte order mark, UTF-8, declaration, detection, in this order."""

from __future__ import annotations

import codecs
import re

from rag_ft.documents.formats.content import UnreadableError

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32 stands before UTF-16, because its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_CONTROL_SHARE = 0.01
# A declared encoding is believed while fewer than one in this many characters is damaged.
CHARACTERS_PER_DAMAGE = 50
# chardet's confidence is low for short texts even where it is right: all its errors among 74 short
# texts of 20 languages that this floor rejects had at most 0.09, all right answers 0.11 and more.
MIN_CONFIDENCE = 0.1
# The detector is slow for long texts, and no surer.
DETECTED_BYTES = 100_000

# What browsers mean by a label (https://encoding.spec.whatwg.org), where Python means another.
_LABELS = {
    **dict.fromkeys(
        [
            "ascii",
            "us-ascii",
            "ansi_x3.4-1968",
            "iso-8859-1",
            "iso8859-1",
            "iso_8859-1",
            "iso88591",
            "latin1",
            "latin-1",
            "l1",
            "cp819",
            "ibm819",
            "csisolatin1",
            "x-cp1252",
            "windows-1252",
            "cp1252",
        ],
        "cp1252",
    ),
    **dict.fromkeys(
        [
            "iso-8859-9",
            "iso8859-9",
            "iso_8859-9",
            "iso88599",
            "latin5",
            "latin-5",
            "l5",
            "csisolatin5",
            "windows-1254",
            "x-cp1254",
        ],
        "cp1254",
    ),
    **dict.fromkeys(
        ["tis-620", "tis620", "iso-8859-11", "iso8859-11", "windows-874", "dos-874"], "cp874"
    ),
    **dict.fromkeys(
        [
            "gb2312",
            "gb_2312",
            "gb_2312-80",
            "gbk",
            "x-gbk",
            "chinese",
            "csgb2312",
            "iso-ir-58",
            "gb18030",
            "cp936",
        ],
        "gb18030",
    ),
    **dict.fromkeys(
        [
            "shift_jis",
            "shift-jis",
            "sjis",
            "x-sjis",
            "ms_kanji",
            "ms932",
            "csshiftjis",
            "windows-31j",
        ],
        "cp932",
    ),
    **dict.fromkeys(
        [
            "euc-kr",
            "cseuckr",
            "ks_c_5601-1987",
            "ks_c_5601-1989",
            "ksc5601",
            "ksc_5601",
            "korean",
            "iso-ir-149",
            "windows-949",
        ],
        "cp949",
    ),
    **dict.fromkeys(["big5", "big5-hkscs", "cn-big5", "csbig5", "x-x-big5"], "big5hkscs"),
    **dict.fromkeys(["x-mac-cyrillic", "x-mac-ukrainian"], "mac_cyrillic"),
    **dict.fromkeys(["macintosh", "x-mac-roman", "mac"], "mac_roman"),
    **dict.fromkeys(["iso-8859-8-i", "iso-8859-8-e", "logical", "visual"], "iso8859_8"),
    "iso-8859-6-i": "iso8859_6",
    "iso-8859-6-e": "iso8859_6",
    "unicode-1-1-utf-8": "utf-8",
    "x-unicode20utf8": "utf-8",
    "koi8-ru": "koi8_u",
    "koi": "koi8_r",
    "koi8": "koi8_r",
}
# What Python can decode and no page is written in.
_NO_TEXT = frozenset(
    ("undefined", "idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7")
)
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\v\x1b")) + b"\x7f"
_DECLARED = re.compile(
    rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([\w:.\-]{1,40})|<\?xml[^>]{0,200}?encoding"""
    rb"""\s*=\s*["']([\w:.\-]{1,40})""",
    re.IGNORECASE,
)
# Letters of Western languages, and signs that stand between words: text in cp1252 holds few others.
_WESTERN = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ’·ªº"  # also inside a word
)
_SIGNS = "‘“”„‚…–—•€£§©®°±²³µ«»½¼¾¡¿×™‰†\u00a0\u00ad"
_INSIDE_WORD = re.compile(rf"[^\W\d_][{re.escape(_SIGNS[:5] + _SIGNS[7:])}][^\W\d_]")
# Few texts of other encodings decode in these without a fault.
_MULTI_BYTE = frozenset(
    ("cp932", "shift_jis", "euc_jp", "cp949", "euc_kr", "gb18030", "big5hkscs", "big5")
)
# The detector's older names for what is written today.
_NEWER = {"iso8859-4": "cp1257", "iso8859-15": "cp1252", "iso-8859-1": "cp1252"}


def declared_charset(raw: bytes) -> str | None:
    """Returns the charset that a page of HTML or XML declares in its first 4 KB."""
    match = _DECLARED.search(raw[:4096])
    name = (match[1] or match[2]).decode("ascii").lower() if match else None
    # What can be searched byte by byte is not UTF-16: by the HTML standard it is UTF-8 then.
    return None if name is None or name.startswith(("utf-16", "utf-32", "ucs-")) else name


def decode(raw: bytes, declared: str | None = None) -> str:
    """Returns the text of a file.

    The encoding is that of the byte order mark, else UTF-8, else the declared one as browsers
    understand it, else the one that is detected.

    Raises:
        UnreadableError: "not text" for binary content and for an encoding that cannot be told.
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
    codec = _codec(declared)
    seven_bits = codec is not None and codec.startswith("iso2022")
    for name in [codec, "utf-8"] if seven_bits else ["utf-8"]:
        try:
            if name:
                return raw.decode(name)
        except ValueError:
            continue
    # UTF-8 with a few damaged characters is still UTF-8.
    text = raw.decode("utf-8", "replace")
    if sum(c > "\x7f" for c in text) > 5 * text.count("\ufffd"):
        return text
    if codec is not None:
        text = _forgiving(raw, codec)
        if text.count("\ufffd") * CHARACTERS_PER_DAMAGE <= max(len(text), CHARACTERS_PER_DAMAGE):
            return text
    return _detected(raw, declared)


def _codec(label: str | None) -> str | None:
    """Returns the name of Python's codec for a label, or None for a label that names no text."""
    label = (label or "").strip().lower()
    try:
        found = codecs.lookup(_LABELS.get(label, label))
        return found.name if found._is_text_encoding and found.name not in _NO_TEXT else None
    except (LookupError, ValueError):
        return None


def _forgiving(raw: bytes, codec: str) -> str:
    """Decodes with a mark for what is damaged; the five bytes that cp1252 lacks are controls."""
    text = raw.decode(codec, "replace")
    if codec == "cp1252" and "\ufffd" in text:
        text = "".join(bytes((b,)).decode("cp1252", "ignore") or chr(b) for b in raw)
    return text


def _detected(raw: bytes, declared: str | None) -> str:
    western = raw.decode("cp1252", "replace")
    if _looks_western(western):
        return western
    import chardet

    found = chardet.detect(raw[:DETECTED_BYTES])
    name, confidence = found["encoding"], found["confidence"] or 0.0
    codec = _codec(_NEWER.get((name or "").lower(), name))
    if codec is not None and (confidence >= MIN_CONFIDENCE or codec in _MULTI_BYTE):
        text = _forgiving(raw, codec)
        if text.count("\ufffd") * CHARACTERS_PER_DAMAGE <= len(text) and _is_prose(text):
            return text
    said = f"; it declares {declared}" if declared else ""
    raise UnreadableError("not text", f"unknown encoding, save the file as UTF-8{said}")


def _looks_western(text: str) -> bool:
    """Whether all characters beyond ASCII are those of Western text, in places where they stand."""
    high = [c for c in text if c > "\x7f"]
    return (
        all(c in _WESTERN or c in _SIGNS for c in high)
        and len(high) <= len(text) / 4
        and _INSIDE_WORD.search(text) is None
        # Hungarian has no other sign than these two in place of its own letters.
        and not ("õ" in text and "û" in text and "ã" not in text)
    )


def _is_prose(text: str) -> bool:
    """Whether a decoded text has letters beyond ASCII rather than drawings and signs."""
    high = [c for c in text if c > "\x7f"]
    return sum(c.isalpha() or c in _SIGNS or c > "\u0dff" for c in high) >= 0.8 * len(high)
