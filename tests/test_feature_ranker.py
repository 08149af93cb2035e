"""What the feature ranker looks at, and that it orders by it."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest

from rag_ft.errors import DataError
from rag_ft.retrieval.feature_ranker import FEATURES, ChunkPlaces, FeatureRanker, features
from rag_ft.retrieval.fusion import Candidates
from rag_ft.retrieval.lexical import LexicalBuilder, LexicalIndex

TEXTS = [
    "the harbour of the island",
    "a ferry leaves the harbour at noon",
    "the lighthouse keeper",
    "red apples and a ferry",
    "nothing of interest",
]
IDS = ["a#0", "a#1", "a#2", "b#0", "b#1"]


@pytest.fixture
def lexical(tmp_path: Path) -> LexicalIndex:
    builder = LexicalBuilder()
    builder.add(TEXTS)
    builder.save(tmp_path / "lexical")
    return LexicalIndex(tmp_path / "lexical")


def column(table: np.ndarray, name: str) -> list[float]:
    return [round(float(value), 4) for value in table[:, FEATURES.index(name)]]


def test_features_hold_both_scores_of_every_chunk_that_either_index_found(
    lexical: LexicalIndex,
) -> None:
    vectors = np.eye(5, dtype=np.float32)
    vector = np.array([0.1, 0.9, 0.3, 0.2, 0], dtype=np.float32)
    question = "ferry at noon"
    [by_words] = lexical.search([question], 5)
    found = Candidates((np.array([1, 2]), np.array([0.9, 0.3])), by_words)
    rows, table = features(
        question, lambda rows: vectors[rows] @ vector, found, lexical, ChunkPlaces(IDS)
    )
    assert rows.tolist() == [1, 2, 3]
    assert column(table, "dense") == [0.9, 0.3, 0.2]
    assert column(table, "dense_rank") == [1, 0.5, 0.3333]
    assert column(table, "dense_before") == [0.1, 0.9, 0.2], "b#0 has no chunk before it"
    assert column(table, "dense_after") == [0.3, 0.3, 0]
    scores = dict(zip(by_words[0].tolist(), by_words[1].tolist(), strict=True))
    expected = [round(scores.get(row, 0), 4) for row in (1, 2, 3)]
    assert column(table, "bm25") == pytest.approx(expected, abs=1e-4)
    assert column(table, "overlap")[0] == 1 and column(table, "overlap")[1] == 0
    assert column(table, "document_candidates") == [2, 2, 1]
    assert column(table, "rank_in_document") == [1, 0.5, 1]
    assert column(table, "position") == [0.5, 1, 0]


def test_a_question_without_a_known_word_has_features_of_the_encoder_alone(
    lexical: LexicalIndex,
) -> None:
    none = (np.empty(0, dtype=np.int64), np.empty(0))
    found = Candidates((np.array([4, 0]), np.array([0.5, 0.4])), none)
    vector = np.array([0.4, 0, 0, 0, 0.5], dtype=np.float32)
    rows, table = features("zzz", lambda rows: vector[rows], found, lexical, ChunkPlaces(IDS))
    assert rows.tolist() == [0, 4]
    assert np.isfinite(table).all() and column(table, "overlap") == [0, 0]


def test_words_compare_as_the_index_scores_them(lexical: LexicalIndex) -> None:
    for question in ("ferry harbour harbour", "the ferry", "apples"):
        [(rows, scores)] = lexical.search([question], 5)
        assert lexical.compare(question, rows)[0] == pytest.approx(scores, rel=1e-5)


def test_a_ranker_orders_by_what_it_learned_and_scores_0_to_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.random((400, len(FEATURES))).astype(np.float32)
    right = (table[:, FEATURES.index("bm25")] > 0.8).astype(int)
    data = lightgbm.Dataset(table, right, group=[20] * 20, feature_name=list(FEATURES))
    settings = {"objective": "lambdarank", "verbosity": -1, "num_threads": 1}
    lightgbm.train(settings, data, 20).save_model(tmp_path / "ranker.txt")
    rows, scores = FeatureRanker(tmp_path / "ranker.txt").rank(np.arange(20), table[:20])
    assert right[rows[: right[:20].sum()]].all()
    assert (np.diff(scores) <= 0).all() and 0 <= scores.min() <= scores.max() <= 1


def test_a_damaged_ranker_says_how_to_repair_it(tmp_path: Path) -> None:
    (tmp_path / "ranker.txt").write_text("tree\n")
    with pytest.raises(DataError, match="train_retriever CONFIG --force"):
        FeatureRanker(tmp_path / "ranker.txt")
