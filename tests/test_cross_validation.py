"""Cross-validation by document."""

from __future__ import annotations

import functools

import pytest
from generator_run import Make, prepare

from rag_ft.errors import ConfigError
from rag_ft.session import Session
from rag_ft.stages import train_generator
from rag_ft.storage import read_rows


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


@pytest.mark.slow
def test_folds_hold_out_documents(prepared: Make) -> None:
    config, run_dir = prepared(settings={"max_steps": 1, "folds": 2})
    counts = train_generator.run(Session(config, run_dir))
    rows = list(read_rows(run_dir.folds))
    assert [row["fold"] for row in rows] == [0, 1] and set(rows[0]) == {
        "fold",
        "num_train",
        "num_dev",
        "dev_loss",
        "f1_base",
        "f1_tuned",
        "delta",
    }
    assert all(
        0 < row["num_train"] < counts["num_examples"] and row["dev_loss"] > 0 for row in rows
    )
    assert sum(row["num_dev"] for row in rows) == counts["num_train_pairs"]
    assert sum(counts["num_examples"] - row["num_train"] for row in rows) == counts["num_examples"]
    mean = sum(row["dev_loss"] for row in rows) / 2
    assert counts["folds"] == 2 and counts["folds_dev_loss"] == pytest.approx(mean, abs=1e-4)


@pytest.mark.slow
def test_folds_are_resumed_and_leave_the_generator_as_it_would_be_without_them(
    prepared: Make,
) -> None:
    train_generator.run(Session(*prepared(settings={"max_steps": 2})))
    config, run_dir = prepared(settings={"max_steps": 2, "folds": 2})
    weights = (run_dir.generator / "adapter_model.safetensors").read_bytes()
    train_generator.run(Session(config, run_dir))
    assert (run_dir.generator / "adapter_model.safetensors").read_bytes() == weights
    rows = list(read_rows(run_dir.folds))
    run_dir.folds.write_text(
        run_dir.folds.read_text().splitlines(keepends=True)[0]
    )  # as a kill in fold 1 leaves it
    train_generator.run(Session(config, run_dir))
    assert list(read_rows(run_dir.folds)) == rows


def test_near_duplicates_share_a_fold_and_too_few_documents_are_refused() -> None:
    from rag_ft.training.generator.cross_validation import folds_of

    texts = {f"d{n}": " ".join(f"word{n}-{m}" for m in range(40)) for n in range(9)}
    texts["copy"] = texts["d3"] + " end"
    folds = folds_of(texts, set(texts), 3, 0.8)
    assert folds["copy"] == folds["d3"] and {list(folds.values()).count(n) for n in range(3)} <= {
        3,
        4,
    }
    folds = folds_of(texts, set(texts) - {"copy"}, 3, 0.8)
    assert folds["copy"] == folds["d3"], "a copy nobody asked about is held out too"
    assert set(folds_of(texts, {"d0", "copy"}, 2, 0.8)) == {"d0", "d3", "copy"}, (
        "the others are always trained on"
    )
    with pytest.raises(ConfigError, match="folds=10: only 9 train documents"):
        folds_of(texts, set(texts), 10, 0.8)
