"""The checks of a single generated pair.

Each check is a pure function that returns None if the pair passes, else the reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from rag_ft.documents.sentences import split_sentences
from rag_ft.evaluation.metrics.squad import contains, token_f1
from rag_ft.generation.json_answers import truth_value
from rag_ft.generation.leaning import leans_on
from rag_ft.generation.question_patterns import asks, capitalises_nouns
from rag_ft.prompts.prompt_set import is_abstention
from rag_ft.relevance import Span, locate, occurrences
from rag_ft.schema import QAPair
from rag_ft.storage import encodable
from rag_ft.text import (
    MASK,
    all_words,
    entity_words,
    in_form,
    is_unspaced,
    name_runs,
    neutralise,
    normalise,
    stems,
)

MAX_REPLY_CHARACTERS = 20_000
MAX_QUESTION_CHARACTERS = 400
MIN_QUESTION_WORDS, MAX_QUESTION_WORDS = 3, 60
MIN_UNSPACED_CHARACTERS = 4
MAX_FACT_WORDS = 30
PAIR_KEYS = ("evidence", "question", "answer")


@dataclass(frozen=True)
class WrittenPair:
    """A pair as the model wrote it, before any check."""

    evidence: str
    question: str
    answer: str


@dataclass(frozen=True)
class Failure:
    """Why a pair is rejected: `reason` is one of a few fixed words that are counted, `detail` shows
    the pair at hand. `pair` is what was rejected, where there is a question at all."""

    reason: str
    detail: str = ""
    pair: QAPair | None = None


# The reply.


def parse_reply(text: str, finish_reason: str) -> WrittenPair | Failure:
    """The pair in a reply: a JSON object, possibly in a code fence or with words around it.

    A number, true or false is an answer. Failures: cut_off (the reply reached its length limit),
    bad_json, nothing_to_ask (no question), form (control characters are left).
    """
    # A number keeps its spelling: 2.50 is not 2.5.
    decoder = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)
    row: dict[str, Any] = {}
    text = _whole_commands(text)
    start = text.find("{")
    # Take the first JSON object that has all keys; other braces may stand before it.
    while start >= 0 and len(text) <= MAX_REPLY_CHARACTERS and not set(PAIR_KEYS) <= row.keys():
        try:
            row = encodable(decoder.raw_decode(text, start)[0])
        except (ValueError, RecursionError):
            row = {}
        start = text.find("{", start + 1)
    if not set(PAIR_KEYS) <= row.keys():
        reason = "cut_off" if finish_reason == "length" else "bad_json"
        return Failure(reason, _shorten(text))
    if isinstance(row["answer"], bool):
        row["answer"] = truth_value(row["answer"], str(row["question"]))
    if not all(isinstance(row[key], str) for key in PAIR_KEYS):
        return Failure("bad_json", f"evidence, question and answer must be texts: {_shorten(text)}")
    evidence, question, answer = (" ".join(_decoded(row[key]).split()) for key in PAIR_KEYS)
    if not question:
        return Failure("nothing_to_ask", _shorten(evidence))
    if _CONTROLS.search(evidence + question + answer):
        return Failure("form", f"control characters: {_shorten(question)}")
    return WrittenPair(evidence, question, answer)


def _whole_commands(text: str) -> str:
    r"""Doubles the backslash of LaTeX commands: JSON would read `\theta` as a tab and `heta`."""
    return _ESCAPE.sub(lambda match: match[0] if match["is_escape"] else "\\" + match[0], text)


def _decoded(text: str) -> str:
    """Decodes escapes that a model wrote out: six characters that mean one."""
    found = _WRITTEN_OUT.sub(lambda match: chr(int(match[match.lastindex or 0], 16)), text)
    # A pair of surrogates is one character; a lone one is none.
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Question and answer.


def check_kind(pair: WrittenPair, kind: str, abstain: str) -> Failure | None:
    """The answer abstains if and only if the kind is unanswerable."""
    abstained = not pair.answer or is_abstention(pair.answer, abstain)
    if abstained == (kind == "unanswerable"):
        return None
    if abstained:
        return Failure("nothing_to_ask", pair.question)
    return Failure("answered", f"{pair.question} -> {_shorten(pair.answer)}")


def check_form(pair: WrittenPair, kind: str) -> Failure | None:
    """The question has a question mark, a sensible length and no markup, and does not contain its
    answer."""
    question, words = pair.question, pair.question.split()
    if not asks(question):
        return Failure("form", f"no question mark: {_shorten(question)}")
    # Languages that use endings where English uses words need fewer words for a question. Letters
    # that English lacks show such a language.
    least_words = MIN_QUESTION_WORDS if question.isascii() else MIN_QUESTION_WORDS - 1
    too_short = len(words) < least_words
    if is_unspaced(question):
        too_short = len(question) < MIN_UNSPACED_CHARACTERS
    if too_short or len(words) > MAX_QUESTION_WORDS or len(question) > MAX_QUESTION_CHARACTERS:
        return Failure("form", f"{len(words)} words: {_shorten(question)}")
    if MASK in question + pair.answer:
        return Failure("form", f"asks for what is masked: {_shorten(question)}")
    if neutralise(question + pair.answer) != question + pair.answer:
        return Failure("form", f"control tokens: {_shorten(question)}")
    if kind == "factoid" and len(pair.answer.split()) > MAX_FACT_WORDS:
        return Failure("form", f"an answer of {len(pair.answer.split())} words to a single fact")
    # "Is it red or blue?" contains its answer and is a good question.
    may_contain_answer = (
        kind == "unanswerable" or not normalise(pair.answer) or _CHOICE.search(question)
    )
    if not may_contain_answer and contains(question, [pair.answer]):
        return Failure("form", f"contains its answer: {_shorten(question)}")
    return None


def check_stands_alone(question: str) -> Failure | None:
    """A reader who has not seen the passage understands the question: it neither refers to "the
    passage" nor asks about an "it" without a name."""
    leaning = leans_on(question)
    return Failure("stands_alone", f"'{leaning}': {_shorten(question)}") if leaning else None


