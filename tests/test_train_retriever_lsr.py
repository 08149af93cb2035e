"""LM-supervised training of the retriever: what it learns, and when it is left out."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from retriever_run import LSR_ALONE, MakeRun, plant, prepare, share_first

from rag_ft.retrieval.retriever import served_tuned
from rag_ft.session import Session
from rag_ft.stages import train_retriever
from rag_ft.storage import read_rows


@pytest.fixture
def prepared(make_run: MakeRun) -> MakeRun:
    """prepared(key=value, ...) -> a run that is ready for the stage; keys are train_retriever's."""
    return functools.partial(prepare, make_run)


@pytest.mark.parametrize("sides", [pytest.param("both", marks=pytest.mark.slow), "query"])
def test_lsr_teaches_a_random_encoder_what_the_language_model_prefers(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch, sides: str
) -> None:
    config, run_dir = prepared(each=2, sides=sides, **LSR_ALONE)
    model, wanted = plant(run_dir, monkeypatch)
    counts = train_retriever.run(Session(config, run_dir))
    assert share_first(config, run_dir, wanted, tuned=False) < 0.3
    assert share_first(config, run_dir, wanted, tuned=True) > 0.7
    assert 0.3 <= counts["lsr_entropy"] <= 0.6
    rows = list(read_rows(run_dir.lm_scores))
    assert (
        model.asked == len(rows) == 20 * 10
    )  # two of the twelve train documents serve as dev: 8 questions are few
    assert {row["num_tokens"] for row in rows} == {3}
    assert all(not row["chunk_id"].startswith(("d16", "d23")) for row in rows), (
        "a test chunk was scored"
    )


def test_without_a_gradient_to_the_encoder_lsr_says_so_and_trains_nothing(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.training.retriever import losses

    config, run_dir = prepared(each=2, **LSR_ALONE)
    plant(run_dir, monkeypatch)
    real = losses.lsr_loss

    def cut(similarities: Any, *rest: Any) -> Any:
        return real(similarities.detach().requires_grad_(True), *rest)  # a new leaf, as in the trap

    monkeypatch.setattr(losses, "lsr_loss", cut)
    with pytest.raises(ValueError, match="no gradient"):
        train_retriever.run(Session(config, run_dir))
    assert not served_tuned(run_dir)


def test_lsr_is_left_out_with_a_reason_where_the_model_scores_all_chunks_alike(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(each=2, **{**LSR_ALONE, "epochs": 1})
    model, _ = plant(run_dir, monkeypatch)
    model.liked = {}
    counts = train_retriever.run(Session(config, run_dir))
    assert counts["phases"] == "round-0-contrastive"
    assert counts["shipped"] == 1
    rows = [
        row
        for row in read_rows(run_dir.training_log("train_retriever"))
        if row["stage"] == "round-0-lsr"
    ]
    assert [set(row) for row in rows] == [{"stage", "reason"}], "the report says why"
    assert rows[0]["reason"].removeprefix("left out: ") in str(counts["left_out"])
