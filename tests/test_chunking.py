"""Sentences and chunks: exact positions, nothing left out, linear time on hostile input."""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from rag_ft.documents.blocks import join_blocks
from rag_ft.documents.chunking import ChunkPlace, chunk_blocks, divide_ranges, split_chunks
from rag_ft.documents.formats.content import Block
from rag_ft.documents.sentences import split_sentences

MEGABYTE = 2**20


def count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def count_bytes(texts: list[str]) -> list[int]:
    return [len(text.encode()) for text in texts]


def count_unevenly(texts: list[str]) -> list[int]:
    """Like a tokenizer whose counts do not add up: a whole has more tokens than its parts."""
    return [len(text.split()) + len(text) // 50 for text in texts]


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


def chunks(
    text: str,
    count: Callable[[list[str]], list[int]] = count_words,
    size: int = 16,
    overlap: int = 4,
) -> list[str]:
    return [text[start:end] for start, end, _ in split_chunks(text, count, size, overlap)]


# Sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He came. She left! Why? Yes...", ["He came.", "She left!", "Why?", "Yes..."]),
        (
            "Dr. Smith of the U.S. office came. See Fig. 3.",
            ["Dr. Smith of the U.S. office came.", "See Fig. 3."],
        ),
        (
            "It opens at 9 a.m. The bar at 3.5 p.m. on 1.1.",
            ["It opens at 9 a.m.", "The bar at 3.5 p.m. on 1.1."],
        ),
        (
            'He said: "Come." Then (at once.) He went.',
            ['He said: "Come."', "Then (at once.)", "He went."],
        ),
        ("Title\n\nText goes\non here. End.", ["Title", "Text goes\non here.", "End."]),
        ("Phone: 1\nFax: 2\n- one\n- two", ["Phone: 1", "Fax: 2", "- one", "- two"]),
        ("1. Open it. Wait.\n2. Close it.", ["1. Open it.", "Wait.", "2. Close it."]),
        (
            "This line was wrapped by an editor near the seventieth column of\nDr. Smith. Next.",
            [
                "This line was wrapped by an editor near the seventieth column of\nDr. Smith.",
                "Next.",
            ],
        ),
        ("她说：“你好。”然后走了。真的？是！", ["她说：“你好。”", "然后走了。", "真的？", "是！"]),
        (
            "متى تفتح القاعة؟ تفتح في التاسعة. ثم تغلق.",
            ["متى تفتح القاعة؟", "تفتح في التاسعة.", "ثم تغلق."],
        ),
        ("Am 3. Mai kam z. B. Dr. Li. Gut.", ["Am 3. Mai kam z. B. Dr. Li.", "Gut."]),
        ("  \n ", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


# Chunks


def made_up_text(chance: random.Random) -> str:
    words = ["a", "hall", "opens。", "very", "x" * 70, "Dr.", "now.", "今天是星期五！我们去", "？"]
    words += ["\n", "\n\n", "- it", "é", "🙂🙂", "e\u0301", "تفتح", "القاعة؟", " " * 40, "!?"]
    words += ["3.5", "\t", "A,B;C", "I."]
    return "".join(
        chance.choice(words) + chance.choice([" ", " ", "", "\n"])
        for _ in range(chance.randrange(1, 120))
    )


@pytest.mark.parametrize("count", [count_words, count_bytes, count_unevenly])
def test_chunks_have_exact_positions_fit_and_leave_nothing_out(
    count: Callable[[list[str]], list[int]],
) -> None:
    chance = random.Random(3)
    for _ in range(150):
        text, size = made_up_text(chance), chance.choice([16, 30, 128])
        overlap = chance.randrange(0, size)
        covered = np.zeros(len(text), dtype=bool)
        last = -1
        for start, end, num_tokens in split_chunks(text, count, size, overlap):
            assert 0 < num_tokens <= size and count([text[start:end]]) == [num_tokens]
            assert text[start:end] == text[start:end].strip()
            assert start > last, "chunks move forward"
            last = start
            covered[start:end] = True
        assert all(covered[i] or text[i].isspace() for i in range(len(text)))


def test_a_chunk_is_made_of_whole_sentences_and_begins_with_the_end_of_the_one_before() -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(10))
    found = chunks(text, size=16, overlap=5)
    assert (
        found[0]
        == "Sentence number 0 is here. Sentence number 1 is here. Sentence number 2 is here."
    )
    assert found[1].startswith("Sentence number 2 is here. Sentence number 3")
    assert chunks(text, size=16, overlap=0)[1].startswith("Sentence number 3")


def test_repeated_sentences_keep_their_own_positions() -> None:
    text = "The same thing again. " * 40
    spans = list(split_chunks(text, count_words, 16, 4))
    assert [s.start for s in spans] == list(range(0, 22 * 37, 66)) and spans[-1].end == len(
        text
    ) - 1


def test_ranges_that_are_too_long_are_divided_and_none_lies_inside_another() -> None:
    assert divide_ranges([(0, 3), (3, 5)], [True, False]) == [(0, 1), (2, 3), (3, 5)]
    assert divide_ranges([(0, 3), (2, 5)], [True, False]) == [(0, 1), (2, 5)]
    assert divide_ranges([(4, 4)], [True]) == [(4, 4)], "a single piece is not divided"


def test_an_overlong_sentence_is_cut_between_words_with_overlap() -> None:
    text = " ".join(f"word{n}" for n in range(100))
    found = chunks(text, size=16, overlap=6)
    assert all(part.split() == [w for w in text.split() if w in part.split()] for part in found)
    assert all(first.split()[-1] in second.split() for first, second in itertools.pairwise(found))


def test_chinese_and_arabic_fill_their_chunks(demo_encoder: str) -> None:
    from rag_ft.model_hub import load_tokenizer, resolve

    tokenizer = load_tokenizer(resolve(demo_encoder, "encoder"))

    def count(texts: list[str]) -> list[int]:
        return [len(row) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    for sentence in (
        "图书馆每天早上九点开门，晚上六点关门。",
        "تفتح المكتبة كل يوم في التاسعة صباحا. ",
    ):
        spans = list(split_chunks(sentence * 60, count, 128, 20))
        assert all(90 <= num_tokens <= 128 for *_, num_tokens in spans[:-1])
        assert all(
            (sentence * 60)[start:end].endswith(sentence.strip()[-1]) for start, end, _ in spans
        )


@pytest.mark.parametrize(
    "piece", ["x", "word ", "One sentence here. ", ".", "汉", " \n", "a.b ", ".)"]
)
def test_one_endless_line_takes_linear_time(piece: str) -> None:
    text = (piece * 400_000)[:400_000]
    begin = time.process_time()
    number = sum(1 for _ in split_chunks(text, count_bytes, 128, 20))
    assert number > 2000 or not text.strip()
    assert time.process_time() - begin < 8


def test_one_endless_line_takes_little_memory() -> None:
    tracemalloc.start()
    number = sum(1 for _ in split_chunks("word " * 40_000, count_bytes, 128, 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number > 1000 and peak < 20 * MEGABYTE


# Blocks


def chunk_texts(blocks: list[Block], size: int = 12, overlap: int = 0) -> list[ChunkPlace]:
    text, placed = join_blocks(blocks)
    found = list(chunk_blocks(text, placed, count_words, size, overlap))
    assert all(place.num_tokens <= size for place in found)
    covered = {n for place in found for n in range(place.start, place.end)}
    assert all(n in covered or text[n].isspace() for n in range(len(text)))
    return found


def said(blocks: list[Block], size: int = 12, overlap: int = 0) -> list[str]:
    text, _ = join_blocks(blocks)
    return [text[p.start : p.end] for p in chunk_texts(blocks, size, overlap)]


SENTENCE = "This is a sentence of eight words here."


def test_no_chunk_ends_with_a_heading_that_has_text_below() -> None:
    blocks = [
        block
        for n in range(6)
        for block in (Block("heading", f"Part {n}", 2), Block("paragraph", SENTENCE))
    ]
    found = said([Block("heading", "Guide", 1), *blocks], size=14)
    assert len(found) == 6 and all(text.endswith("here.") for text in found)


def test_a_chunk_never_crosses_a_heading_of_the_top_level() -> None:
    blocks = [
        block
        for n in range(3)
        for block in (Block("heading", f"Part {n}", 2), Block("paragraph", "Few words."))
    ]
    assert said(blocks, size=50, overlap=10) == [f"Part {n}\n\nFew words." for n in range(3)]


def test_list_items_and_rows_are_kept_whole_where_they_fit() -> None:
    blocks = [Block("paragraph", "One two three four five.")]
    blocks += [Block("item", "- One two. Three four. Five.", tight=True) for _ in range(3)]
    found = said(blocks, size=12)
    assert all(text.startswith(("One", "- One")) for text in found)
    assert said([Block("row", "a b. | C d. e | f")] * 2, size=9) == ["a b. | C d. e | f"] * 2


def test_chunks_carry_pages_headings_and_the_head_of_a_table() -> None:
    blocks = [
        Block("heading", "Harbour", 1, page=1),
        Block("heading", "Fees", 2, page=1),
        Block("paragraph", SENTENCE, page=1, page_end=2),
        Block("row", "Item | Fee", 1, page=2),
        *(Block("row", f"Pump {n} | {n} | euro", page=2, tight=True) for n in range(4)),
        Block("heading", "Rules", 2, page=3),
        Block("paragraph", SENTENCE, page=3),
    ]
    found = chunk_texts(blocks, size=14)
    assert [(p.page, p.page_end, p.headings) for p in found] == [
        (1, 2, ("Harbour", "Fees")),
        (2, 2, ("Harbour", "Fees")),
        (2, 2, ("Harbour", "Fees", "Item | Fee")),
        (2, 2, ("Harbour", "Fees", "Item | Fee")),
        (3, 3, ("Harbour", "Rules")),
    ]


def test_a_chunk_knows_the_headings_inside_it() -> None:
    blocks = [
        Block("heading", "Harbour", 1),
        Block("heading", "Fees: who pays", 2),
        Block("paragraph", SENTENCE),
        Block("heading", "Rules!", 2),
        Block("paragraph", SENTENCE),
    ]
    [found] = chunk_texts(blocks, size=99)
    assert found.headings == ("Harbour", "Fees: who pays") and found.inner_headings == ("Rules!",)


@pytest.mark.parametrize("line", ["Fees", "Who pays?", "You need:", "Fees (winter)", "Pay now!"])
@pytest.mark.parametrize("tight", [False, True])
def test_no_chunk_ends_with_a_line_that_stands_over_text(line: str, tight: bool) -> None:
    blocks = [Block("paragraph", SENTENCE), Block("paragraph", line)]
    blocks += [Block("paragraph", SENTENCE, tight=tight)]
    assert [text.split("\n")[-1] for text in said(blocks, size=11)] == [SENTENCE, SENTENCE]


def test_short_lines_without_text_below_fill_their_chunks() -> None:
    lines = [Block("paragraph", f"Keeper {n} of the lamp") for n in range(12)]
    assert [len(text.split("\n\n")) for text in said(lines, size=20)] == [4, 4, 4]
