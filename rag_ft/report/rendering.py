"""How templates and terminal tables are rendered. Pages escape everything, Markdown what could be
markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rag_ft.evaluation.verdict import points

TEMPLATES = Path(__file__).parent
# Counts of stages whose names do not say what they are.
COUNTED = {
    "num_dropped_test_questions": "test questions left out",
    "alpha": "share of the tuned weights",
    "ranker_base": "feature ranker base",
    "ranker_tuned": "feature ranker tuned",
}
YES_OR_NO = {"shipped", "overfitted", "ranker_base", "ranker_tuned"}


@cache
def environment() -> Any:
    """The jinja2 Environment of the templates in this folder, with their filters and charts."""
    from jinja2 import Environment, FileSystemLoader  # `rag-ft run` prints a table without it

    from rag_ft.report import charts

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: str(name).endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"bar": charts.bar, "difference": charts.difference}
    templates.filters |= {
        "points": points,
        "percent": percent,
        "interval": interval,
        "plain": plain,
        "spaced": spaced,
        "rounded": rounded,
        "facts": facts,
    }
    return templates


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, for a terminal; every column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def style() -> str:
    """The style sheet, to be put into a page."""
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")


def script() -> str:
    """The question browser, to be put into a page."""
    return (TEMPLATES / "page.js").read_text(encoding="utf-8")


def percent(value: float | None) -> str:
    """A share as percent without its sign: 83.4."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(ci95: Sequence[float] | None) -> str:
    """A 95 % interval of shares in percent: "1.0 to 6.4"; empty where there is none."""
    return "" if ci95 is None else f"{100 * ci95[0]:.1f} to {100 * ci95[1]:.1f}"


def plain(text: Any) -> str:
    """Text of a document inside Markdown: on one line, with everything escaped that could end a
    table cell or begin markup."""
    line = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "|<>*_`[]\\" else c for c in line)


def spaced(name: Any) -> str:
    """The name of a system as words."""
    return str(name).replace("_", " ")


def facts(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a stage counted, as (words, value); groups of counts are left out."""
    rows = []
    for key, value in counts.items():
        if isinstance(value, Mapping) or value == "":
            continue
        if key in YES_OR_NO:
            value = "yes" if value else "no"
        elif isinstance(value, int):
            value = f"{value:,}"
        rows.append((spaced(COUNTED.get(key, key.removeprefix("num_"))), str(value)))
    return rows


def rounded(number: int) -> str:
    """A number of questions, rounded up to two digits: 1958 -> "2,000"."""
    step = 10 ** max(1, len(str(number)) - 2)
    return f"{-(-number // step) * step:,}"
