"""From a question-answer pair and the chunks retrieved for it to training examples. Pure functions.

Three layouts decide which chunks the model sees: `raft`, `radit` and `concat`. One rule holds in
all of them: the answer is the target only where the context contains its evidence; everywhere else
the target is the abstain sentence. Without this rule the model learns to recite instead of to read.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rag_ft.documents.sentences import split_sentences
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
class LayoutSettings:
    """The settings that shape examples; the ones of the same name in `train_generator.advanced` and
    `retrieval` say more. `arrangement` is the number of the pass over the pairs, from 0: each pass
    draws anew for which pairs the gold chunk is withheld."""

    name: Literal["raft", "radit", "concat"]
    top_k: int
    gold_share: float
    cite: bool
    max_tokens: int
    seed: int
    quote: bool = False
    counterfactual_share: float = 0.0
    arrangement: int = 0

    def rng(self, pair_id: str) -> random.Random:
        """The random choices for one pair: they depend on seed, pass and id, on no other pair."""
        return random.Random(f"{self.seed}:{self.arrangement}:{pair_id}")


@dataclass(frozen=True)
class Context:
    """The chunks of one example in order, before they are fitted into the token limit.

    `gold` are the ids of its gold chunks, `needed` the ids of those that must stay for the answer.
    `answer` is None where the model must abstain. `quote` is the sentence that contains the
    evidence; "" where it is unknown or the settings do not ask for it. `kind` says whose the answer
    is, as in Example.
    """

    id: str
    question: str
    chunks: tuple[Chunk, ...]
    gold: frozenset[str]
    answer: str | None
    needed: frozenset[str] = frozenset()
    document_id: str | None = None
    quote: str = ""
    kind: Literal["answer", "counterfactual"] = "answer"


@dataclass(frozen=True)
class Example:
    """What one forward pass sees. `kind` says where the target `answer` comes from: the pair
    ("answer"), another pair ("counterfactual"), the abstain sentence ("abstain") or the base
    model's own reply ("replay")."""

    id: str
    kind: Literal["answer", "counterfactual", "abstain", "replay"]
    messages: Messages
    answer: str
    chunk_ids: tuple[str, ...]
    encoded: Encoded
    document_id: str | None = None
    arrangement: int = 0


def balance_unanswerable(
    pairs: Sequence[QAPair], layout: LayoutSettings
) -> tuple[list[QAPair], LayoutSettings, list[Reject]]:
    """Makes `gold_share` the expected share of answered examples among all.

    Unanswerable pairs count as examples to abstain from. The more there are of them, the fewer gold
    chunks are withheld from answerable pairs; those beyond the share are rejected.

    Returns:
        (pairs to use, in their order; the layout with the share that remains for answerable pairs;
        rejected pairs).
    """
    unanswerable = [pair for pair in pairs if not pair.answerable]
    num_answerable = len(pairs) - len(unanswerable)
    if not num_answerable or not layout.gold_share:
        return list(pairs), layout, []

    # So many examples to abstain from belong to these answered ones; which pairs are surplus is
    # drawn anew in each pass, and those that people wrote come first.
    num_abstain = (1 - layout.gold_share) / layout.gold_share * num_answerable
    unanswerable.sort(key=lambda pair: (pair.origin == "generated", layout.rng(pair.id).random()))
    surplus = {pair.id for pair in unanswerable[math.ceil(num_abstain) :]}
    rejects = [
        Reject(pair.id, "surplus unanswerable pair", "see train_generator.advanced.gold_share")
        for pair in unanswerable
        if pair.id in surplus
    ]

    # What is missing comes from answerable pairs with the gold chunk withheld, which are made in
    # addition to the answered ones.
    num_withheld = max(0.0, num_abstain - len(unanswerable))
    gold_share = 1 / (1 + num_withheld / num_answerable)
    kept = [pair for pair in pairs if pair.id not in surplus]
    return kept, replace(layout, gold_share=gold_share), rejects


