"""From a question-answer pair and what the retriever finds for it to training examples. Pure functions.

Three layouts, one rule: an answer is only ever the target where its evidence is in the context; everywhere else the
target is the abstain sentence. A model trained otherwise learns to recite instead of to read.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rag_ft.documents.chunking import split_sentences
from rag_ft.llm.interface import Messages
from rag_ft.prompts.prompt_set import quoting
from rag_ft.relevance import (
    evidence_sentence,
    fallback_gold_chunks,
    gold_chunks,
    is_negative,
    needed_chunks,
)
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.training.generator.tokenization import Encoded

Encode = Callable[[Messages, str], Encoded]


@dataclass(frozen=True)
class Layout:
    """What shapes examples; the knobs of the same names in `train_generator` and `retrieval` say more. `arrangement`
    counts the passes over the pairs: each draws anew whose proof is withheld and where it stands."""

    name: Literal["raft", "radit", "concat"]
    top_k: int
    gold_share: float
    cite: bool
    max_tokens: int
    seed: int
    quote: bool = False
    arrangement: int = 0

    def rng(self, pair_id: str) -> random.Random:
        return random.Random(f"{self.seed}:{self.arrangement}:{pair_id}")


@dataclass(frozen=True)
class Draft:
    """A context in order, before it is fitted into the token limit. `gold` are the ids of gold chunks,
    `needed` of those that must stay for the answer; `answer` is None where the model must abstain. `quote` is the
    sentence that contains the evidence, "" where it is not known or not asked for."""

    id: str
    question: str
    chunks: tuple[Chunk, ...]
    gold: frozenset[str]
    answer: str | None
    needed: frozenset[str] = frozenset()
    document_id: str | None = None
    quote: str = ""


@dataclass(frozen=True)
class Example:
    """What one forward pass sees. `kind` tells why the target is what it is: "answer", "abstain" or "replay"."""

    id: str
    kind: Literal["answer", "abstain", "replay"]
    messages: Messages
    answer: str
    chunk_ids: tuple[str, ...]
    encoded: Encoded
    document_id: str | None = None
    arrangement: int = 0


def balance(pairs: Sequence[QAPair], layout: Layout) -> tuple[list[QAPair], Layout, list[Reject]]:
    """Makes `gold_share` the share of answered examples among all: unanswerable pairs count towards the others, fewer
    gold chunks are withheld where there are many of them, and what is still too many is left out.

    Returns:
        (pairs to use in their order, the layout with the share that is left to withholding, pairs left out).
    """
    asked = [pair for pair in pairs if pair.answerable]
    empty = sorted((p for p in pairs if not p.answerable), key=lambda p: layout.rng(p.id).random())
    share, num = layout.gold_share, len(asked)
    if not num or not share:
        return list(pairs), layout, []
    room = (1 - share) / share * num
    dropped = {pair.id for pair in empty[math.ceil(room) :]}
    left_out = [
        Reject(p.id, "too many to abstain from", "see train_generator.advanced.gold_share")
        for p in empty
        if p.id in dropped
    ]
    missing = max(0.0, room - len(empty))
    rest = 1 / (1 + missing / num)  # withheld examples come on top of those answered
    return [p for p in pairs if p.id not in dropped], replace(layout, gold_share=rest), left_out


def drafts(
    pair: QAPair, hits: Sequence[str], chunks: Mapping[str, Chunk], layout: Layout
) -> list[Draft] | Reject:
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
        shown = found[: 1 if layout.name == "radit" else layout.top_k]
        return [
            Draft(
                pair.id,
                pair.question,
                tuple(shown),
                frozenset(),
                None,
                document_id=pair.document_id,
            )
        ]
    own = [chunks[pair.chunk_id]] if pair.chunk_id and pair.chunk_id in chunks else []
    # Best ranked first; the pair's own chunk last where it was not found.
    gold = gold_chunks(pair, dict.fromkeys([*found, *own])) or fallback_gold_chunks(pair, found)
    rng = layout.rng(pair.id)
    arrange = {"raft": _raft, "radit": _radit, "concat": _concat}[layout.name]
    made = arrange(pair, found, gold, chunks, layout, rng)
    return (
        made
        if isinstance(made, Reject) or not layout.quote
        else [_with_quote(draft, pair, gold) for draft in made]
    )


def finish(
    draft: Draft,
    render: Callable[[str, Sequence[Chunk]], Messages],
    abstain: str,
    encode: Encode,
    layout: Layout,
) -> Example | Reject:
    """Renders and tokenises a draft, leaving out whole chunks from the end, the gold chunk last, until prompt and
    answer fit into `layout.max_tokens`; the answer is never cut. A context left with no chunk is a Reject, and so is
    an answer whose proof does not fit."""
    context = list(draft.chunks)
    while context:
        target = abstain if draft.answer is None else _reply(draft.answer, draft, context, layout)
        messages = render(draft.question, context)
        encoded = encode(messages, target)
        if len(encoded.input_ids) <= layout.max_tokens:
            kind: Literal["answer", "abstain"] = "abstain" if draft.answer is None else "answer"
            ids = tuple(c.id for c in context)
            return Example(
                draft.id,
                kind,
                messages,
                target,
                ids,
                encoded,
                draft.document_id,
                layout.arrangement,
            )
        context.pop(_least_needed(context, draft.needed))
        if not draft.needed.issubset(c.id for c in context):
            break
    return Reject(draft.id, "too long", f"not even one chunk fits into {layout.max_tokens} tokens")


def _raft(
    pair: QAPair,
    found: list[Chunk],
    gold: list[Chunk],
    chunks: Mapping[str, Chunk],
    layout: Layout,
    rng: random.Random,
) -> list[Draft] | Reject:
    """The gold chunks among hard distractors, and for so many pairs that answered examples are `gold_share` of all the
    distractors alone, where the target is to abstain: the same question then has both targets, and only what is read
    tells which."""
    if not gold:
        return Reject(pair.id, "no gold chunk", pair.question)
    hard = [*found, *(chunks[i] for i in pair.hard_chunk_ids if i in chunks)]
    needed = needed_chunks(pair, gold, chunks)
    others = [c for c in dict.fromkeys(hard) if c not in needed]
    silent = [c for c in others if is_negative(c, pair)]
    shown: list[Chunk] = [*needed, *others[: max(0, layout.top_k - len(needed))]]
    made: list[tuple[list[Chunk], list[Chunk]]] = []
    if not silent or rng.random() * (1 - layout.gold_share) < layout.gold_share:
        made.append((shown, needed))
    if silent and rng.random() * layout.gold_share < 1 - layout.gold_share:
        made.append((silent[: layout.top_k], []))
    return [
        _draft(pair, rng.sample(seen, len(seen)), gold, needs, n)
        for n, (seen, needs) in enumerate(made)
    ]


def _radit(
    pair: QAPair,
    found: list[Chunk],
    gold: list[Chunk],
    chunks: Mapping[str, Chunk],
    layout: Layout,
    rng: random.Random,
) -> list[Draft] | Reject:
    """The gold chunk alone, and the other top-k chunks alone with the abstain target, so many of them that the
    answered examples' expected share is `gold_share` (RA-DIT's own target, the answer whatever the chunk says, would
    train reciting on a closed collection)."""
    needed = needed_chunks(pair, gold, chunks)
    if len(needed) != 1:
        return Reject(pair.id, "no single chunk contains the evidence", pair.question)
    silent = [c for c in found[: layout.top_k] if is_negative(c, pair)][: layout.top_k - 1]
    wanted = (1 - layout.gold_share) / layout.gold_share if layout.gold_share else len(silent)
    share = min(1.0, wanted / len(silent)) if silent else 0.0
    kept = [c for c in silent if rng.random() < share]
    answered = [_draft(pair, needed, gold, needed)] if layout.gold_share or not kept else []
    return [*answered, *(_draft(pair, [c], gold, [], number) for number, c in enumerate(kept, 1))]


def _concat(
    pair: QAPair,
    found: list[Chunk],
    gold: list[Chunk],
    chunks: Mapping[str, Chunk],
    layout: Layout,
    rng: random.Random,
) -> list[Draft] | Reject:
    served = found[: layout.top_k]
    needed = needed_chunks(pair, gold, chunks)
    if needed and all(chunk in served for chunk in needed):
        return [_draft(pair, served, gold, needed)]
    if not all(is_negative(chunk, pair) for chunk in served):
        detail = (
            "a retrieved chunk contains a part of the evidence, or mentions the answer elsewhere"
        )
        return Reject(pair.id, "ambiguous context", detail)
    return [_draft(pair, served, gold, [])]


def _draft(
    pair: QAPair,
    context: Sequence[Chunk],
    gold: Sequence[Chunk],
    needed: Sequence[Chunk],
    number: int = 0,
) -> Draft:
    """The answer is the target where there are chunks that contain its evidence (`needed`), else the model abstains."""
    name = f"{pair.id}/{number}" if number else pair.id
    answer = pair.answer if needed else None
    ids = frozenset(c.id for c in gold), frozenset(c.id for c in needed)
    return Draft(
        name, pair.question, tuple(context), ids[0] | ids[1], answer, ids[1], pair.document_id
    )


def _with_quote(draft: Draft, pair: QAPair, gold: Sequence[Chunk]) -> Draft:
    shown = next((chunk for chunk in gold if chunk.id in draft.needed), None)
    if shown is None:
        return draft
    return replace(draft, quote=evidence_sentence(pair, shown, split_sentences(shown.text)))


def _reply(answer: str, draft: Draft, context: Sequence[Chunk], layout: Layout) -> str:
    if layout.cite:
        answer += f" [{next(n for n, chunk in enumerate(context, 1) if chunk.id in draft.gold)}]"
    return quoting(draft.quote, answer) if layout.quote and draft.quote else answer


def _least_needed(context: Sequence[Chunk], needed: frozenset[str]) -> int:
    """Position of the last chunk that is not needed, or of the last one."""
    others = [i for i, chunk in enumerate(context) if chunk.id not in needed]
    return others[-1] if others else len(context) - 1


def num_arrangements(examples: Sequence[Example]) -> int:
    """How often the pairs are among the examples: training on all of these once is so many passes over the pairs."""
    return 1 + max((e.arrangement for e in examples), default=0)


def longest_answer(examples: Sequence[Example]) -> int:
    """Tokens of the longest target that is no replay: what a reply to a question may take."""
    return max((e.encoded.num_answer_tokens for e in examples if e.kind != "replay"), default=1)


def count_kinds(examples: Sequence[Example]) -> dict[str, Any]:
    """What was made of the pairs, for the done-file: examples by kind, tokens, and tokens the loss is taken over."""
    kinds = {
        kind: sum(e.kind == kind for e in examples) for kind in ("answer", "abstain", "replay")
    }
    return {
        **{f"num_{kind}": count for kind, count in kinds.items()},
        "num_tokens": sum(len(e.encoded.input_ids) for e in examples),
        "num_supervised_tokens": sum(e.encoded.num_answer_tokens for e in examples),
    }
