"""Batches without false negatives, full, and the same for the same seed."""

from __future__ import annotations

import itertools

from datasets import Dataset

from rag_ft.records import Chunk, Evidence, QAPair
from rag_ft.training.batches import (
    Apart,
    DistinctBatches,
    ShuffledBatches,
    distinct_batches,
    fitting_batch_size,
)
from rag_ft.training.cloze import make_clozes
from rag_ft.training.rows import Rows, cloze_rows, contrastive_rows


def row(question: str, positive: str, *negatives: str) -> Apart:
    return Apart(frozenset([question, positive]), frozenset([question, positive, *negatives]))


TEXTS = [(f"question {n}", f"chunk {n % 6}", f"chunk {(n + 1) % 6}") for n in range(24)]
ROWS = [row(*texts) for texts in TEXTS]


def test_no_proving_chunk_is_a_negative_of_the_same_batch() -> None:
    batches = list(distinct_batches(ROWS, 3, range(24)))
    assert batches
    for batch in batches:
        for a, b in itertools.permutations(batch, 2):
            assert TEXTS[a][1] not in TEXTS[b][1:], (a, b)


def test_rows_that_share_only_a_negative_may_share_a_batch() -> None:
    rows = [row(f"q{n}", f"p{n}", "the same negative") for n in range(4)]
    assert list(distinct_batches(rows, 4, range(4))) == [[0, 1, 2, 3]]


def test_a_question_asked_of_two_chunks_is_not_twice_in_a_batch() -> None:
    rows = [row("same", "p0"), row("same", "p1"), row("other", "p2")]
    assert list(distinct_batches(rows, 2, range(3))) == [[0, 2]]


def test_rows_without_clashes_are_taken_once_and_in_order() -> None:
    rows = [row(f"q{n}", f"p{n}") for n in range(7)]
    assert list(distinct_batches(rows, 3, range(7))) == [[0, 1, 2], [3, 4, 5]]


def test_a_small_corpus_gets_a_batch_size_it_can_fill() -> None:
    assert fitting_batch_size([row(f"q{n}", f"p{n}") for n in range(100)], 16, 1, 0) == 16
    assert fitting_batch_size(ROWS, 16, 1, 0) in (1, 2)
    assert fitting_batch_size(ROWS, 16, 2, 0) == 2
    assert fitting_batch_size([row("q", "p")], 16, 2, 0) == 0


def test_an_epoch_is_as_long_as_promised_and_epochs_differ() -> None:
    dataset = Dataset.from_dict(
        {"question": [question for question, *_ in TEXTS], "label": list(range(24))}
    )
    rows = [row(question, positive) for question, positive, _ in TEXTS]
    for sampler in (
        DistinctBatches(dataset, 4, True, apart=rows, seed=1),
        ShuffledBatches(dataset, 4, True, seed=1),
    ):
        first = list(sampler)
        assert len(first) == len(sampler) == 6
        assert list(sampler) == first
        sampler.set_epoch(1)
        assert list(sampler) != first


SENTENCES = [f"Sentence number {n} tells of thing {n} only." for n in range(5)]
DOCUMENT = " ".join(SENTENCES)


def overlapping() -> dict[str, Chunk]:
    """Four chunks of two sentences each, the second one being the first of the next chunk."""
    chunks = {}
    for n in range(4):
        text = " ".join(SENTENCES[n : n + 2])
        start = DOCUMENT.index(text)
        chunks[f"d#{n}"] = Chunk(f"d#{n}", "d", "", text, start, start + len(text), 9, "train")
    return chunks


def pair_of(sentence: int, chunk_id: str) -> QAPair:
    start = DOCUMENT.index(SENTENCES[sentence])
    evidence = Evidence(SENTENCES[sentence], start, start + len(SENTENCES[sentence]))
    return QAPair(
        f"q{sentence}",
        f"What of {sentence}?",
        ("x",),
        chunk_id,
        "d",
        evidence,
        "factoid",
        "train",
        "imported",
    )


def first_batch(rows: Rows) -> list[int]:
    return next(distinct_batches(rows.apart(), 2, range(len(rows.questions))))


def test_a_chunk_that_overlaps_the_evidence_of_another_row_is_not_in_its_batch() -> None:
    chunks = overlapping()
    pairs = [
        pair_of(1, "d#0"),
        pair_of(2, "d#1"),
        pair_of(3, "d#3"),
    ]  # sentence 1 stands in chunks 0 and 1
    rows = contrastive_rows(
        pairs, {pair.id: () for pair in pairs}, chunks, lambda chunk: chunk.text
    )
    assert rows.proving == [["d#0", "d#1"], ["d#1", "d#2"], ["d#3", "d#2"]]
    assert first_batch(rows) == [0, 2]
    mined = contrastive_rows(
        pairs[::2], {"q1": ("d#2",), "q3": ("d#1",)}, chunks, lambda chunk: chunk.text
    )
    assert not list(distinct_batches(mined.apart(), 2, range(2))), (
        "nor among the negatives of another"
    )


def test_a_chunk_that_keeps_the_sentence_which_asks_for_another_is_not_in_its_batch() -> None:
    clozes = {
        (c.chunk.id, c.question): c for c in make_clozes(overlapping().values(), 2, 0, kept_share=0)
    }
    wanted = [
        ("d#0", SENTENCES[1]),
        ("d#1", SENTENCES[2]),
        ("d#3", SENTENCES[4]),
    ]  # chunk 1 keeps sentence 1
    rows = cloze_rows([clozes[key] for key in wanted], lambda chunk: chunk.text)
    assert rows.proving == [["d#0", "d#1"], ["d#1"], ["d#3"]]
    assert first_batch(rows) == [0, 2]
