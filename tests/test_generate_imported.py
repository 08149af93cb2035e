"""Generated pairs beside questions that people wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_generate import Foreteller, rejects_of, use
from test_generate import prepared as prepared

from rag_ft import generate
from rag_ft.errors import DataError


def test_a_bad_file_of_questions_costs_no_request(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("no json\n" * 3)
    config, run_dir = prepared(generate__questions=[bad])
    model = use(monkeypatch, Foreteller())
    with pytest.raises(DataError, match=r"only 0 of 3 lines of generate\.questions.*bad line"):
        generate.run(config, run_dir)
    assert model.asked == []
    assert [reject.reason for reject in rejects_of(run_dir)] == ["bad line"] * 3
