"""Which chunks contain the evidence of a pair, which may be negatives, and where a quote occurs.

Metrics, generation, training, evaluation and export all ask here whether a chunk is right for a
question, so they cannot disagree.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from rag_ft.schema import Chunk, Evidence, Place, QAPair
from rag_ft.text import composed, contains_words, content_words, is_unspaced, normalise

Span = tuple[int, int]

# A match that begins or ends inside a word counts only from this length on: "5" is not in "150".
MIN_INSIDE_WORD = 6
MAX_OCCURRENCES = 64
# An answer in other words than its chunk is recognised by its content words.
MIN_WORDS = 3
MIN_WORDS_SHARE = 0.8

_SAME = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        "…": ".",
    }
)
# A character with the combining marks after it: "e" and an accent are the same as "é".
_LETTER = re.compile(
    r".[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c2\u064b-\u065f"
    r"\u09bc\u09be\u09d7\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dca\u0dcf"
    r"\u0ddf\u102e\u1160-\u11ff\u3099\u309a]*",
    re.DOTALL,
)
_ACCENT = re.compile(r"[\u0300-\u036f\u3099\u309a]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u2060\ufeff]")
# What may surround a quote without being part of it. Dots are tried last: they can be part of it.
_EDGES = ("", "\"'“”‘’«»… ", "\"'“”‘’«».… ")


# Gold chunks: the chunks that contain the evidence.


def contains_evidence(chunk: Chunk, pair: QAPair) -> bool:
    """Whether the chunk contains the whole evidence of the pair."""
    evidence = pair.evidence
    return (
        evidence is not None
        and chunk.document_id == pair.document_id
        and chunk.start <= evidence.start
        and evidence.end <= chunk.end
    )


def overlaps_evidence(chunk: Chunk, pair: QAPair) -> bool:
    """Whether the chunk contains at least a character of the pair's evidence."""
    evidence = pair.evidence
    return (
        evidence is not None
        and chunk.document_id == pair.document_id
        and chunk.start < evidence.end
        and evidence.start < chunk.end
    )


def gold_chunks(pair: QAPair, chunks: Iterable[Chunk]) -> list[Chunk]:
    """The gold chunks of a pair among `chunks`, in their order.

    With evidence these are the chunks that contain all of it; where none does, those that overlap
    it. Without evidence it is the pair's own chunk if the pair is answerable.

    Args:
        pair: any pair; one without evidence and chunk has no gold chunk.
        chunks: all chunks of the pair's document, or any selection with the pair's own chunk in it.
            A selection has the same gold chunks as the document, as far as they were selected.
    """
    if pair.evidence is None:
        return [c for c in chunks if c.id == pair.chunk_id] if pair.answerable else []
    overlapping = [chunk for chunk in chunks if overlaps_evidence(chunk, pair)]
    return [chunk for chunk in overlapping if contains_evidence(chunk, pair)] or overlapping


def gold_chunk_ids(pair: QAPair, chunks: Iterable[Chunk]) -> set[str]:
    """The ids of `gold_chunks`."""
    return {chunk.id for chunk in gold_chunks(pair, chunks)}


def gold_by_pair(pairs: Iterable[QAPair], chunks: Iterable[Chunk]) -> dict[str, set[str]]:
    """pair id -> `gold_chunk_ids` among `chunks`: those of many documents, in any order."""
    chunks_of = chunks_by_document(chunks)
    return {pair.id: gold_chunk_ids(pair, chunks_of[pair.document_id or ""]) for pair in pairs}


def fallback_gold_chunks(pair: QAPair, ranked: Iterable[Chunk]) -> list[Chunk]:
    """For training on pairs whose gold chunk is unknown: the best-ranked chunk that mentions an
    accepted answer, or none. Metrics leave such pairs out and never use it."""
    return next(([chunk] for chunk in ranked if mentions_answer(chunk, pair.answers)), [])


def chunks_by_document(chunks: Iterable[Chunk]) -> dict[str, list[Chunk]]:
    """document id -> its chunks in their order; empty for a document without chunks."""
    grouped: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        grouped[chunk.document_id].append(chunk)
    return grouped


# What must be shown for the answer to be right.


def second_chunk_id(pair: QAPair) -> str | None:
    """The other chunk of a question that was asked about two; None for all other questions."""
    return pair.provenance.get("second_chunk_id") or None


