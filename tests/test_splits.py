"""Splits of documents: by hash, stable as documents come and go."""

from __future__ import annotations

from typing import Any

import pytest

from rag_ft.config import IngestConfig
from rag_ft.config_loader import make_config
from rag_ft.documents.splits import hash_share, split_of, strictest


def config(**settings: Any) -> IngestConfig:
    return make_config({"ingest": settings}).ingest


def test_splits_have_their_shares_and_depend_on_the_id_alone() -> None:
    ids = [f"d{n}" for n in range(4000)]
    splits = [split_of(i, config(test_share=0.3, dev_share=0.1)) for i in ids]
    assert (
        abs(splits.count("test") / 4000 - 0.3) < 0.03
        and abs(splits.count("dev") / 4000 - 0.1) < 0.02
    )
    assert all(0 <= hash_share(i) < 1 for i in ids)
    assert hash_share("handbook/a.md") == pytest.approx(
        0.19207, abs=1e-5
    )  # fixed for ever: runs must stay comparable


def test_every_document_is_a_test_document_in_exactly_one_fold() -> None:
    for number in (2, 5):
        folds = [config(folds=number, fold=fold, dev_share=0.1) for fold in range(number)]
        for n in range(500):
            assert [split_of(f"d{n}", c) for c in folds].count("test") == 1
        others = [s for n in range(3000) if (s := split_of(f"d{n}", folds[0])) != "test"]
        assert abs(others.count("dev") / len(others) - 0.1) < 0.02


def test_the_strictest_of_different_splits_is_test() -> None:
    assert strictest(["train", "test", "dev"]) == "test" and strictest(["train", "dev"]) == "dev"
