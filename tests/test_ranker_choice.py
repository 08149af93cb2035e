"""The feature ranker: served only where documents that it did not see show a certain gain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from retriever_run import MakeRun, prepare

from rag_ft.errors import ConfigError
from rag_ft.retrieval.feature_ranker import FEATURES, FeatureRanker
from rag_ft.retrieval.fusion import Candidates
from rag_ft.session import Session
from rag_ft.stage_runs import summarise_train_retriever
from rag_ft.stages import train_retriever
from rag_ft.storage import write_jsonl
from rag_ft.training.retriever import ranker_choice
from rag_ft.training.retriever.fusion_choice import Ranked
from rag_ft.training.retriever.ranker_choice import choose_ranker, cross_validated


def questions(num: int, telling: str | None, per_document: int = 8, seed: int = 1) -> list[Ranked]:
    """Both rankings place the gold chunk (row 0) at random; the column `telling` marks it."""
    rng, found = np.random.default_rng(seed), []
    for number in range(num):
        rows = np.arange(20)
        columns = rng.random((20, len(FEATURES))).astype(np.float32)
        if telling:
            columns[0, FEATURES.index(telling)] = 5
        order = rng.permutation(20)
        ranking = (order, np.linspace(1, 0, 20))
        document = f"d{number // per_document}"
        candidates = Candidates(ranking, ranking)
        question = Ranked(f"q{number}", candidates, frozenset({0}), document, (rows, columns))
        found.append(question)
    return found


def test_a_ranker_that_finds_more_is_served(tmp_path: Path) -> None:
    path = tmp_path / "ranker.txt"
    asked = questions(120, "overlap")
    choice = choose_ranker(asked, [], 0.5, path, forced=False, seed=0)
    assert choice.served and choice.ci95 and choice.ci95[0] > 0
    assert choice.held_out and len(choice.held_out) == 120
    first, _ = FeatureRanker(path).rank(*asked[0].features)
    assert first[0] == 0


def test_a_ranker_that_learns_noise_is_left_out_unless_it_is_forced(tmp_path: Path) -> None:
    path = tmp_path / "ranker.txt"
    asked = questions(120, None)
    choice = choose_ranker(asked, [], 0.5, path, forced=False, seed=0)
    assert not choice.served and "the mixture stays" in choice.reason and not path.exists()
    assert choose_ranker(asked, [], 0.5, path, forced=True, seed=0).served and path.exists()


def test_few_questions_train_no_ranker(tmp_path: Path) -> None:
    few = choose_ranker(questions(20, "overlap"), [], 0.5, tmp_path / "r.txt", False, 0)
    assert not few.served and "20 questions" in few.reason
    one = questions(120, "overlap", per_document=1000)
    assert not choose_ranker(one, [], 0.5, tmp_path / "r.txt", False, 0).served


@pytest.mark.slow
def test_a_ranker_that_orders_generated_questions_alone_is_left_out(tmp_path: Path) -> None:
    written = questions(240, "overlap")
    asked = [
        q._replace(id=f"p{q.id}", document=f"p{q.document}", by_people=True)
        for q in questions(240, None, seed=2)
    ]
    path = tmp_path / "ranker.txt"
    choice = choose_ranker([*written, *asked], [], 0.5, path, forced=False, seed=0)
    assert not choice.served and "on 240 questions" in choice.reason
    # All of them have a place in the ranking of the ranker that did not see them.
    assert choice.held_out and len(choice.held_out) == 480
    assert choose_ranker(written, [], 0.5, path, forced=False, seed=0).served


def test_no_question_is_judged_by_a_ranker_that_saw_its_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[set[str]] = []

    class Even:
        def predict(self, columns: np.ndarray, num_threads: int) -> np.ndarray:
            return np.zeros(len(columns))

    def train(chosen: list[Ranked], seed: int) -> Even:
        seen.append({question.document for question in chosen})
        return Even()

    monkeypatch.setattr(ranker_choice, "train_ranker", train)
    asked = questions(80, None)
    cross_validated(asked, [], seed=0)
    documents = {question.document for question in asked}
    held_out = [documents - trained for trained in seen]
    assert set.union(*held_out) == documents
    assert sum(map(len, held_out)) == len(documents)


def test_a_served_ranker_orders_what_every_user_gets(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranker_choice, "MIN_QUESTIONS", 50)
    config, run_dir = prepare(make_run, retrieval={"ranker": "lightgbm"}, enabled=False)
    train_retriever.run(Session(config, run_dir))
    row = json.loads(run_dir.fusion.read_text())["base"]
    assert row["ranker"] == "ranker/base.txt" and run_dir.ranker("base").is_file()
    retriever = Session(config, run_dir).retriever()
    questions = ["what is in box 3"]
    served, mixture = retriever.search(questions, 5), retriever.search(questions, 5, "hybrid")
    scores = [score for _, score in served[0]]
    assert scores == sorted(scores, reverse=True) and served != mixture
    assert list(retriever.explain(questions[0], 5)) == [chunk_id for chunk_id, _ in served[0]]
    write_jsonl(run_dir.qa, [])
    train_retriever.run(Session(config, run_dir))
    assert json.loads(run_dir.fusion.read_text())["base"]["ranker"] is None


def test_without_lightgbm_the_mixture_is_served_unless_the_ranker_was_asked_for(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ConfigError("LightGBM cannot be loaded")

    monkeypatch.setattr(ranker_choice, "load_lightgbm", missing)
    monkeypatch.setattr(ranker_choice, "MIN_QUESTIONS", 50)
    config, run_dir = prepare(make_run, enabled=False)
    train_retriever.run(Session(config, run_dir))
    row = json.loads(run_dir.fusion.read_text())["base"]
    assert row["ranker"] is None and "LightGBM" in row["ranker_reason"]
    forced = config.retrieval.model_copy(update={"ranker": "lightgbm"})
    asked = config.model_copy(update={"retrieval": forced})
    with pytest.raises(ConfigError, match="LightGBM"):
        train_retriever.run(Session(asked, run_dir))


def test_where_one_index_alone_is_served_nothing_is_chosen(make_run: MakeRun) -> None:
    config, run_dir = prepare(make_run, mode="lexical", enabled=False)
    counts = train_retriever.run(Session(config, run_dir))
    assert "nothing is mixed" in str(counts["fusion_base"]) and counts["ranker_base"] == 0


def test_the_stage_says_how_the_served_encoder_is_mixed_and_ordered() -> None:
    counts = {
        "shipped": 1,
        "reason": "better",
        "fusion_base": "half",
        "fusion_tuned": "BM25 0.3",
        "ranker_base": 1,
        "ranker_tuned": 0,
        "ranker_reason_base": "why",
    }
    said = summarise_train_retriever(counts)
    assert said == "the tuned encoder is served (better); its mixture: BM25 0.3"
    base = summarise_train_retriever({**counts, "shipped": 0})
    assert "mixture: half; ordered by the feature ranker (why)" in base