def needed_chunks(
    pair: QAPair,
    gold: Sequence[Chunk],
    chunks: Mapping[str, Chunk],
) -> list[Chunk]:
    """The chunks that together contain the evidence: the first of `gold` if it contains all of it,
    else all of `gold` in the order of the document; for a question about two chunks the second too.

    Args:
        pair: an answerable pair, or one whose own chunk takes the place of a gold chunk.
        gold: its gold chunks, the preferred one first; none: nothing is needed.
        chunks: by id; a second chunk that is not among them is left out.
    """
    # Evidence that no chunk contains whole is spread over several.
    spread = pair.evidence is not None and not any(contains_evidence(c, pair) for c in gold)
    needed = sorted(gold, key=lambda chunk: chunk.start) if spread else list(gold[:1])
    second = chunks.get(second_chunk_id(pair) or "") if needed else None
    return [*needed, second] if second is not None and second not in needed else needed


def oracle_context(
    pair: QAPair,
    gold: Collection[str],
    chunks: Mapping[str, Chunk],
) -> list[str]:
    """The ids of the chunks that a reader with perfect retrieval is shown: `needed_chunks` where
    the pair's own chunk is preferred. For a pair without gold chunks (an unanswerable one) its own
    chunk; empty where no chunk is known."""
    known = [chunks[i] for i in gold or [pair.chunk_id or ""] if i in chunks]
    ordered = sorted(known, key=lambda chunk: (chunk.id != pair.chunk_id, chunk.start))
    return [chunk.id for chunk in needed_chunks(pair, ordered, chunks)]


def evidence_shown(pair: QAPair, shown: Iterable[Chunk]) -> float | None:
    """Share (0-1) of the evidence's characters that the shown chunks cover; None without any."""
    if pair.evidence is None or pair.evidence.end <= pair.evidence.start:
        return None
    start, end = pair.evidence.start, pair.evidence.end
    # Chunks overlap: `reached` is the end of what is already counted.
    covered, reached = 0, start
    for chunk in sorted((c for c in shown if overlaps_evidence(c, pair)), key=lambda c: c.start):
        left, right = max(chunk.start, reached), min(chunk.end, end)
        covered += max(0, right - left)
        reached = max(reached, right)
    return covered / (end - start)


def evidence_sentence(pair: QAPair, chunk: Chunk, sentences: Iterable[Span]) -> str:
    """The sentence (or sentences) of a chunk that contains the evidence, or else the answer; ""
    where there is neither. `sentences`: their spans in `chunk.text`."""
    if pair.evidence is not None and contains_evidence(chunk, pair):
        start, end = pair.evidence.start - chunk.start, pair.evidence.end - chunk.start
    elif (span := locate(pair.answer, chunk.text)) is not None:
        start, end = span
    else:
        return ""
    touched = [span for span in sentences if span[0] < end and start < span[1]]
    return chunk.text[touched[0][0] : touched[-1][1]].strip() if touched else ""


def chunk_with_answer(answer: str, chunks: Sequence[Chunk]) -> Chunk | None:
    """The first chunk that mentions the answer. For an answer in other words it is the chunk with
    most of the answer's content words, if it has at least MIN_WORDS_SHARE of MIN_WORDS or more."""
    for chunk in chunks:
        if mentions_answer(chunk, [answer]):
            return chunk
    wanted = content_words(answer)
    if len(wanted) < MIN_WORDS or not chunks:
        return None
    shared = [len(wanted & content_words(f"{chunk.title} {chunk.text}")) for chunk in chunks]
    most = max(shared)
    return chunks[shared.index(most)] if most >= MIN_WORDS_SHARE * len(wanted) else None


# Negatives: chunks that do not contain the answer.


def mentions_answer(chunk: Chunk, answers: Iterable[str]) -> bool:
    """Whether a chunk's title or text contains one of the answers: as whole words in SQuAD's normal
    form, or as a substring in scripts without spaces. Answers of which that form leaves nothing
    ("A", "+") are never mentioned: they would be found everywhere."""
    text = normalise(composed(f"{chunk.title} {chunk.text}"))
    wanted = filter(None, (normalise(composed(answer)) for answer in answers))
    return any(contains_words(text, answer) for answer in wanted)


def is_negative(chunk: Chunk, pair: QAPair) -> bool:
    """Whether a chunk says nothing of the pair's answer: it is not the pair's own chunk, overlaps
    no evidence and mentions no accepted answer."""
    return (
        chunk.id != pair.chunk_id
        and not overlaps_evidence(chunk, pair)
        and not mentions_answer(chunk, pair.answers)
    )