def check_subject(question: str, passage: str) -> Failure | None:
    """The passage names one of the things that an unanswerable question names, if it names any.

    A question about something else is too easy to distinguish from answerable ones.
    """
    wanted = entity_words(question)
    if not wanted or wanted & all_words(passage):
        return None
    names = ", ".join(sorted(wanted))
    return Failure("off_subject", f"the passage names none of {names}: {_shorten(question)}")


def check_named(question: str, told: str) -> Failure | None:
    """The longest name in an answerable question stands in `told`: its evidence, and what stands
    over that.

    Where all nouns have upper case, only names of several words count.
    """
    names = name_runs(question)
    if capitalises_nouns(question):
        names = [name for name in names if " " in name]
    longest = max(names, key=len, default="")
    if set(stems(longest)) <= set(stems(told)):
        return None
    return Failure("off_subject", f"the evidence does not name {longest}: {_shorten(question)}")


# Evidence.


def find_evidence(pair: WrittenPair, text: str, focus: Span) -> tuple[Span | None, bool]:
    """(the span of the chunk's text that is the evidence, whether it was repaired).

    It is the model's quote. If the quote is not in the text or does not contain the answer, it is
    the focus sentence if that contains the answer word for word. None: the quote is not in the text
    and could not be repaired.
    """
    quoted = locate(pair.evidence, text, focus)
    if quoted is not None and supports(text[quoted[0] : quoted[1]], pair.answer):
        return quoted, False
    if pair.answer and occurrences(pair.answer, text[focus[0] : focus[1]]):
        return focus, True
    return quoted, False


def told_about(text: str, span: Span) -> str:
    """The sentences of the evidence, with the one before, which "it" in them may refer to."""
    sentences = split_sentences(text)
    first = sum(start <= span[0] for start, _ in sentences) - 1
    start = sentences[max(0, first - 1)][0]
    return text[start : next((end for _, end in sentences if end >= span[1]), len(text))]


def check_evidence(pair: WrittenPair, span: Span | None, text: str, kind: str) -> Failure | None:
    """The quote is in the chunk; the evidence of a single fact contains the answer, and no name
    that only begins with it."""
    if span is None:
        return Failure("evidence", f"not in the chunk: {_shorten(pair.evidence)}")
    evidence = text[span[0] : span[1]]
    if kind == "factoid" and not supports(evidence, pair.answer):
        return Failure("unsupported", f"{_shorten(pair.answer)} is not in: {_shorten(evidence)}")
    if kind == "factoid" and _cuts_name(pair.answer, evidence):
        return Failure("unsupported", f"{pair.answer} is cut from a name: {_shorten(evidence)}")
    return None


