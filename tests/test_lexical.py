"""BM25: the words of any script, the formula, and the files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tiny_texts import TEXTS

from rag_ft.errors import DataError
from rag_ft.retrieval import lexical
from rag_ft.retrieval.lexical import LexicalBuilder, LexicalIndex, words


def test_words_are_lower_case_unicode_and_pairs_where_a_script_has_no_spaces() -> None:
    assert words("The Müller-Häuser cost 3,5 €!") == ["the", "müller", "häuser", "cost", "3", "5"]
    assert words("ＡＢＣ ﬁne") == ["abc", "fine"]
    assert words("北京大学 in 北") == ["北京", "京大", "大学", "in", "北"]
    assert words("ไปตลาด") == words("ไปตลาด ")
    assert words("ABC北京") == ["abc", "北京"]
    assert words("حديقة الأندلس") == ["حديقة", "الأندلس"]
    assert words("مَدْرَسَة") == words("مدرسة") and words("हिन्दी में") == ["हिन्दी", "में"]


def test_bm25_scores_equal_the_formula(tmp_path: Path) -> None:
    texts = ["red apple red", "green apple", "blue sky over the green hill"]
    builder = LexicalBuilder()
    builder.add(texts[:2])
    builder.add(texts[2:])
    builder.save(tmp_path)
    rows, scores = LexicalIndex(tmp_path).search(["Red apple?"], 10)[0]

    def part(tf: int, df: int, length: int) -> float:
        norm = 1.2 * (1 - 0.75 + 0.75 * length / (11 / 3))
        return math.log(1 + (3 - df + 0.5) / (df + 0.5)) * tf / (tf + norm)

    assert list(rows) == [0, 1]
    np.testing.assert_allclose(scores, [part(2, 1, 3) + part(1, 2, 3), part(1, 2, 2)], rtol=1e-5)


def test_bm25_finds_nothing_for_unknown_words_and_keeps_chunk_order_in_ties(tmp_path: Path) -> None:
    builder = LexicalBuilder()
    builder.add(["same text", "", "same text", "!!", "same text", "other"])
    builder.save(tmp_path)
    index = LexicalIndex(tmp_path)
    assert [list(rows) for rows, _ in index.search(["zzz", "", "text", "text"], 2)] == [
        [],
        [],
        [0, 2],
        [0, 2],
    ]


def test_bm25_files_hold_no_pickle_and_are_memory_mapped(tmp_path: Path) -> None:
    builder = LexicalBuilder()
    builder.add(TEXTS)
    builder.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy", ".json"}
    for file in tmp_path.glob("*.npy"):
        assert isinstance(np.load(file, allow_pickle=False, mmap_mode="r"), np.memmap)
    assert isinstance(LexicalIndex(tmp_path)._bm25.scores["data"], np.memmap)


def test_a_damaged_bm25_index_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--force"):
        LexicalIndex(tmp_path)


@pytest.mark.parametrize("block_words", [1, 50, 4_000_000])
def test_the_index_is_that_of_bm25s_whatever_the_size_of_a_block(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block_words: int
) -> None:
    import bm25s

    monkeypatch.setattr(lexical, "BLOCK_WORDS", block_words)
    draw = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(40)]
    texts = [" ".join(draw.choice(vocabulary, draw.integers(0, 30))) for _ in range(60)]
    builder = LexicalBuilder(tmp_path)
    builder.add(texts[:25])
    builder.add(texts[25:])
    builder.save(tmp_path / "lexical")
    assert [path.name for path in tmp_path.iterdir()] == ["lexical"]

    peer = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    peer.index([words(text) for text in texts], show_progress=False)
    index = LexicalIndex(tmp_path / "lexical")
    for word in vocabulary:
        [(rows, scores)] = index.search([word], 60)
        wanted = peer.get_scores([word])
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(wanted > 0))
        np.testing.assert_array_equal(scores, wanted[rows])
