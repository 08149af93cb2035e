"""Done-files that are damaged in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir


def test_a_done_file_that_lost_a_line_or_a_value_is_damaged(
    make_run: Callable[..., tuple[Config, RunDir]],
) -> None:
    documents: list[dict[str, Any]] = [{"id": f"d{n}", "text": f"Box {n}."} for n in range(20)]
    config, run_dir = make_run(documents)
    run_stage("ingest", config)
    done = run_dir.done("ingest")
    found = json.loads(done.read_text())
    file = next(iter(found["outputs"]))
    held = {part: {**found, part: [1]} for part in ("config", "inputs", "sources", "outputs")}
    gone = {part: {k: v for k, v in found.items() if k != part} for part in ("result", "counts")}
    cut = {"mark": {**found, "outputs": {**found["outputs"], file: [1, 2]}}}
    for changed in (held | gone | cut).values():
        done.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"ingest\.done\.json is damaged"):
            run_stage("index", config)