def _cuts_name(answer: str, evidence: str) -> bool:
    """Whether the answer ends inside a name wherever it stands in the evidence: "Ola" of "Ola
    Brand"."""
    last = answer.split()[-1:]
    if not last or not last[0][0].isupper() or capitalises_nouns(evidence):
        return False
    rests = [evidence[end:] for _, end in occurrences(answer, evidence)]
    return bool(rests) and all(rest[:1] == " " and rest[1:2].isupper() for rest in rests)


def supports(evidence: str, answer: str) -> bool:
    """Whether the evidence contains the answer word for word, or at least each of its words."""
    if occurrences(answer, evidence):
        return True
    words = normalise(answer).split()
    return bool(words) and set(words) <= set(normalise(evidence).split())


# Agreement of two answers.


def same_answer(said: str, answer: str, least_f1: float) -> bool:
    """Whether two answers agree: their F1 (0-1) is at least `least_f1`, or one contains the other
    (not with a `least_f1` of 1); and they differ neither by a number nor by a "not"."""
    said, answer = (in_form("NFKC", text) for text in (said, answer))
    if not normalise(said) or not normalise(answer) or _contradict(said, answer):
        return False
    if agreement(said, answer) >= least_f1:
        return True
    return least_f1 < 1 and bool(contains(said, [answer]) or contains(answer, [said]))


def agreement(said: str, answer: str) -> float:
    """SQuAD's token F1 (0-1) of two answers; 0 if they contradict each other, since two dates share
    all but their digits.

    In scripts without spaces the tokens are characters: a whole phrase would be a single token.
    """
    if _contradict(said, answer):
        return 0.0
    if not is_unspaced(answer):
        return token_f1(said, [answer])
    return token_f1(" ".join(stems(said)), [" ".join(stems(answer))])


def _contradict(said: str, answer: str) -> bool:
    """Whether each answer has a number that the other lacks, or they differ only by a negation."""
    said, answer = (in_form("NFKC", text) for text in (said, answer))
    numbers_said, numbers = _numbers(said), _numbers(answer)
    if numbers_said and numbers and not (numbers_said <= numbers or numbers <= numbers_said):
        return True
    plain_said, num_negations_said = _NEGATION.subn("", normalise(said))
    plain, num_negations = _NEGATION.subn("", normalise(answer))
    one_is_negated = (num_negations_said > 0) != (num_negations > 0)
    return one_is_negated and plain_said.split() == plain.split()


def _numbers(text: str) -> set[str]:
    """The numbers in a text; 1,000 and 1000 are the same, and so are 05 and 5."""
    return {
        re.sub(r"\D", "", number).lstrip("0") if number[0].isdecimal() else number
        for number in _NUMBER.findall(text)
    }


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:199] + "…"


# Patterns.

# An escape of JSON, or the backslash of a command of LaTeX that begins like one.
_ESCAPE = re.compile(
    r"""(?P<is_escape>\\[\\"/] | \\u[0-9a-fA-F]{4} | \\[bfr](?![a-zA-Z])
    | \\t(?!(?:heta|au|imes|o|ext\w*|anh?|ilde|op|riangle\w*|frac|herefore|bar|wohead\w+|t|iny|itle
        |binom|hick\w+|hinspace)(?![a-zA-Z]))
    | \\n(?!(?:u|abla|eq|e|ot|otin|eg|i|atural|earrow|mid|leq|geq|orm|onumber|ewline|exists|warrow
        |triangle(?:left|right)\w*|(?:[lL]eft|[rR]ight)\w*arrow|su[bp]set\w*|sim|cong|[vV][dD]ash
        |olimits|oindent|ewcommand|ull)(?![a-zA-Z])))
    | \\""",
    re.VERBOSE,
)
_WRITTEN_OUT = re.compile(
    r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,5})\}|U000([0-9a-fA-F]{5}))"
)
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")

_CHOICE = re.compile(r"\b(or|oder|ou)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,:'’]\d+)*|[〇零一二三四五六七八九十百千万億亿]+")
# Of an answer in normal form; "no 5" is a number.
_NEGATION = re.compile(
    r"\b(?:not|never|no(?!\s*\d)|nicht|keine?[mnrs]?|pas|non|niet|geen|não|не)\b"
)
