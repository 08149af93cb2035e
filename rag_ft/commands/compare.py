"""`rag-ft compare`: several runs side by side, as a page, as JSON and as a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError
from rag_ft.evaluation.metric_table import LABELS
from rag_ft.evaluation.systems import RETRIEVERS, SYSTEMS
from rag_ft.evaluation.verdict import points
from rag_ft.freshness import check_files
from rag_ft.report.rendering import aligned, environment, style
from rag_ft.report.run_comparison import COMPARED_METRICS, comparison
from rag_ft.report.summary import cell
from rag_ft.run_dir import RunDir
from rag_ft.stage_table import NAMES
from rag_ft.storage import write_json, write_text
from rag_ft.terminal import say


def compare(runs: Sequence[Path], page: Path) -> str:
    """Compares run folders, writes the page (and its data beside it as .json), and returns the
    table for a terminal.

    Raises:
        ConfigError: the page would have the name of its data.
        DataError: as `comparison`.
    """
    if page.suffix.lower() == ".json":
        raise ConfigError(
            f"--to names the page, and its data is written beside it as .json: {page} would be "
            "overwritten; name a file that ends in .html"
        )
    result = comparison([RunDir(path) for path in runs])
    write_comparison(result, page)
    return comparison_table(result)


def comparison_table(result: dict[str, Any]) -> str:
    """The result of `comparison` for a terminal, in percent; a star marks a change that is
    significant after Holm's correction."""
    labels = [LABELS[metric] for metric in COMPARED_METRICS]
    if result["kind"] == "paired":
        changes = {(row["b"], row["system"], row["metric"]): row for row in result["differences"]}
        # A row for each run and system, with the change from the first run.
        rows = [["run", "system", *labels]]
        for run in result["runs"]:
            for system, levels in result["levels"][run].items():
                cells = [
                    cell(levels.get(m), changes.get((run, system, m)), mark=True)
                    for m in COMPARED_METRICS
                ]
                rows.append([run, system, *cells])
        asked = f"{result['questions']} shared questions about {result['documents']} documents"
        head = f"{asked}; change from the first run"
        return "\n".join([head, *aligned(rows), "", *result["sentences"]])

    # Seeds or folds: a row for each run, and the mean gain with its standard deviation below.
    rows = [["run", "questions", *(f"{label} base -> tuned" for label in labels)]]
    for part in result["parts"]:
        row = [part["run"], str(part["questions"])]
        for metric in COMPARED_METRICS:
            if metric in part:
                base, tuned = (100 * part[metric][state] for state in ("base", "tuned"))
                row.append(f"{base:5.1f} -> {tuned:5.1f}")
            else:
                row.append("-")
        rows.append(row)
    gains = ["gain", ""]
    for metric in COMPARED_METRICS:
        found = result["spread"].get(metric)
        gains.append(f"{points(found['mean'])} (SD {100 * found['sd']:.1f})" if found else "-")
    rows.append(gains)
    asked = f"{result['questions']} questions about {result['documents']} documents"
    head = f"{len(result['parts'])} {result['kind']}, {asked}"
    verdict = result["verdict"]
    return "\n".join([head, *aligned(rows), "", verdict["sentence"], *verdict["notes"]])


def write_comparison(result: dict[str, Any], path: Path) -> None:
    """Writes one self-contained page, `path` (.html), and its data as the same name with .json."""
    columns = {metric: LABELS[metric] for metric in COMPARED_METRICS}
    cells = [system.name for system in SYSTEMS if system.context != "withheld"]
    page = {"result": result, "metrics": columns, "rows": dict.fromkeys([*cells, *RETRIEVERS])}
    html = environment().get_template("compare.html").render(page, style=style())
    write_text(path, html)
    write_json(path.with_suffix(".json"), result, indent=1)


def compare_command(args: argparse.Namespace) -> None:
    """`rag-ft compare`."""
    for folder in args.runs:
        check_files(RunDir(folder), finished=NAMES)
    say(compare(args.runs, args.to))
    say(f"\nwritten: {args.to}")
