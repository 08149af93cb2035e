"""Text normalisation: the forms in which texts are compared, and escaped in prompts."""

from __future__ import annotations

import html
import json
import os
import re
import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

# Names of environment variables that hold secrets, and how long a secret is at least.
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
MIN_SECRET = 6
HIDDEN = "***"
# Stands for every character of a document that is masked.
MASK = "█"
_CREDENTIALS = re.compile(
    r"(?<=://)[^/\s@\"']+(?=@)|(?<=\bBearer )\S{6,}"
    r"|(?<=[?&]key=)[^&\s\"']+|(?<=[?&]api_key=)[^&\s\"']+|(?<=[?&]token=)[^&\s\"']+"
)
# What a terminal would act on, or show in another order than it stands: control characters but
# newline and tab, and the bidirectional and invisible controls of Unicode.
_TERMINAL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]"
)
_BREAKS_TABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]|%(?=[0-9A-F]{2})")
FORMULA_STARTS = ("=", "+", "-", "@")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
_WORD = re.compile(r"\w+")
_NAME_WORD = re.compile(r"\w[\w-]*")
# Scripts written without spaces: Thai, Lao, Myanmar, Khmer, Chinese and Japanese; Korean has them.
# In comparisons each of their characters counts as a word: otherwise two such texts would never
# share a word.
UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
)
_UNSPACED = re.compile(UNSPACED)
# English contractions: "what's", "doesn't", with any apostrophe.
_APOSTROPHE = r"['\u2018\u2019\u201b\u02bc\uff07]"
_CONTRACTED = {"n": " not", "s": " is", "re": " are", "ll": " will", "ve": " have", "m": " am"}
_CONTRACTION = re.compile(rf"(?i)n?{_APOSTROPHE}t\b|{_APOSTROPHE}(s|re|ll|ve|m)\b")
_IRREGULAR = re.compile(rf"(?i)\b(?:can(?=not\b|{_APOSTROPHE}t\b)|won(?={_APOSTROPHE}t\b))")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>")
# What a scanner takes for each other.
_SCANNED = str.maketrans("01ij58", "olllsb", "_ ")
_SCANNED_ASCII = {code: None for code in range(128) if not chr(code).isalnum()} | _SCANNED
# Function words of English and of question templates: sharing them supports no answer.
STOP_WORDS = """
    a about after all also an and any are as at be because been before both but by can could did do
    does for from had has have he her his how i if in into is it its may more most no not of on one
    only or other our out over shall she should so some such than that the their them then there
    these they this those to under up was we were what when where which while who whom whose why
    will with would you your"""

# What some tokenizer reads as a control token: turn marks, special tokens, tags of reasoning and
# of tool calls.
CONTROL_TOKENS = re.compile(
    r"<\|[^<>|\s]{1,61}>|<[^<>|\s]{1,61}\|>|<\|[^<>|]{1,61}\|>|<｜[^<>｜\n]{1,60}｜>"
    r"|</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|start_of_turn|end_of_turn"
    r"|start_of_image|end_of_utterance|end_of_text|fim_(?:prefix|middle|suffix|pad))>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
    r"|TOOL_CONTENT|ARGS|CALL_ID|IMG|THINK|SEP|CLS|MASK)\]",
    re.IGNORECASE,
)
# The tags that our own prompts put around passages and quotes.
PROMPT_TAGS = re.compile(r"</?passages?(?:\s[^<>\n]{0,40})?>|</?quote>", re.IGNORECASE)


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", without_punctuation(text)).split())


def redact(text: str, secrets: Iterable[str] | None = None) -> str:
    """`text` without secrets: the values of environment variables that hold keys or passwords, and
    the credentials in addresses. For error texts and settings that are printed or written.

    `secrets` are those of `secrets_of_environment`, where many texts are redacted.
    """
    for secret in secrets_of_environment() if secrets is None else secrets:
        text = text.replace(secret, HIDDEN)
    return _CREDENTIALS.sub(HIDDEN, text)


def secrets_of_environment() -> list[str]:
    """The values of environment variables that hold keys or passwords, as they are and as they
    stand in an address."""
    values = [os.environ[name].strip() for name in os.environ if _SECRET_NAME.search(name)]
    long = [value for value in values if len(value) >= MIN_SECRET]
    return [form for value in long for form in (value, quote(value, safe=""))]


