"""From a question-answer pair and what the retriever finds for it to training examples. Pure functions.

Three layouts, one rule: an answer is only ever the target where a chunk that proves it is in the context; everywhere
else the target is the abstain sentence. A model trained otherwise learns to recite instead of to read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rag_ft.llm.models import Messages
from rag_ft.metrics.words import normalise
from rag_ft.records import Chunk, QAPair, Reject
from rag_ft.training.tokens import Encoded

Encode = Callable[[Messages, str], Encoded]


@dataclass(frozen=True)
class Layout:
    """What shapes examples; the knobs of the same names in `train_generator` and `retrieval` say more."""

    name: Literal["raft", "radit", "concat"]
    top_k: int
    gold_share: float
    cite: bool
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Draft:
    """A context in order, before it is fitted into the token limit. `answer` is None where the model must abstain."""

    id: str
    question: str
    chunks: tuple[Chunk, ...]
    gold: frozenset[str]
    answer: str | None


@dataclass(frozen=True)
class Example:
    """What one forward pass sees. `kind` tells why the target is what it is: "answer", "abstain" or "replay"."""

    id: str
    kind: Literal["answer", "abstain", "replay"]
    messages: Messages
    answer: str
    chunk_ids: tuple[str, ...]
    encoded: Encoded


def drafts(pair: QAPair, hits: Sequence[str], chunks: Mapping[str, Chunk], layout: Layout) -> list[Draft] | Reject:
    """The contexts that one pair is trained with, decided by the pair's id and the seed alone.

    Args:
        pair: a training (or dev) pair.
        hits: chunk ids the serving index finds for the question, best first.
        chunks: the chunks by id: of all hits, of `pair.chunk_id` and of `pair.hard_chunk_ids`.
        layout: how to arrange them.

    Returns:
        One draft (raft, concat) or one per chunk (radit), or why there is none.
    """
    found = [chunks[i] for i in dict.fromkeys(hits) if i in chunks]
    if not found:
        return Reject(pair.id, "no context", pair.question)
    if not pair.answerable:
        return [Draft(pair.id, pair.question, tuple(found[: layout.top_k]), frozenset(), None)]
    gold = gold_chunks(pair, found, chunks)
    rng = random.Random(f"{layout.seed}:{pair.id}")
    arrange = {"raft": _raft, "radit": _radit, "concat": _concat}[layout.name]
    return arrange(pair, found, gold, chunks, layout, rng)


def finish(
    draft: Draft, render: Callable[[str, Sequence[Chunk]], Messages], abstain: str, encode: Encode, layout: Layout
) -> Example | Reject:
    """Renders and tokenises a draft, leaving out whole chunks from the end, the gold chunk last, until prompt and
    answer fit into `layout.max_tokens`; the answer is never cut. A context left with no chunk is a Reject, and so is
    an answer whose proof does not fit."""
    context = list(draft.chunks)
    while context:
        target = abstain if draft.answer is None else _cited(draft, context) if layout.cite else draft.answer
        messages = render(draft.question, context)
        encoded = encode(messages, target)
        if len(encoded.input_ids) <= layout.max_tokens:
            kind: Literal["answer", "abstain"] = "abstain" if draft.answer is None else "answer"
            return Example(draft.id, kind, messages, target, tuple(c.id for c in context), encoded)
        context.pop(_least_needed(context, draft.gold))
        if draft.answer is not None and not any(c.id in draft.gold for c in context):
            break
    return Reject(draft.id, "too long", f"not even one chunk fits into {layout.max_tokens} tokens")


def gold_chunks(pair: QAPair, found: Sequence[Chunk], chunks: Mapping[str, Chunk]) -> list[Chunk]:
    """Chunks that prove the answer, best ranked first: those holding the whole evidence, else the pair's own chunk;
    where no place is known, the best-ranked one that holds an accepted answer."""
    if pair.evidence is not None:
        whole = [c for c in found if _same_document(c, pair) and _holds(c, pair)]
        own = chunks.get(pair.chunk_id or "")
        if whole or own is not None:
            return whole or [own]  # type: ignore[list-item]
    if pair.chunk_id in chunks:
        return [chunks[pair.chunk_id]]
    return [c for c in found if mentions(c, pair.answers)][:1]


def mentions(chunk: Chunk, answers: Sequence[str]) -> bool:
    """Whether a chunk (or its title) contains one of the answers, word for word in SQuAD's normal form."""
    text = f" {normalise(chunk.title + ' ' + chunk.text)} "
    return any(f" {wanted} " in text for answer in answers if (wanted := normalise(answer)))


