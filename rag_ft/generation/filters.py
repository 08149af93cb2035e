"""What a generated pair must be to be kept. Each check is a pure function: None where it passes, else the reason."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rag_ft.evaluation.metrics.squad import contains, token_f1
from rag_ft.prompts.prompt_set import is_abstention
from rag_ft.relevance import Span, locate, occurrences
from rag_ft.storage import encodable
from rag_ft.text import all_words, entity_words, is_unspaced, neutralise, normalise, stems

MAX_REPLY_CHARACTERS = 20_000
MAX_QUESTION_CHARACTERS = 400
MIN_QUESTION_WORDS, MAX_QUESTION_WORDS = 3, 60
MIN_UNSPACED_CHARACTERS = 4
MAX_FACT_WORDS = 30
DRAFT_KEYS = ("evidence", "question", "answer")


@dataclass(frozen=True)
class Draft:
    """What a model wrote, not yet believed."""

    evidence: str
    question: str
    answer: str


@dataclass(frozen=True)
class Failure:
    """`reason` is one of a few fixed words that are counted, `detail` says what it was this time."""

    reason: str
    detail: str = ""


def parse_reply(text: str, finish_reason: str) -> Draft | Failure:
    """The pair in a reply: a JSON object, perhaps in a code fence or with words around it.

    Failures: cut_off (the reply hit its length limit), bad_json, nothing_to_ask (an empty question).
    """
    row = _first_object(text, DRAFT_KEYS)
    if row is None:
        reason = "cut_off" if finish_reason == "length" else "bad_json"
        return Failure(reason, _shorten(text))
    values = [row[key] for key in DRAFT_KEYS]
    if not all(isinstance(value, str) for value in values):
        return Failure("bad_json", f"evidence, question and answer must be texts: {_shorten(text)}")
    evidence, question, answer = (" ".join(str(value).split()) for value in values)
    if not question:
        return Failure("nothing_to_ask", _shorten(evidence))
    return Draft(evidence, question, answer)


def check_kind(draft: Draft, kind: str, abstain: str) -> Failure | None:
    """The answer abstains where the kind is unanswerable, and nowhere else."""
    abstained = not draft.answer or is_abstention(draft.answer, abstain)
    if abstained == (kind == "unanswerable"):
        return None
    if abstained:
        return Failure("nothing_to_ask", draft.question)
    return Failure("answered", f"{draft.question} -> {_shorten(draft.answer)}")


def check_form(draft: Draft, kind: str) -> Failure | None:
    """One question of a sensible length, without markup, that does not give its answer away."""
    question, words = draft.question, draft.question.split()
    if not question.endswith(("?", "？", "؟", "\u037e")) and not _GREEK_QUESTION.search(question):
        return Failure("form", f"no question mark: {_shorten(question)}")
    # languages that put endings where English has words ask in fewer; they show by letters that English lacks
    least_words = MIN_QUESTION_WORDS if question.isascii() else MIN_QUESTION_WORDS - 1
    short = (
        len(question) < MIN_UNSPACED_CHARACTERS
        if is_unspaced(question)
        else len(words) < least_words
    )
    if short or len(words) > MAX_QUESTION_WORDS or len(question) > MAX_QUESTION_CHARACTERS:
        return Failure("form", f"{len(words)} words: {_shorten(question)}")
    if neutralise(question + draft.answer) != question + draft.answer:
        return Failure("form", f"control tokens: {_shorten(question)}")
    if kind == "factoid" and len(draft.answer.split()) > MAX_FACT_WORDS:
        return Failure("form", f"an answer of {len(draft.answer.split())} words to a single fact")
    if kind != "unanswerable" and _gives_away(question, draft.answer):
        return Failure("form", f"holds its answer: {_shorten(question)}")
    return None


def check_stands_alone(question: str) -> Failure | None:
    """Whoever has never seen the passage knows what is asked: no "the passage", no "it" that nothing names."""
    for pattern in _REFERENCES:
        if match := pattern.search(question):
            return Failure("stands_alone", f"'{match[0]}': {_shorten(question)}")
    if _is_pronoun_only(question):
        return Failure("stands_alone", f"pronoun: {_shorten(question)}")
    return None


def check_subject(question: str, passage: str) -> Failure | None:
    """What an unanswerable question asks about is what the passage is about: it holds one of the question's names,
    where there are any. A question about something else is too easily told from one that the documents answer."""
    wanted = entity_words(question)
    if not wanted or wanted & all_words(passage):
        return None
    return Failure(
        "off_subject",
        f"the passage names none of {', '.join(sorted(wanted))}: {_shorten(question)}",
    )


def find_evidence(draft: Draft, text: str, focus: Span) -> tuple[Span | None, bool]:
    """(the span of the chunk's text that proves the answer, whether it had to be repaired).

    It is what the model quoted. Where that is not in the text, or does not hold an answer that the focus sentence
    holds word for word, it is the focus sentence; failing that, None.
    """
    quoted = locate(draft.evidence, text, focus)
    sentence = text[focus[0] : focus[1]]
    if quoted is not None and (supports(text[quoted[0] : quoted[1]], draft.answer)):
        return quoted, False
    if draft.answer and occurrences(draft.answer, sentence):
        return focus, True
    return quoted, False


def check_evidence(draft: Draft, span: Span | None, text: str, kind: str) -> Failure | None:
    """The quote is in the chunk; a single fact's answer is in the quote."""
    if span is None:
        return Failure("evidence", f"not in the chunk: {_shorten(draft.evidence)}")
    if kind == "factoid" and not supports(text[span[0] : span[1]], draft.answer):
        return Failure(
            "unsupported",
            f"{_shorten(draft.answer)} is not in: {_shorten(text[span[0] : span[1]])}",
        )
    return None


def supports(evidence: str, answer: str) -> bool:
    """Whether the evidence holds the answer word for word, or at least each of its words."""
    if occurrences(answer, evidence):
        return True
    words = normalise(answer).split()
    return bool(words) and set(words) <= set(normalise(evidence).split())


def same_answer(said: str, answer: str, least_f1: float) -> bool:
    """Whether two answers agree: F1 of at least `least_f1`, or one contains the other; and neither contradicts the
    other by its numbers or a "not"."""
    said, answer = (unicodedata.normalize("NFKC", text) for text in (said, answer))
    if not normalise(said) or not normalise(answer) or _contradict(said, answer):
        return False
    return agreement(said, answer) >= least_f1 or bool(
        contains(said, [answer]) or contains(answer, [said])
    )


def agreement(said: str, answer: str) -> float:
    """Token F1 as SQuAD counts it; in scripts without spaces of characters, where a whole phrase would be one token.
    0 where the answers contradict each other: two dates share all but their digits."""
    if _contradict(said, answer):
        return 0.0
    if not is_unspaced(answer):
        return token_f1(said, [answer])
    return token_f1(" ".join(stems(said)), [" ".join(stems(answer))])


def _contradict(said: str, answer: str) -> bool:
    """Whether both name numbers, each one that the other lacks; or one is the other with a negation put in."""
    said, answer = (unicodedata.normalize("NFKC", text) for text in (said, answer))
    numbers = [{_digits(number) for number in _NUMBER.findall(text)} for text in (said, answer)]
    if all(numbers) and not (numbers[0] <= numbers[1] or numbers[1] <= numbers[0]):
        return True
    plain = [_NEGATION.subn("", normalise(text)) for text in (said, answer)]
    is_negated = [num > 0 for _, num in plain]
    return is_negated[0] != is_negated[1] and plain[0][0].split() == plain[1][0].split()


def _digits(number: str) -> str:
    """The same for 1,000 and 1000, and for 05 and 5."""
    return re.sub(r"\D", "", number).lstrip("0") if number[0].isdecimal() else number


def _first_object(text: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """The first JSON object in a text that has all the keys, be there other braces before it."""
    decoder, start = json.JSONDecoder(strict=False), text.find("{")
    while start >= 0 and len(text) <= MAX_REPLY_CHARACTERS:
        try:
            row = encodable(decoder.raw_decode(text, start)[0])
        except (ValueError, RecursionError):
            row = {}
        if set(keys) <= row.keys():
            return row
        start = text.find("{", start + 1)
    return None


def _gives_away(question: str, answer: str) -> bool:
    if not normalise(answer) or re.search(r"\b(or|oder|ou)\b", question, re.IGNORECASE):
        return False
    return bool(contains(question, [answer]))


def _is_pronoun_only(question: str) -> bool:
    """ "What does it cost?", "Who founded it?", but not "How long does it take to cross the bay?"."""
    if _PRONOUN_SUBJECT.match(question):
        return not _EXPLETIVE.search(question)
    words = re.findall(r"[\w']+", question.casefold())
    named = [word for word in words if word not in _FUNCTION_WORDS]
    return (
        len(named) <= 1
        and any(word in _PRONOUNS for word in words)
        and not re.search(r"\w[A-Z]|\d", question)
    )


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


def _pattern(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE)


_REFERENCES = (
    _pattern(
        r"\b(?:the|this|that|these|above|given|following|provided)\s+(?:passages?|excerpts?|paragraphs?|snippets?)\b",
        r"\b(?:the|this)\s+(?:text|context)\b(?!\s+(?:of|messages?|editor|file|field|box|windows?|menus?|lengths?|sizes?"
        r"|switch|in which)\b)",
        r"\b(?:this|that|above|given|following|provided)\s+(?:document|article|section|sentence|chapter|page|table|figure"
        r"|report|study|paper|list|information|statement|chunk)\b",
        r"\b(?:in|from|by|to|according to|based on|per)\s+the\s+(?:document|article|section|sentence|table|figure"
        r"|information|statement|chunk|author|authors|text|list)\b(?!\s+(?:of|on|about|called|for)\b)",
        r"\b(?:mentioned|described|listed|discussed|stated|shown|given)\s+(?:above|below|here|earlier)\b",
        r"\bas\s+(?:mentioned|described|stated)\b",
    ),
    _pattern(
        r"\b(?:(?:im|dem|diesem|den|diesen|der|dieser|dieses|vorliegenden)\s+(?:Text|Textes|Abschnitt|Passage|Absatz"
        r"|Textabschnitt)|(?:diesem|dieses|vorliegenden)\s+(?:Dokument|Artikel))\b",
        r"\b(?:le|ce|du|au)\s+(?:texte|passage|paragraphe|extrait)\b|\bce\s+(?:document|article)\b|ci-dessus",
        r"\b(?:el|este|del|al)\s+(?:texto|pasaje|fragmento|párrafo)\b|\beste\s+(?:documento|artículo)\b",
        r"\b(?:il|questo|nel|del|dal)\s+(?:testo|brano|paragrafo)\b|\bquesto\s+(?:documento|articolo)\b",
        r"\b(?:o|este|no|do)\s+(?:texto|trecho|parágrafo)\b|\b(?:de|deze)\s+(?:passage|tekst|alinea)\b",
        r"\b(?:в|этом|данном)\s+(?:тексте|отрывке|абзаце)\b",
    ),
    _pattern(
        r"本文|上文|这段|该段|短文中|(?:^|[，,：:、])文中|この文章|上記の|이 글|본문|النص|الفقرة"
    ),
)
_GREEK_QUESTION = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff].*;$", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:[.,:'’]\d+)*|[〇零一二三四五六七八九十百千万億亿]+")
# of an answer in normal form; "no 5" is a number
_NEGATION = re.compile(
    r"\b(?:not|never|no(?!\s*\d)|nicht|keine?[mnrs]?|pas|non|niet|geen|não|не)\b"
)
_PRONOUNS = frozenset(
    [
        "it",
        "he",
        "she",
        "they",
        "him",
        "her",
        "his",
        "its",
        "their",
        "them",
        "this",
        "that",
        "these",
        "those",
    ]
)
_FUNCTION_WORDS = _PRONOUNS.union(
    [
        "a",
        "an",
        "the",
        "who",
        "what",
        "which",
        "when",
        "where",
        "why",
        "how",
        "whom",
        "whose",
        "is",
        "are",
        "was",
    ],
    [
        "were",
        "be",
        "been",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "can",
        "could",
        "will",
        "would",
        "shall",
    ],
    [
        "should",
        "may",
        "might",
        "must",
        "to",
        "of",
        "in",
        "on",
        "at",
        "by",
        "for",
        "from",
        "with",
        "about",
        "as",
    ],
    ["and", "or", "not", "much", "many", "there"],
)
_PRONOUN_SUBJECT = re.compile(
    r"(?:(?:in|at|on|to|for|from|by|with|of|since|until|about|under|during)\s+)?"
    r"(?:(?:what|which|who|whom|whose|when|where|why|how)(?:\s+[a-z-]+){0,2}?\s+)?"
    r"(?:is|are|was|were|did|does|do|has|have|had|can|could|will|would|should|may|might|must)\s+"
    r"(?:(?:it|he|she|they|these|those)\b(?!\s+(?:who|that|which)\b)|(?:this|that)\s+(?:\w+\s*\?|[a-z]+ed\b)"
    r"|(?<=who\sis\s)(?:its|his|her|their)\b|(?<=who\swas\s)(?:its|his|her|their)\b|(?<=what\sis\s)(?:its|his|her|their)\b"
    r"|(?<=what\sare\s)(?:its|his|her|their)\b|(?<=what\swas\s)(?:its|his|her|their)\b)",
    re.IGNORECASE,
)
_EXPLETIVE = re.compile(r"\bit\b.*\s(?:to|that|for|if|when)\s+\w+", re.IGNORECASE)
