"""What is asked of which chunk: nothing left out, nothing asked twice, the mix as wished."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from rag_ft.errors import ConfigError
from rag_ft.generation.planner import (
    choose_chunks,
    draw_kinds,
    evenly_spaced,
    focus_sentences,
    kind_shares,
    plan,
    quotas,
)
from rag_ft.schema import Chunk

SENTENCES = [f"Sentence number {n} tells something." for n in range(12)]


def chunks(num: int, document: str = "d", per_chunk: int = 4, overlap: int = 1) -> list[Chunk]:
    made, text = [], " ".join(SENTENCES)
    starts = [text.index(s) for s in SENTENCES]
    for n in range(num):
        first = n * (per_chunk - overlap)
        start, last = starts[first], first + per_chunk - 1
        end = starts[last] + len(SENTENCES[last])
        made.append(
            Chunk(f"{document}#{n}", document, "t", text[start:end], start, end, 20, "train")
        )
    return made


def test_every_sentence_of_a_document_is_asked_about_once_and_overlaps_are_not_asked_twice() -> (
    None
):
    asks = list(plan(chunks(3), 4, {"factoid": 1.0}, seed=0))
    asked = [ask.sentence for ask in asks]
    assert asked == SENTENCES[:10]


def test_the_first_chunk_of_the_next_document_has_no_overlap() -> None:
    asks = list(plan([*chunks(1, "a"), *chunks(1, "b")], 4, {"factoid": 1.0}, seed=0))
    assert Counter(ask.chunk.document_id for ask in asks) == {"a": 4, "b": 4}


def test_more_pairs_than_sentences_never_repeat_a_request() -> None:
    asks = list(plan(chunks(1), 40, {"factoid": 0.5, "summary": 0.5}, seed=0))
    assert len({(ask.focus, ask.kind) for ask in asks}) == len(asks) == 8
    assert [ask.variant for ask in asks] == list(range(8))


def test_more_pairs_than_sentences_do_not_change_the_mix_of_kinds() -> None:
    several = [
        dataclasses.replace(c, text=f"{c.text} {n}") for n in range(200) for c in chunks(1, f"d{n}")
    ]
    asks = Counter(
        ask.kind for ask in plan(several, 6, {"factoid": 0.9, "unanswerable": 0.1}, seed=0)
    )
    assert asks["unanswerable"] / sum(asks.values()) == pytest.approx(0.12, abs=0.02)


def test_fewer_pairs_than_sentences_are_spread_over_the_chunk() -> None:
    assert evenly_spaced(2, 8) == [2, 6]
    assert evenly_spaced(3, 3) == [0, 1, 2]
    assert evenly_spaced(2, 0) == []


def test_headings_and_rules_are_asked_about_only_where_there_is_nothing_else() -> None:
    text = "# The yard\n\n---\n\nThe yard opens at 7.\n\n- Ola leads it."
    chunk = Chunk("d#0", "d", "t", text, 0, len(text), 9, "train")
    assert [text[s:e] for s, e in focus_sentences(chunk, 0)] == [
        "The yard opens at 7.",
        "- Ola leads it.",
    ]
    text = "Fees: all\nThe fee is 9. It rose.\n\nWho pays? All!\n\nMembers pay.\n\nWhat else?"
    text += "\n\nFee: 9"
    inner = ("Fees: all", "Who pays? All!")
    several = Chunk("d#0", "d", "t", text, 0, len(text), 9, "train", inner_headings=inner)
    asked = ["The fee is 9.", "It rose.", "Members pay.", "Fee: 9"]
    assert [text[s:e] for s, e in focus_sentences(several, 0)] == asked
    heading = Chunk("d#0", "d", "t", "# The yard", 0, 10, 3, "train")
    assert focus_sentences(heading, 0) == [(0, 10)]


def test_the_mix_of_kinds_is_met_and_depends_on_content_and_seed_alone() -> None:
    shares = kind_shares(
        None, ["factoid", "summary", "inference", "unanswerable", "multi_hop"], "full"
    )
    drawn = Counter(kind for n in range(500) for kind in draw_kinds(shares, 4, str(n)))
    assert all(abs(drawn[kind] / 2000 - share) < 0.02 for kind, share in shares.items())
    assert draw_kinds(shares, 8, "a") == draw_kinds(shares, 8, "a")
    first = [ask.kind for ask in plan(chunks(3), 4, shares, seed=1)]
    assert first == [ask.kind for ask in plan(chunks(3), 4, shares, seed=1)]


def test_the_usual_mix_is_cut_to_what_the_prompts_can_write() -> None:
    shares = kind_shares(None, ["factoid", "unanswerable"], "compact")
    assert set(shares) == {"factoid", "unanswerable"} and sum(shares.values()) == pytest.approx(1)


def test_kinds_that_cannot_be_written_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"summary.*compact.*factoid, unanswerable"):
        kind_shares({"factoid": 0.5, "summary": 0.5}, ["factoid", "unanswerable"], "compact")
    with pytest.raises(ConfigError, match=r"generate\.kinds has no kind"):
        kind_shares({"factoid": 0.0}, ["factoid"], "compact")


def test_a_limit_on_chunks_is_spread_over_documents() -> None:
    assert quotas({"a": 10, "b": 1, "c": 10}, 9) == {"a": 4, "b": 1, "c": 4}
    assert quotas({"a": 1, "b": 2}, 100) == {"a": 1, "b": 2}
    assert quotas({"a": 5, "b": 5, "c": 5}, 2) == {"a": 1, "b": 1, "c": 0}
    made = [c for name in "ab" for c in chunks(3, name)]
    chosen = list(choose_chunks(made, Counter(c.document_id for c in made), 2))
    assert [c.id for c in chosen] == ["a#1", "b#1"]
    assert list(choose_chunks(made, Counter(), 0)) == made


def test_no_heading_is_asked_about_where_there_are_sentences() -> None:
    text = "Salt store\n\nIt is led by Marek.\n\nOpening hours\n\nNine.\n\n- a list item\n\n| a | b"
    chunk = Chunk("d#0", "d", "D", text, 0, len(text), 9, "train", headings=("Salt store",))
    asked = [text[start:end] for start, end in focus_sentences(chunk, 0)]
    assert asked == ["It is led by Marek.", "Nine.", "- a list item", "| a | b"]
    only = Chunk("d#0", "d", "D", "Salt store", 0, 10, 9, "train", headings=("Salt store",))
    assert focus_sentences(only, 0) == [(0, 10)]


def test_rows_items_and_lines_of_code_are_asked_about() -> None:
    table = "Item | Fee\nPump | 40 euro\nValve | 7 euro"
    text = f"{table}\n\n- Bring a lamp\n- Bring a rope\n\nrate = 4 * fee"
    [chunk] = chunks(1)
    chunk = dataclasses.replace(chunk, text=text, start=0, end=len(text))
    asked = [text[start:end] for start, end in focus_sentences(chunk, 0)]
    wanted = {"Pump | 40 euro", "Valve | 7 euro", "- Bring a lamp", "- Bring a rope"}
    assert wanted | {"rate = 4 * fee"} <= set(asked)
