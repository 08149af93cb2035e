"""A reranker: one more score of the first chunks, served only where dev questions show a gain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from retriever_run import MakeRun, prepare

from rag_ft.config import RerankerConfig
from rag_ft.errors import ConfigError
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.retrieval.reranker import Reranker, rerank
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.stages import train_retriever
from rag_ft.storage import read_jsonl
from rag_ft.training.retriever.rerank_choice import Asked, choose_reranking

TEXTS = {"a": "red apples", "b": "the harbour", "c": "a ferry"}


@pytest.fixture
def tiny_reranker(tiny_encoder_dir: Path, tmp_path: Path) -> Path:
    """A CrossEncoder with random weights."""
    from sentence_transformers import CrossEncoder

    folder = tmp_path / "reranker"
    CrossEncoder(str(tiny_encoder_dir), num_labels=1, device="cpu").save_pretrained(str(folder))
    return folder


def planted(found: Sequence[float]) -> Reranker:
    """A reranker that gives these scores to any chunks."""
    reranker = Reranker(RerankerConfig(model="planted"), str)
    reranker.scores = lambda question, ids: np.array(found[: len(ids)])  # type: ignore[method-assign]
    return reranker


def test_a_cross_encoder_scores_chunks_between_0_and_1(tiny_reranker: Path) -> None:
    reranker = Reranker(RerankerConfig(model=str(tiny_reranker)), TEXTS.__getitem__)
    scores = reranker.scores("where is the ferry", ["a", "b", "c"])
    assert scores.shape == (3,) and (scores > 0).all() and (scores < 1).all()
    again = reranker.scores("where is the ferry", ["c", "a"])
    np.testing.assert_allclose(again, scores[[2, 0]], atol=1e-5)
    assert len(reranker.scores("nothing found", [])) == 0


def test_texts_of_all_lengths_have_few_widths(tiny_reranker: Path) -> None:
    # Each width takes memory for good. No text is cut: the longest pair has 59 tokens.
    texts = [f"{'the mill ' * n}was built in 1842" for n in range(1, 8)]
    widths, scores = set[tuple[int, int]](), {}
    for max_tokens in (64, 60):  # 60: no multiple of 32, so as long as the longest text
        config = RerankerConfig(
            model=str(tiny_reranker), dtype="float32", advanced={"max_tokens": max_tokens}
        )
        reranker = Reranker(config, lambda chunk_id: texts[int(chunk_id)])
        hook = reranker._model[0].register_forward_pre_hook(
            lambda _, args, seen=max_tokens: widths.add((seen, args[0]["input_ids"].shape[1]))
        )
        scores[max_tokens] = [reranker.scores("who built it", [str(n)])[0] for n in range(7)]
        hook.remove()
    assert {width for limit, width in widths if limit == 64} <= {32, 64}
    assert len({width for limit, width in widths if limit == 60}) > 2
    np.testing.assert_allclose(scores[64], scores[60], atol=1e-5)


def test_a_folder_that_is_no_reranker_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reranker\.model"):
        Reranker(RerankerConfig(model=str(tmp_path)), str).scores("who", ["a"])


def test_the_first_chunks_are_reordered_and_the_others_stay_below() -> None:
    ranking = (np.array([7, 3, 5, 9]), np.array([1.0, 0.9, 0.8, 0.7]))
    rows, scores = rerank(ranking, np.array([0.1, 0.2, 0.9]), 1.0)
    assert rows.tolist() == [5, 3, 7, 9]
    assert (np.diff(scores) <= 0).all() and 0 <= scores[-1] <= scores[0] <= 1
    rows, _ = rerank(ranking, np.array([0.1, 0.2, 0.9]), 0.0)
    assert rows.tolist() == [7, 3, 5, 9]


def questions(num: int) -> list[Asked]:
    """The mixture puts the gold chunk (row 2) third."""
    ranking = (np.array([0, 1, 2]), np.array([1.0, 0.95, 0.9]))
    return [Asked(f"who {n}", ranking, frozenset({2}), f"d{n}") for n in range(num)]


def test_the_smallest_share_and_depth_that_bring_the_gain_are_served() -> None:
    right = planted([0.1, 0.2, 0.9])
    choice = choose_reranking(right, ["a", "b", "c"], questions(12))
    assert 0 < choice.weight <= 0.6 and choice.depth == 5
    assert choice.gain == pytest.approx(2 / 3, abs=1e-4) and choice.ci95 is not None
    wrong = planted([0.9, 0.2, 0.1])
    kept = choose_reranking(wrong, ["a", "b", "c"], questions(12))
    assert (kept.weight, kept.depth) == (0, 0) and "no share" in kept.reason
    few = choose_reranking(right, ["a", "b", "c"], questions(1))
    assert few.weight == 0 and "not certain, so it is left out" in few.reason
    assert choose_reranking(right, ["a", "b", "c"], []).weight == 0


def test_a_gold_chunk_far_down_asks_for_more_chunks() -> None:
    ranking = (np.arange(20), np.linspace(1, 0.9, 20))
    asked = [Asked(f"who {n}", ranking, frozenset({14}), f"d{n}") for n in range(12)]
    reranker = planted([float(n == 14) for n in range(20)])
    assert choose_reranking(reranker, [str(n) for n in range(20)], asked).depth == 20


def test_what_is_served_today_is_what_must_be_beaten() -> None:
    asked = [question._replace(now=1.0) for question in questions(12)]
    assert choose_reranking(planted([0.1, 0.2, 0.9]), ["a", "b", "c"], asked).weight == 0


def test_what_dev_questions_chose_is_what_every_user_gets(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = {"advanced__lexical_weight": 0.0}
    config, run_dir = prepare(make_run, enabled=False, retrieval=dense)
    named = config.model_copy(update={"reranker": RerankerConfig(model="planted")})
    gold = {pair.question: pair.chunk_id for pair in read_jsonl(run_dir.qa, QAPair)}

    def scores(self: Reranker, question: str, ids: Sequence[str]) -> np.ndarray:
        return np.array([float(chunk_id == gold[question]) for chunk_id in ids])

    monkeypatch.setattr(Reranker, "scores", scores)
    train_retriever.run(Session(named, run_dir))
    row = json.loads(run_dir.fusion.read_text())["base"]
    assert row["reranker"] == "planted" and row["rerank_weight"] > 0
    asked = list(gold)
    served = Session(named, run_dir).retriever()
    recall = [
        np.mean([score_ranking([i for i, _ in hits], [gold[q]])["recall@1"] for q, hits in found])
        for found in (
            list(zip(asked, served.search(asked, 10), strict=True)),
            list(zip(asked, served.search(asked, 10, "hybrid"), strict=True)),
        )
    ]
    assert recall[0] > recall[1]
    assert "reranker" in next(iter(served.explain(asked[0], 3).values()))
    # Another reranker than the one that was chosen for is not served.
    other = named.model_copy(update={"reranker": RerankerConfig(model="other")})
    assert Session(other, run_dir).retriever().reranker is None
    assert Session(config, run_dir).retriever().reranker is None
