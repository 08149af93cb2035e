"""Ways to hide a test document in a train document, and a test question among train questions.

Each takes a text that is looked for and returns one that a reader takes for the same. All draws
come from the generator that is handed in.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Sequence

Draw = random.Random
# A test document -> the texts of the train files that it is hidden in, `{before}` and `{after}`
# being other text.
DocumentAttack = Callable[[str, Draw], list[str]]
QuestionAttack = Callable[[str, Draw], str]

CYRILLIC = str.maketrans("aeopcxyiABEKMHOPCTX", "аеорсхуіАВЕКМНОРСТХ")
GREEK = str.maketrans("oavuABEZHIKMNOPTYX", "οανυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
SCANNED = {"o": "0", "l": "1", "i": "l", "s": "5", "b": "8", "m": "rn", "w": "vv"}
MISREAD = {**SCANNED, "e": "c", "h": "b", "n": "u", "t": "f"}
_SENTENCE = re.compile(r"[^.!?]+[.!?]\s*")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its punctuation."""
    return [found.strip() for found in _SENTENCE.findall(text)]


def paragraphs(text: str, draw: Draw) -> list[str]:
    """The text as paragraphs of three sentences."""
    parts = sentences(text)
    return [" ".join(parts[n : n + 3]) for n in range(0, len(parts), 3)]


def inside_words(text: str, mark: str, draw: Draw, share: float = 0.6) -> str:
    """A mark in the middle of words."""

    def broken(match: re.Match[str]) -> str:
        word = match[0]
        place = draw.randrange(2, len(word) - 1)
        return word[:place] + mark + word[place:] if draw.random() < share else word

    return re.sub(r"[^\W\d_]{5,}", broken, text)


def words_changed(text: str, share: float, draw: Draw) -> str:
    """A share of the words replaced by others."""
    others = ("nevertheless", "somewhat", "elsewhere", "altogether", "thereby")
    return " ".join(draw.choice(others) if draw.random() < share else w for w in text.split(" "))


def noisy(text: str, table: dict[str, str], share: float, draw: Draw) -> str:
    """A share of the letters misread."""
    return "".join(table[c] if c in table and draw.random() < share else c for c in text)


def reflowed(text: str, width: int) -> str:
    """Lines of another width."""
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "\n".join([*lines, line])


def hyphenated(text: str, draw: Draw) -> str:
    """Words broken at the ends of lines."""
    return inside_words(text, "-\n", draw, 0.3)


def as_table(text: str) -> str:
    """Sentences as rows of a table, numbered."""
    rows = "\n".join(f"| {n} | {s} |" for n, s in enumerate(sentences(text), 1))
    return f"| no. | statement |\n|---|---|\n{rows}"


def shuffled(parts: Sequence[str], draw: Draw) -> list[str]:
    """The parts in another order."""
    return draw.sample(list(parts), len(parts))


def interleaved(text: str) -> str:
    """Another sentence after each one."""
    other = "Further remarks on quite unrelated matters follow below"
    return " ".join(f"{s} {other} {n}." for n, s in enumerate(sentences(text)))


def accented(text: str) -> str:
    """Accents on vowels."""
    return text.translate(str.maketrans("aeiou", "áèîöū"))


def _within(hide: Callable[[str, Draw], str]) -> DocumentAttack:
    return lambda text, draw: [f"{{before}}\n\n{hide(text, draw)}\n\n{{after}}"]


def _two_files(text: str, draw: Draw) -> list[str]:
    words = text.split(" ")
    half = len(words) // 2
    parts = " ".join(words[:half]), " ".join(words[half:])
    return [f"{{before}}\n\n{part}" for part in parts]