def build_contexts(
    pair: QAPair, hits: Sequence[str], chunks: Mapping[str, Chunk], layout: LayoutSettings
) -> list[Context] | Reject:
    """The contexts that one pair is trained with, decided by the pair's id and the seed alone.

    Args:
        pair: a training (or dev) pair.
        hits: chunk ids that the serving index finds for the question, best first.
        chunks: the chunks by id: of all hits, of `pair.chunk_id` and of `pair.hard_chunk_ids`.
        layout: how to arrange them.

    Returns:
        One context, one more with the gold chunk withheld (raft), or one per chunk (radit); a
        Reject where the pair gives no example.
    """
    found = [chunks[i] for i in dict.fromkeys(hits) if i in chunks]
    if not found:
        return Reject(pair.id, "no context", pair.question)
    if not pair.answerable:
        shown = found[: 1 if layout.name == "radit" else layout.top_k]
        return [_context(pair, shown, [], [], layout)]

    # The best-ranked gold chunk comes first, the pair's own chunk last if it was not found.
    own = [chunks[pair.chunk_id]] if pair.chunk_id and pair.chunk_id in chunks else []
    gold = gold_chunks(pair, dict.fromkeys([*found, *own])) or fallback_gold_chunks(pair, found)
    return LAYOUTS[layout.name](pair, found, gold, chunks, layout)


def raft(
    pair: QAPair,
    found: Sequence[Chunk],
    gold: Sequence[Chunk],
    chunks: Mapping[str, Chunk],
    layout: LayoutSettings,
) -> list[Context] | Reject:
    """The gold chunk among hard distractors (RAFT, Zhang et al. 2024), in the order in which they
    are served: it says how well a chunk was found, which RAFT's random order hides.

    For some pairs the distractors are shown alone too, and the target is to abstain, so that the
    expected share of answered examples is `gold_share`: the same question then has both targets,
    and only the chunks decide which one is right.
    """
    if not gold:
        return Reject(pair.id, "no gold chunk", pair.question)
    needed = needed_chunks(pair, gold, chunks)
    # Hard chunks may have been found without the filters.
    mined = [chunks[i] for i in pair.hard_chunk_ids if i in chunks and not pair.filters]
    distractors = [chunk for chunk in dict.fromkeys([*found, *mined]) if chunk not in needed]
    without_answer = [chunk for chunk in distractors if is_negative(chunk, pair)]

    # Each part is used with a probability in proportion to its share, the larger one always.
    rng, share = layout.rng(pair.id), layout.gold_share
    contexts: list[tuple[list[Chunk], list[Chunk]]] = []
    if not without_answer or rng.random() * (1 - share) < share:
        shown = [*needed, *distractors[: max(0, layout.top_k - len(needed))]]
        contexts.append((shown, needed))
    if without_answer and rng.random() * share < 1 - share:
        contexts.append((without_answer[: layout.top_k], []))
    return [
        _context(pair, _as_served(shown, found), gold, required, layout, number)
        for number, (shown, required) in enumerate(contexts)
    ]


def _as_served(shown: Sequence[Chunk], found: Sequence[Chunk]) -> list[Chunk]:
    """`shown` in the order of `found`; what was not found comes last."""
    ranks = {chunk.id: rank for rank, chunk in enumerate(found)}
    return sorted(shown, key=lambda chunk: ranks.get(chunk.id, len(ranks)))


def radit(
    pair: QAPair,
    found: Sequence[Chunk],
    gold: Sequence[Chunk],
    chunks: Mapping[str, Chunk],
    layout: LayoutSettings,
) -> list[Context] | Reject:
    """One chunk an example (RA-DIT, Lin et al. 2023): the gold chunk with the answer as target, the
    other top-k chunks with the abstain sentence.

    So many of the others are used that the expected share of answered examples is `gold_share`.
    RA-DIT itself trains on the answer for every chunk; on a closed collection that teaches to
    recite.
    """
    needed = needed_chunks(pair, gold, chunks)
    if len(needed) != 1:
        return Reject(pair.id, "no single chunk contains the evidence", pair.question)
    without_answer = [chunk for chunk in found[: layout.top_k] if is_negative(chunk, pair)]
    without_answer = without_answer[: layout.top_k - 1]

    # Each of them is drawn with the probability that gives the wanted number on average.
    num_wanted: float = len(without_answer)
    if layout.gold_share:
        num_wanted = (1 - layout.gold_share) / layout.gold_share
    probability = min(1.0, num_wanted / len(without_answer)) if without_answer else 0.0
    rng = layout.rng(pair.id)
    drawn = [chunk for chunk in without_answer if rng.random() < probability]

    contexts = []
    if layout.gold_share or not drawn:
        contexts.append(_context(pair, needed, gold, needed, layout))
    for number, chunk in enumerate(drawn, 1):
        contexts.append(_context(pair, [chunk], gold, [], layout, number))
    return contexts


