"""summary: the result in a few lines for a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_run import metrics_of

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.report.summary import summary_table
from rag_ft.run_dir import RunDir


def test_a_report_where_every_document_is_known_says_nothing_of_unknown_ones(
    reported: tuple[Config, RunDir],
) -> None:
    assert metrics_of(reported[1])["headline"]["unplaced"] == 0
    for told in (reported[1].report_md.read_text(), summary_table(reported[1])):
        assert (
            "about 12 documents that were never trained on" in told
            and "no known document" not in told
        )


def test_the_terminal_table_shows_systems_changes_and_verdict(
    reported: tuple[Config, RunDir],
) -> None:
    lines = summary_table(reported[1]).splitlines()
    assert lines[1].split() == ["EM", "F1", "abstention", "F1", "recall@5"]
    tuned = next(line for line in lines if line.startswith("tuned "))
    assert len(re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d [+-]\d+\.\d\]", tuned)) == 4
    assert metrics_of(reported[1])["verdict"]["sentence"] in lines


def test_a_summary_before_any_report_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the report stage first"):
        summary_table(RunDir(tmp_path))


def test_the_summary_is_printed_without_numpy_or_templates() -> None:
    code = (
        "import sys, rag_ft.report.summary; "
        "print(*{'numpy', 'scipy', 'torch', 'jinja2', 'pydantic'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
