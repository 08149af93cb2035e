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
# So few characters whose encoding cannot be told are replaced, and the text is kept.
CHARACTERS_PER_STRAY = 5000
# chardet's confidence is low for a few words even where it is right, and higher for letters that
# are not Latin. Of 208 short texts in 37 encodings, 104 of them among English words, 9 got wrong
# letters with these floors: single words, and encodings that are hardly used today.
MIN_CONFIDENCE, MIN_OTHER_CONFIDENCE = 0.03, 0.12
# Another encoding than cp1252 is this many times as likely, or it is cp1252.
MIN_LEAD = 1.75
# The words beyond ASCII that the detector sees; it is slow for many, and no surer.
MAX_WORDS, DETECTED_BYTES = 2000, 20_000

# Python's codec -> the labels by which browsers mean it (https://encoding.spec.whatwg.org), where
# Python means another by them.
_BROWSER_LABELS = {
    "cp1252": """ascii us-ascii ansi_x3.4-1968 iso-8859-1 iso8859-1 iso_8859-1 iso88591 latin1
        latin-1 l1 cp819 ibm819 csisolatin1 x-cp1252 windows-1252 cp1252""",
    "cp1254": """iso-8859-9 iso8859-9 iso_8859-9 iso88599 latin5 latin-5 l5 csisolatin5 windows-1254
        x-cp1254""",
    "cp874": "tis-620 tis620 iso-8859-11 iso8859-11 windows-874 dos-874",
    "gb18030": "gb2312 gb_2312 gb_2312-80 gbk x-gbk chinese csgb2312 iso-ir-58 gb18030 cp936",
    "cp932": "shift_jis shift-jis sjis x-sjis ms_kanji ms932 csshiftjis windows-31j",
    "cp949": """euc-kr cseuckr ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 korean iso-ir-149
        windows-949""",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "mac_roman": "macintosh x-mac-roman mac",
    "iso8859_6": "iso-8859-6-i iso-8859-6-e",
    "iso8859_8": "iso-8859-8-i iso-8859-8-e logical visual",
    "utf-8": "unicode-1-1-utf-8 x-unicode20utf8",
    "koi8_u": "koi8-ru",
    "koi8_r": "koi koi8",
}
_LABELS = {label: codec for codec, labels in _BROWSER_LABELS.items() for label in labels.split()}
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
_HIGH_WORD = re.compile(rb"[^\s\x80-\xff]*[\x80-\xff]\S*")
# Where a wrong encoding shows: controls, drawings and signs at letters, a capital after a small
# letter, an accent alone, a currency before a word.
_ODD = re.compile(
    r"[\x80-\x9f\u2500-\u25ff\ue000-\uf8ff]|[½¼¾¤¨¸]\w"
    r"|[^\W\d_][¢£¥§¬¯±´¶×÷†‡•‰ˆ˜¹²³ªº«»„‚‹›“”–—≤≥≠∞∫√≈◊≡⌠⌡][^\W\d_]"
    r"|(?:^|[^\w’'])[£¥¢§¬¯±´¶×÷‰ˆ˜³²¹ªº][^\W\d_]"
)
# Few texts of other encodings decode in these without a fault.
_MULTI_BYTE = frozenset(
    ("cp932", "shift_jis", "euc_jp", "cp949", "euc_kr", "gb18030", "big5hkscs", "big5")
)
# Letters that only Icelandic has, and those of few names: elsewhere another encoding is meant.
_RARELY_WESTERN = re.compile("[šžŠŽŸþðÞÐýÝ]")
# Where the detector names one of these for a few words, it is hardly ever right.
_RARE = frozenset(
    [
        *("hp-roman8", "mac-turkish", "mac-iceland", "mac-greek", "mac-croatian", "mac-romanian"),
        *("iso8859-3", "iso8859-4", "iso8859-10", "iso8859-14", "iso8859-16", "cp861", "cp863"),
        *("cp1006", "ptcp154", "kz1048", "koi8-t", "tis-620", "cp037", "cp500", "cp1026", "cp1140"),
        *("cp273", "cp424", "cp856", "cp875"),
    ]
)
# The detector's older names for what is written today.
_NEWER = {"iso8859-4": "cp1257", "iso-8859-1": "cp1252"}


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