def concat(
    pair: QAPair,
    found: Sequence[Chunk],
    gold: Sequence[Chunk],
    chunks: Mapping[str, Chunk],
    layout: LayoutSettings,
) -> list[Context] | Reject:
    """The top-k chunks as they are served. The target is the answer where all needed chunks are
    among them, and to abstain where none of them has to do with the answer; a pair between these
    cases is rejected."""
    served = found[: layout.top_k]
    needed = needed_chunks(pair, gold, chunks)
    if needed and all(chunk in served for chunk in needed):
        return [_context(pair, served, gold, needed, layout)]
    if all(is_negative(chunk, pair) for chunk in served):
        return [_context(pair, served, gold, [], layout)]
    detail = "a retrieved chunk contains a part of the evidence, or mentions the answer elsewhere"
    return Reject(pair.id, "ambiguous context", detail)


LAYOUTS = {"raft": raft, "radit": radit, "concat": concat}  # the values of the setting `layout`


def _context(
    pair: QAPair,
    shown: Sequence[Chunk],
    gold: Sequence[Chunk],
    needed: Sequence[Chunk],
    layout: LayoutSettings,
    number: int = 0,
) -> Context:
    """The answer is the target where chunks with its evidence are shown (`needed`)."""
    needed_ids = frozenset(chunk.id for chunk in needed)
    quote = ""
    source = next((chunk for chunk in gold if chunk.id in needed_ids), None)
    if layout.quote and source is not None:
        quote = evidence_sentence(pair, source, split_sentences(source.text))
    return Context(
        id=f"{pair.id}/{number}" if number else pair.id,
        question=pair.question,
        chunks=tuple(shown),
        gold=needed_ids.union(chunk.id for chunk in gold),
        answer=pair.answer if needed else None,
        needed=needed_ids,
        document_id=pair.document_id,
        quote=quote,
    )


def fit_to_length(
    context: Context,
    render: Callable[[str, Sequence[Chunk]], Messages],
    abstain: str,
    encode: Encode,
    layout: LayoutSettings,
) -> Example | Reject:
    """The example of a context: rendered, tokenised, at most `layout.max_tokens` tokens long.

    Whole chunks are left out from the end, needed ones last, until prompt and answer fit; the
    answer is never cut. Where not even one chunk fits, or the needed ones do not, it is a Reject.

    Args:
        context: the chunks and the target.
        render: question and chunks -> the messages that serving sends.
        abstain: the target where `context.answer` is None.
        encode: messages and target -> token ids.
        layout: says the limit, and whether answers cite and quote.
    """
    chunks = list(context.chunks)
    while chunks:
        target = abstain
        if context.answer is not None:
            target = context.answer
            # A cited number is a chunk's place among the chunks that are left.
            if layout.cite:
                supporting = context.needed or context.gold
                places = [n for n, chunk in enumerate(chunks, 1) if chunk.id in supporting]
                target += f" [{', '.join(map(str, places))}]"
            if layout.quote and context.quote:
                target = quoting(context.quote, target)
        messages = render(context.question, chunks)
        encoded = encode(messages, target)
        if len(encoded.input_ids) <= layout.max_tokens:
            return Example(
                id=context.id,
                kind="abstain" if context.answer is None else context.kind,
                messages=messages,
                answer=target,
                chunk_ids=tuple(chunk.id for chunk in chunks),
                encoded=encoded,
                document_id=context.document_id,
                arrangement=layout.arrangement,
            )
        # Too long: leave out the last chunk that the answer does not need.
        others = [place for place, chunk in enumerate(chunks) if chunk.id not in context.needed]
        if context.needed and not others:
            break
        del chunks[others[-1]]
    return Reject(
        context.id, "too long", f"not even one chunk fits into {layout.max_tokens} tokens"
    )


def num_arrangements(examples: Sequence[Example]) -> int:
    """How many passes over the pairs the examples hold."""
    return 1 + max((e.arrangement for e in examples), default=0)


def longest_answer(examples: Sequence[Example]) -> int:
    """Tokens of the longest target, the base model's own replies aside: what an answer may take."""
    return max((e.encoded.num_answer_tokens for e in examples if e.kind != "replay"), default=1)
