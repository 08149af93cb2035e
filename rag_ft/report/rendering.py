"""The templates' environment (pages escape everything, markdown what could be markup), and tables
for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rag_ft.evaluation.verdict import points
from rag_ft.report import charts

TEMPLATES = Path(__file__).parent


def environment() -> Any:
    from jinja2 import Environment, FileSystemLoader

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: str(name).endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"bar": charts.bar, "difference": charts.difference}
    made.filters |= {
        "points": points,
        "percent": _percent,
        "interval": _interval,
        "plain": _plain,
        "spaced": _spaced,
    }
    return made


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


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(ci95: list[float] | None) -> str:
    return "" if ci95 is None else f"{100 * ci95[0]:.1f} to {100 * ci95[1]:.1f}"


def _plain(text: Any) -> str:
    """Text of a document inside markdown: on one line, no table cell ended, no markup begun."""
    line = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "|<>*_`[]\\" else c for c in line)


def _spaced(name: Any) -> str:
    """A system's name as words."""
    return str(name).replace("_", " ")