def for_terminal(text: str) -> str:
    r"""`text` ready to be shown on a terminal: escape sequences, carriage returns and bidirectional
    controls are written out (\x1b), secrets are left out."""
    return _TERMINAL.sub(lambda match: ascii(match[0])[1:-1], redact(text))


def cell_id(id: str) -> str:
    """An id as it stands in a table and in the files that the table refers to: what would break a
    line, or begin a formula in a spreadsheet, is written as %XX."""
    broken = _BREAKS_TABLE.sub(lambda match: quote(match[0]), id)
    return f"%{ord(broken[0]):02X}{broken[1:]}" if broken[:1] in FORMULA_STARTS else broken


def without_punctuation(text: str) -> str:
    """SQuAD's normal form with its articles: lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def composed(text: str) -> str:
    """The text in composed characters (NFC): an accent is part of its letter."""
    return in_form("NFC", text)


def in_form(form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str) -> str:
    """The text in a normal form of Unicode, in linear time.

    Ordering the marks after one letter takes quadratic time, 5 seconds for 200 KB of them. After
    30 marks a joiner ends the order (Unicode's Stream-Safe Text Format, UAX 15).
    """
    if text.isascii():
        return text
    return unicodedata.normalize(form, _many_marks().sub("\\g<0>\u034f", text))


@lru_cache(maxsize=1)
def _many_marks() -> re.Pattern[str]:
    marks = "".join(chr(n) for n in range(0x300, 0x1E94B) if unicodedata.combining(chr(n)))
    return re.compile(f"[{marks}]{{30}}(?=[{marks}])")


def single_spaced(text: str) -> str:
    """Case folded, white space single, all else left in."""
    return " ".join(text.casefold().split())


def excerpt(text: str, length: int = 160) -> str:
    """The beginning of a text on one line, of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def normalise_question(text: str) -> str:
    """Letters and digits only, compatibility forms unified, lower case, single spaces: two
    spellings of one question become equal."""
    kept = (c if c.isalnum() else " " for c in in_form("NFKC", text).casefold())
    return " ".join("".join(kept).split())


def skeleton(text: str) -> str:
    """The words of a text as a reader sees them: compatibility forms and look-alike letters
    unified, without accents, invisible characters, case and punctuation; single spaces.

    Two texts that a writer could pass off as different ones become equal.
    """
    if not text.isascii():
        text = in_form("NFKC", text).translate(_look_alikes())
        parts = in_form("NFKD", text.casefold())
        text = "".join(c for c in parts if unicodedata.category(c) not in ("Mn", "Cf"))
    return " ".join(_WORD.findall(text.casefold()))


def without_contractions(text: str) -> str:
    """The text in compatibility forms, with English contractions in full: "what is" for "what's",
    "does not"."""
    text = _IRREGULAR.sub(_in_full, in_form("NFKC", text))
    return _CONTRACTION.sub(lambda match: _CONTRACTED[(match[1] or "n").lower()], text)


def _in_full(match: re.Match[str]) -> str:
    return "will" if match[0].lower() == "won" else "can "


def all_letters(text: str) -> str:
    """The letters and digits of a text as a reader sees them, one after the other: its `skeleton`
    without blanks and tags, where what a scanner takes for each other is one letter. A letter of a
    script without spaces stands three times, since it says as much as three others."""
    plain = _TAG.sub("", html.unescape(text))
    if plain.isascii():  # the same in a tenth of the time
        letters = plain.lower().translate(_SCANNED_ASCII)
    else:
        letters = skeleton(plain).translate(_SCANNED)
    letters = letters.replace("rn", "m").replace("vv", "w")
    return letters if letters.isascii() else _UNSPACED.sub(lambda match: match[0] * 3, letters)


@lru_cache(maxsize=1)
def _look_alikes() -> dict[int, str]:
    """{character: the ASCII letter or digit that it looks like}, by Unicode's confusables."""
    from importlib.resources import files

    path = files("confusable_homoglyphs") / "confusables.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    letters = string.ascii_letters + string.digits
    return {
        ord(entry["c"]): letter
        for letter in reversed(letters)  # of two that look alike, lower case counts
        for entry in table.get(letter, ())
        if len(entry["c"]) == 1 and not entry["c"].isascii()
    }


def contains_words(text: str, wanted: str) -> bool:
    """Whether `text` contains `wanted` as whole words, or as a substring where `wanted` is of a
    script without spaces.

    Both are in the same normal form. "" is contained only in "".
    """
    if not wanted:
        return not text
    return wanted in text if is_unspaced(wanted) else f" {wanted} " in f" {text} "


@lru_cache(maxsize=1 << 14)
def stems(text: str) -> tuple[str, ...]:
    """Words, lower case and Porter-stemmed as rouge-score does it; letters, marks and digits of
    every script are kept.

    On ASCII text it equals rouge-score's own tokenizer with `use_stemmer=True` (which drops
    everything else).
    """
    text = text.lower()
    if text.isascii():
        return tuple(_stem(word) for word in _ASCII_WORDS.findall(text))
    # Letters, marks and numbers make words; where a script has no spaces each letter is a word.
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return tuple(_stem(word) for word in _UNSPACED.sub(r" \g<0> ", kept).split())


def content_words(text: str) -> set[str]:
    """Stems that carry meaning: without English function words."""
    return set(stems(text)).difference(stems(STOP_WORDS))


def all_words(text: str) -> set[str]:
    """All words, casefolded."""
    return {word.casefold() for word in _WORD.findall(text)}


def entity_words(text: str) -> set[str]:
    """Words that are names or numbers as far as spelling shows it, casefolded: those with a digit,
    and those in upper case after the first word."""
    return {
        word.casefold()
        for place, word in enumerate(_WORD.findall(text))
        if any(c.isdigit() for c in word) or (place > 0 and word[0].isupper())
    }


def name_runs(text: str) -> list[str]:
    """The names in a question or sentence: runs of words in upper case, which digits may follow.

    The first word does not count. Scripts without upper case have no names here.
    """
    names: list[str] = []
    end = -1  # of the name that the next word may continue
    for place, word in enumerate(_NAME_WORD.finditer(text)):
        if place and (word[0][0].isupper() or (end >= 0 and word[0][0].isdigit())):
            if end >= 0 and text[end : word.start()] == " ":
                names[-1] += f" {word[0]}"
            else:
                names.append(word[0])
            end = word.end()
        else:
            end = -1
    return names


def is_unspaced(text: str) -> bool:
    """Whether a text has characters of a script written without spaces (Chinese, Thai ...)."""
    return not text.isascii() and bool(_UNSPACED.search(text))


def escape_control_tokens(text: str, special_tokens: Iterable[str] = ()) -> str:
    """`text` with a space after the first character of every control token ("<|im_end|>" becomes
    "< |im_end|>"), so that no document can end its turn or open another one.

    Args:
        text: a whole message; the tags of our own prompts stay as they are.
        special_tokens: further control tokens, those of the tokenizer at hand. Single characters
            are left as they are: nothing can be put inside them.

    Returns:
        A text in which no control token is left; escaping it again changes nothing.
    """
    # A space around a special token belongs to the text before or after it.
    special = [token.strip() for token in special_tokens if len(token.strip()) > 1]
    while True:
        escaped = CONTROL_TOKENS.sub(_spread, text)
        for token in special:
            escaped = escaped.replace(token, f"{token[0]} {token[1:]}")
        # Tokens that overlap need a second look.
        if escaped == text:
            return text
        text = escaped


def neutralise(text: str) -> str:
    """`text` of a document, a question or a model, ready to be put into a prompt: its control
    tokens and the tags of our own prompts are escaped.

    A document's `<|im_end|>` must not end our message, nor its `</passage>` the passage. All else
    stays as it is, and neutralising the result changes nothing.
    """
    while True:
        escaped = PROMPT_TAGS.sub(_spread, escape_control_tokens(text))
        if escaped == text:
            return text
        text = escaped


def _spread(match: re.Match[str]) -> str:
    return f"{match[0][0]} {match[0][1:]}"


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    return _stemmer().stem(word) if len(word) > 3 and word.isascii() else word


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    # nltk takes about a second to import: only when a text is scored.
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
