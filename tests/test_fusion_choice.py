"""The share of BM25 that is served: chosen where its gain is certain, else half and half."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from retriever_run import MakeRun, prepare, record_training_rows

from rag_ft.errors import DataError
from rag_ft.retrieval.fusion import Candidates, Fusion, Ranking, read_choice
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.stages import train_retriever
from rag_ft.storage import read_jsonl
from rag_ft.training import dev_split
from rag_ft.training.dev_split import ENOUGH_QUESTIONS, enough
from rag_ft.training.retriever import fusion_choice
from rag_ft.training.retriever.fusion_choice import Ranked, choose_weight, deciding


def ranking(*rows: int) -> Ranking:
    return np.array(rows), np.linspace(1, 0.1, len(rows))


def question(number: int, dense: Ranking, lexical: Ranking, document: str = "") -> Ranked:
    none = (np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32))
    found = Candidates(dense, lexical)
    return Ranked(f"q{number}", found, frozenset({3}), document or f"d{number}", none)


# Of equal scores the first row leads, so gold is the last.
RIGHT, WRONG = ranking(3, 2, 1, 0), ranking(0, 1, 2, 3)


def test_a_good_encoder_is_served_with_less_of_a_bad_bm25() -> None:
    choice = choose_weight([question(n, RIGHT, WRONG) for n in range(20)])
    assert choice.lexical_weight < 0.5
    assert choice.gain and choice.gain > 0 and choice.ci95 and choice.ci95[0] > 0
    assert "on 20 questions" in choice.reason


def test_a_good_bm25_is_served_with_less_of_a_bad_encoder() -> None:
    assert choose_weight([question(n, WRONG, RIGHT) for n in range(20)]).lexical_weight > 0.5


def test_an_uncertain_gain_leaves_half_and_half_and_the_reason_says_so() -> None:
    mixed = [question(n, RIGHT, RIGHT) for n in range(10)] + [question(10, RIGHT, WRONG)]
    choice = choose_weight(mixed)
    assert choice.lexical_weight == 0.5
    assert choice.gain and choice.ci95 and choice.ci95[0] <= 0 < choice.gain
    assert "half and half" in choice.reason


def test_questions_about_one_document_make_no_gain_certain() -> None:
    choice = choose_weight([question(n, RIGHT, WRONG, "one") for n in range(20)])
    assert (choice.lexical_weight, choice.ci95) == (0.5, None)


def test_without_questions_nothing_is_chosen() -> None:
    assert choose_weight([]).lexical_weight == 0.5


def test_train_retriever_writes_the_choice_also_where_it_is_disabled(make_run: MakeRun) -> None:
    config, run_dir = prepare(make_run, enabled=False)
    counts = train_retriever.run(Session(config, run_dir))
    rows = json.loads(run_dir.fusion.read_text())
    assert rows["tuned"] is None
    assert rows["base"]["num_questions"] > ENOUGH_QUESTIONS
    assert counts["fusion_base"] == rows["base"]["reason"]


def test_both_encoders_are_served_with_their_own_choice(make_run: MakeRun) -> None:
    config, run_dir = prepare(make_run)
    train_retriever.run(Session(config, run_dir))
    rows = json.loads(run_dir.fusion.read_text())
    for name, weight in (("base", 0.2), ("tuned", 0.9)):
        rows[name]["lexical_weight"] = weight
    run_dir.fusion.write_text(json.dumps(rows))
    session = Session(config, run_dir)
    assert session.retriever().fusion == Fusion(0.2)
    assert session.retriever({"retriever"}).fusion == Fusion(0.9)
    # What comes before train_retriever does not depend on it.
    assert session.plain_retriever().fusion == Fusion(0.5)
    fixed = config.retrieval.advanced.model_copy(update={"lexical_weight": 0.7})
    retrieval = config.retrieval.model_copy(update={"advanced": fixed})
    assert open_retriever(run_dir, retrieval, config.encoder).fusion == Fusion(0.7)


def test_a_choice_for_another_encoder_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "fusion.json"
    assert read_choice(path, "a", "lexical_weight", "train_retriever") == {}
    row = dataclasses.replace(choose_weight([]), encoder="a", lexical_weight=0.3).row()
    path.write_text(json.dumps({"base": row, "tuned": None}))
    assert read_choice(path, "a", "lexical_weight", "train_retriever")["lexical_weight"] == 0.3
    assert read_choice(path, "b", "lexical_weight", "train_retriever") == {}
    path.write_text("{")
    with pytest.raises(DataError, match="train_retriever CONFIG --force"):
        read_choice(path, "a", "lexical_weight", "train_retriever")


@pytest.mark.slow
def test_with_few_dev_questions_train_questions_choose_by_an_encoder_that_did_not_see_them(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_training_rows(monkeypatch)
    config, run_dir = prepare(make_run, crossfit="always", num_negatives=0, epochs=1)
    train_retriever.run(Session(config, run_dir))
    # One encoder on each half, none of whose questions the other one saw, then one on all.
    first, second, everything = ({row["question"] for row in rows} for rows in trained)
    assert not first & second and first | second == everything
    rows = json.loads(run_dir.fusion.read_text())
    assert rows["tuned"]["num_questions"] == rows["base"]["num_questions"] == len(everything)
    # Then dev pairs need not be held out.
    dev = {pair.question for pair in read_jsonl(run_dir.qa, QAPair) if pair.split == "dev"}
    assert dev and dev < everything


@pytest.mark.parametrize(
    ("num_documents", "num_trained"), [(4, 1), pytest.param(5, 3, marks=pytest.mark.slow)]
)
def test_dev_questions_about_few_documents_do_not_choose_alone(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, num_documents: int, num_trained: int
) -> None:
    # There are 24 dev questions, about 4 documents.
    monkeypatch.setattr(dev_split, "ENOUGH_QUESTIONS", 24)
    monkeypatch.setattr(dev_split, "ENOUGH_DOCUMENTS", num_documents)
    trained = record_training_rows(monkeypatch)
    config, run_dir = prepare(make_run, crossfit="auto", num_negatives=0, epochs=1)
    train_retriever.run(Session(config, run_dir))
    assert len(trained) == num_trained


def test_where_people_asked_enough_their_questions_decide() -> None:
    written = [question(n, WRONG, RIGHT) for n in range(100)]
    asked = [question(n, RIGHT, WRONG)._replace(by_people=True) for n in range(100, 160)]
    assert deciding([*written, *asked]) == asked
    assert choose_weight(deciding([*written, *asked])).lexical_weight < 0.5
    # Too few questions, and questions about too few documents.
    few = asked[:-1]
    same = [q._replace(document=f"d{n % 19}") for n, q in enumerate(asked)]
    for people in (few, same):
        assert deciding([*written, *people]) == [*written, *people]
    assert enough([str(n % 20) for n in range(60)])


def test_with_a_fixed_weight_no_half_is_trained(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_training_rows(monkeypatch)
    fixed = {"advanced__lexical_weight": 0.7, "ranker": "none"}
    config, run_dir = prepare(make_run, crossfit="always", epochs=1, retrieval=fixed)
    train_retriever.run(Session(config, run_dir))
    assert len(trained) == 1
    row = json.loads(run_dir.fusion.read_text())["tuned"]
    assert row["lexical_weight"] == 0.7 and "set by" in row["reason"]


def test_of_many_questions_a_fixed_choice_is_ranked(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion_choice, "MAX_QUESTIONS", 10)
    config, run_dir = prepare(make_run, enabled=False)
    retriever = Session(config, run_dir).plain_retriever()
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    gold = {pair.id: {pair.chunk_id or ""} for pair in pairs}
    first = fusion_choice.rank_questions(retriever, pairs, gold)
    again = fusion_choice.rank_questions(retriever, pairs[::-1], gold)
    assert len(first) == 10 and {q.id for q in first} == {q.id for q in again}