# Quotes: where a text occurs in another, whatever its white space, case, quotes and dashes.


def occurrences(quote: str, text: str) -> list[Span]:
    """The spans of `text` where `quote` occurs, in order: exact ones, or else those that are equal
    after normalisation; at most MAX_OCCURRENCES.

    Where some spans begin and end at word boundaries, only those are returned. White space may
    differ in any way, and be missing.
    """
    quote = quote.strip()
    if not any(character.isalnum() for character in quote):
        return []
    exact = [(at, at + len(quote)) for at in _find_all(quote, text)]
    if found := _at_boundaries(exact, quote, text):
        return found
    # Without white space and case; then also without the quotation marks and dots around it.
    folded, places = _fold(text)
    for edges in _EDGES:
        wanted, _ = _fold(quote.strip(edges) if edges else quote)
        starts = _find_all(wanted, folded) if wanted else []
        if starts:
            spans = [
                (places[at], _end_of_letter(text, places[at + len(wanted) - 1])) for at in starts
            ]
            return _at_boundaries(spans, quote, text)
    return []


def locate(quote: str, text: str, near: Span | None = None) -> Span | None:
    """The occurrence of `quote` in `text` that is nearest to the span `near`.

    Overlapping is nearest, of equally near ones the first. Without `near` the first occurrence;
    None where there is none.
    """
    found = occurrences(quote, text)
    if not found or near is None:
        return found[0] if found else None
    return min(found, key=lambda span: max(near[0] - span[1], span[0] - near[1], 0))


def evidence_in_chunk(chunk: Chunk, span: Span) -> Evidence:
    """A span of the chunk's text as evidence, with offsets in the document."""
    start, end = span
    return Evidence(chunk.text[start:end], chunk.start + start, chunk.start + end)


def evidence_at(chunk: Chunk, place: Place) -> Evidence | None:
    """The evidence at a place in the document; None where the chunk does not have all of it."""
    if not chunk.start <= place.start < place.end <= chunk.end:
        return None
    return evidence_in_chunk(chunk, (place.start - chunk.start, place.end - chunk.start))


def _find_all(quote: str, text: str) -> list[int]:
    found: list[int] = []
    at = text.find(quote)
    while at >= 0 and len(found) < MAX_OCCURRENCES:
        found.append(at)
        at = text.find(quote, at + 1)
    return found


@lru_cache(maxsize=8)
def _fold(text: str) -> tuple[str, array[int]]:
    """The text without white space and case, in composed characters, and the place in `text` of
    each of its characters."""
    folded, places = [], array("I")
    text = text.translate(_SAME)
    # One place for each letter with its accents, however they are written.
    parts = (
        enumerate(text) if text.isascii() else ((m.start(), m[0]) for m in _LETTER.finditer(text))
    )
    for place, character in parts:
        if not _INVISIBLE.match(character):
            same = unicodedata.normalize("NFC", character).casefold()
            folded.append(same)
            places.extend([place] * len(same))
    return "".join(folded), places


def _end_of_letter(text: str, start: int) -> int:
    """Where the letter at `start` ends, its accents included."""
    match = _LETTER.match(text, start)
    return match.end() if match else start + 1


def _at_boundaries(spans: list[Span], quote: str, text: str) -> list[Span]:
    """The spans that cut no word, where there are any; else all of them, unless the quote is so
    short that it would be found inside other words. Korean words take endings."""
    # A letter that goes on with an accent is another one.
    spans = [span for span in spans if not _ACCENT.match(text, span[1])]
    bounded, begun = [], []
    for start, end in spans:
        if start == 0 or not _is_inside_word(text[start - 1], text[start]):
            begun.append((start, end))
            if end == len(text) or not _is_inside_word(text[end - 1], text[end]):
                bounded.append((start, end))
    if bounded or len(quote) >= MIN_INSIDE_WORD or is_unspaced(quote):
        return bounded or spans
    return begun if len(quote) > 1 and _HANGUL.match(quote[-1]) else []


def _is_inside_word(before: str, after: str) -> bool:
    """Whether two characters that follow each other belong to one word. A word does not go on in a
    script without spaces, nor a number in Korean letters: "3枚", "1998년"."""
    if not (before.isalnum() and after.isalnum()):
        return False
    in_korean = [bool(_HANGUL.match(character)) for character in (before, after)]
    return is_unspaced(before) == is_unspaced(after) and in_korean[0] == in_korean[1]
