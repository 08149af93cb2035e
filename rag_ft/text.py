"""Text normalisation: the forms in which texts are compared, and escaped in prompts."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
_WORD = re.compile(r"\w+")
# Scripts written without spaces. Each character counts as a word there: otherwise two such texts
# would never share a word.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
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
    r"<\|[^<>|]{1,61}\|>|<｜[^<>｜\n]{1,60}｜>"
    r"|</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|start_of_turn|end_of_turn"
    r"|start_of_image)>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|THINK)\]",
    re.IGNORECASE,
)
# The tags that our own prompts put around passages and quotes.
PROMPT_TAGS = re.compile(r"</?passages?(?:\s[^<>\n]{0,40})?>|</?quote>", re.IGNORECASE)


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", without_punctuation(text)).split())


def without_punctuation(text: str) -> str:
    """SQuAD's normal form with its articles: lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def composed(text: str) -> str:
    """The text in composed characters (NFC): an accent is part of its letter."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def single_spaced(text: str) -> str:
    """Case folded, white space single, all else left in."""
    return " ".join(text.casefold().split())


def normalise_question(text: str) -> str:
    """Letters and digits only, compatibility forms unified, lower case, single spaces: two
    spellings of one question become equal."""
    kept = (c if c.isalnum() else " " for c in unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(kept).split())


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