def codec_of(label: bytes) -> str:
    """Returns the name that Python has for a charset of browsers; where it has none, the label."""
    text = label.decode("ascii", "replace")
    return _codec(text) or text


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
    # The detector sees only the words beyond ASCII: among English ones it would not notice them.
    sample = b" ".join(_HIGH_WORD.findall(raw)[:MAX_WORDS])[:DETECTED_BYTES]
    codec = _likeliest(sample)
    if codec is not None:
        return _forgiving(raw, codec)
    # A long text is not lost to one stray byte.
    text = raw.decode("utf-8", "replace")
    if text.count("\ufffd") * CHARACTERS_PER_STRAY <= len(text):
        return text
    said = f"; it declares {declared}" if declared else ""
    raise UnreadableError("not text", f"unknown encoding, save the file as UTF-8{said}")


def _likeliest(sample: bytes) -> str | None:
    """Returns the encoding in which words are most like those of a language, if one is."""
    import chardet

    seen: dict[str, float] = {}
    for found in chardet.detect_all(sample, ignore_threshold=True):
        name = (found["encoding"] or "").lower()
        codec = _codec(_NEWER.get(name, name))
        if codec is not None and codec not in _RARE:
            seen.setdefault(codec, found["confidence"] or 0.0)
    likely = [codec for codec in seen if _may_be(sample, codec)]
    best = max(likely, key=lambda codec: seen[codec], default="")
    surest = seen.get(best, 0.0)

    # Most text of one byte a letter is Western: a small lead of another encoding does not count.
    western = seen.get("cp1252", 0.0)
    if _may_be(sample, "cp1252"):
        doubtful = _RARELY_WESTERN.search(_forgiving(sample, "cp1252")) is not None
        least = western if doubtful else max(MIN_CONFIDENCE, MIN_LEAD * western)
        if best == "cp1252" or surest < least:
            return "cp1252"
    is_latin = all(c < "\u0250" or not c.isalpha() for c in _forgiving(sample, best or "ascii"))
    least = MIN_CONFIDENCE if is_latin else MIN_OTHER_CONFIDENCE
    return best if best in _MULTI_BYTE or surest >= least else None


def _may_be(sample: bytes, codec: str) -> bool:
    text = _forgiving(sample, codec)
    return text.count("\ufffd") * CHARACTERS_PER_DAMAGE <= len(text) and _is_plausible(text)


def _is_plausible(text: str) -> bool:
    """Whether decoded words look like words: letters of one script, capitals only in front, and
    signs where signs stand. One word in ten may differ."""
    words = text.split()
    num_odd = sum(map(_is_odd, words))
    # Swedes open a quotation with the mark that closes it.
    num_odd += max(0, sum(map(_opens_wrongly, words)) - sum("”" in word[1:] for word in words))
    return 10 * num_odd <= len(words)


def _opens_wrongly(word: str) -> bool:
    return word[0] == "”" and word[1:2].isalpha()


def _is_odd(word: str) -> bool:
    if _ODD.search(word):
        return True
    # A capital beyond ASCII after a small letter or another first letter: "cafÉ", "MĀze".
    inner = [part for part in re.split(r"[\W\d_]+", word) if not part.isascii()]
    if any(part != part.upper() and not part[1:].islower() for part in inner if len(part) > 1):
        return True
    letters = [c for c in word if c.isalpha()]
    latin = sum(c < "\u0250" for c in letters)
    if 0 < latin < len(letters):
        # Chinese and Japanese stand beside Latin letters, other scripts do not.
        return any("\u0370" <= c < "\u2e80" or "\ufb1d" <= c < "\uff00" for c in letters)
    # A Latin word has ASCII letters too, unless it is as short as "à".
    return latin > 3 and not any(c.isascii() for c in letters)