def _half(text: str) -> str:
    parts = sentences(text)
    return " ".join(parts[: len(parts) // 2])


def _markup(text: str) -> str:
    return re.sub(r"\b(\w{7,})\b", r"**\1**", text).replace(". ", ".\n\n* ")


def _html(text: str) -> str:
    return re.sub(r"\b(\w{6,})\b", r"<b>\1</b>", text).replace(". ", ".</p><p>")


DOCUMENT_ATTACKS: dict[str, DocumentAttack] = {
    "renamed copy": lambda text, draw: [text],
    "copy with a line added": lambda text, draw: [f"{text}\nPrinted on paper."],
    "whole inside a longer file": _within(lambda text, draw: text),
    "half": _within(lambda text, draw: _half(text)),
    "one paragraph": _within(lambda text, draw: draw.choice(paragraphs(text, draw)[:-1])),
    "2 % of words changed": _within(lambda text, draw: words_changed(text, 0.02, draw)),
    "10 % of words changed": _within(lambda text, draw: words_changed(text, 0.1, draw)),
    "other markup": _within(lambda text, draw: _markup(text)),
    "tags": _within(lambda text, draw: _html(text)),
    "upper case": _within(lambda text, draw: text.upper()),
    "title case": _within(lambda text, draw: text.title()),
    "soft hyphens": _within(lambda text, draw: inside_words(text, "\u00ad", draw)),
    "zero-width spaces": _within(lambda text, draw: inside_words(text, "\u200b", draw)),
    "zero-width joiners": _within(lambda text, draw: inside_words(text, "\u200d", draw)),
    "Cyrillic letters": _within(lambda text, draw: text.translate(CYRILLIC)),
    "Greek letters": _within(lambda text, draw: text.translate(GREEK)),
    "decomposed accents": _within(lambda text, draw: unicodedata.normalize("NFD", accented(text))),
    "full width": _within(lambda text, draw: full_width(text)),
    "reflowed": _within(lambda text, draw: reflowed(text, 37)),
    "hyphenated": _within(hyphenated),
    "as a table": _within(lambda text, draw: as_table(text)),
    "other punctuation": _within(
        lambda text, draw: text.replace(". ", "。").replace(",", "、").replace(" ", "\u3000")
    ),
    "scanner's noise": _within(lambda text, draw: noisy(text, SCANNED, 0.3, draw)),
    "3 % of letters misread": _within(lambda text, draw: noisy(text, MISREAD, 0.06, draw)),
    "sentences in another order": _within(
        lambda text, draw: " ".join(shuffled(sentences(text), draw))
    ),
    "paragraphs in another order": _within(
        lambda text, draw: "\n\n".join(shuffled(paragraphs(text, draw), draw))
    ),
    "split over two files": _two_files,
    "headings in between": _within(
        lambda text, draw: "\n\n".join(
            f"## Part {n}\n\n{s}" for n, s in enumerate(sentences(text), 1)
        )
    ),
    "other sentences in between": _within(lambda text, draw: interleaved(text)),
    "no blanks between sentences": _within(lambda text, draw: text.replace(". ", ".")),
}


def full_width(text: str) -> str:
    """ASCII in the width of Chinese characters."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _another_order(question: str, draw: Draw) -> str:
    words = question.rstrip("?").split()
    return " ".join(shuffled(words, draw)) + "?"


def _added(question: str, draw: Draw) -> str:
    words = question.split()
    words.insert(draw.randrange(1, len(words)), "exactly")
    return " ".join(words)


QUESTION_ATTACKS: dict[str, QuestionAttack] = {
    "same words": lambda question, draw: question,
    "soft hyphens": lambda question, draw: inside_words(question, "\u00ad", draw, 1),
    "zero-width joiners": lambda question, draw: inside_words(question, "\u200d", draw, 1),
    "zero-width spaces": lambda question, draw: inside_words(question, "\u200b", draw, 1),
    "hyphens": lambda question, draw: inside_words(question, "-", draw, 1),
    "diacritics": lambda question, draw: accented(question),
    "combining marks": lambda question, draw: "".join(f"{c}\u0301" for c in question),
    "Cyrillic letters": lambda question, draw: question.translate(CYRILLIC),
    "Greek letters": lambda question, draw: question.translate(GREEK),
    "mathematical letters": lambda question, draw: mathematical(question),
    "full width": lambda question, draw: full_width(question),
    "another order": _another_order,
    "one added word": _added,
    "upper case": lambda question, draw: question.upper(),
    "punctuation": lambda question, draw: question.replace(" ", ", ").replace("?", "!?"),
    "quotes": lambda question, draw: f"“{question.replace(' the ', ' «the» ')}”",
    "contractions": lambda question, draw: contracted(question),
    "other function words": lambda question, draw: question.replace(" the ", " this "),
    "scanner's noise": lambda question, draw: noisy(question, SCANNED, 0.5, draw),
    "bidirectional controls": lambda question, draw: f"\u202e{question}\u202c",
}


def mathematical(text: str) -> str:
    """Letters in mathematical bold."""
    bold = {ord(c): 0x1D41A + n for n, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    return text.translate(bold)


def contracted(text: str) -> str:
    """English contractions, with a typographic apostrophe."""
    for full, short in ((" is ", "’s "), (" are ", "’re "), (" not ", "n’t "), (" will ", "’ll ")):
        text = text.replace(full, short)
    return text