def _raft(
    pair: QAPair, found: list[Chunk], gold: list[Chunk], chunks: Mapping[str, Chunk], layout: Layout, rng: random.Random
) -> list[Draft] | Reject:
    if not gold:
        return Reject(pair.id, "no chunk proves the answer", pair.question)
    withhold = rng.random() >= layout.gold_share
    hard = [*found, *(chunks[i] for i in pair.hard_chunk_ids if i in chunks)]
    others = [c for c in dict.fromkeys(hard) if c.id != gold[0].id]
    silent = [c for c in others if _is_silent(c, pair, gold)]
    if withhold and silent:
        context, answer = silent[: layout.top_k], None
    else:
        context, answer = [gold[0], *others[: layout.top_k - 1]], pair.answer
    rng.shuffle(context)
    return [_draft(pair, context, gold, answer)]


def _radit(
    pair: QAPair, found: list[Chunk], gold: list[Chunk], chunks: Mapping[str, Chunk], layout: Layout, rng: random.Random
) -> list[Draft] | Reject:
    """The gold chunk alone, and the other top-k chunks alone with the abstain target, so many of them that the
    answered examples' expected share is `gold_share` (RA-DIT's own target, the answer whatever the chunk says, would
    train reciting on a closed collection)."""
    if not gold:
        return Reject(pair.id, "no chunk proves the answer", pair.question)
    silent = [c for c in found[: layout.top_k] if _is_silent(c, pair, gold)][: layout.top_k - 1]
    wanted = (1 - layout.gold_share) / layout.gold_share if layout.gold_share else len(silent)
    share = min(1.0, wanted / len(silent)) if silent else 0.0
    kept = [c for c in silent if rng.random() < share]
    answered = [(gold[0], pair.answer)] if layout.gold_share or not kept else []
    instances: list[tuple[Chunk, str | None]] = [*answered, *((c, None) for c in kept)]
    return [_draft(pair, [c], gold, answer, number) for number, (c, answer) in enumerate(instances)]


def _concat(
    pair: QAPair, found: list[Chunk], gold: list[Chunk], chunks: Mapping[str, Chunk], layout: Layout, rng: random.Random
) -> list[Draft] | Reject:
    served = found[: layout.top_k]
    if any(c in gold for c in served):
        return [_draft(pair, served, gold, pair.answer)]
    if not all(_is_silent(c, pair, gold) for c in served):
        return Reject(pair.id, "ambiguous context", "no gold chunk was retrieved, but another one mentions the answer")
    return [_draft(pair, served, gold, None)]


def _draft(pair: QAPair, context: Sequence[Chunk], gold: Sequence[Chunk], answer: str | None, number: int = 0) -> Draft:
    name = f"{pair.id}/{number}" if number else pair.id
    return Draft(name, pair.question, tuple(context), frozenset(c.id for c in gold), answer)


def _is_silent(chunk: Chunk, pair: QAPair, gold: Sequence[Chunk]) -> bool:
    """Whether a chunk says nothing of the answer: not gold, no part of the evidence, no mention of an answer."""
    return (
        chunk not in gold
        and chunk.id != pair.chunk_id
        and not _touches(chunk, pair)
        and not mentions(chunk, pair.answers)
    )


def _touches(chunk: Chunk, pair: QAPair) -> bool:
    evidence = pair.evidence
    return (
        evidence is not None
        and _same_document(chunk, pair)
        and chunk.start < evidence.end
        and evidence.start < chunk.end
    )


def _holds(chunk: Chunk, pair: QAPair) -> bool:
    return pair.evidence is not None and chunk.start <= pair.evidence.start and pair.evidence.end <= chunk.end


def _same_document(chunk: Chunk, pair: QAPair) -> bool:
    return chunk.document_id == pair.document_id


def _cited(draft: Draft, context: Sequence[Chunk]) -> str:
    number = next(n for n, chunk in enumerate(context, 1) if chunk.id in draft.gold)
    return f"{draft.answer} [{number}]"


def _least_needed(context: Sequence[Chunk], gold: frozenset[str]) -> int:
    """Position of the last chunk that is not gold, or of the last one."""
    others = [i for i, chunk in enumerate(context) if chunk.id not in gold]
    return others[-1] if others else len(context) - 1


def count_kinds(examples: Sequence[Example]) -> dict[str, Any]:
    """What was made of the pairs, for the done-file: examples by kind, tokens, and tokens the loss is taken over."""
    kinds = {kind: sum(e.kind == kind for e in examples) for kind in ("answer", "abstain", "replay")}
    return {
        **{f"num_{kind}": count for kind, count in kinds.items()},
        "num_tokens": sum(len(e.encoded.input_ids) for e in examples),
        "num_supervised_tokens": sum(e.encoded.num_answer_tokens for e in examples),
    }
