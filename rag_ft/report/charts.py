"""Bars, intervals and curves as inline SVG. Coordinates are percentages, so that they fit any width
unscaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

POINTS_PER_CURVE = 200
NOT_DRAWN = ("step", "epoch", "learning_rate", "grad_norm")


def bar(value: float | None, ci95: Sequence[float] | None, css: str, top: float = 1.0) -> Markup:
    """A horizontal bar from 0 to `top`, with its interval as a whisker."""
    if value is None:
        return Markup("")
    parts = [
        f'<rect class="{css}" x="0" y="3" width="{_percent(value / top)}" height="14" rx="2"/>'
    ]
    if ci95:
        parts.append(_whisker(ci95[0] / top, ci95[1] / top))
    return _svg(parts, "bar", f"{100 * value:.1f}")


def difference(delta: float, ci95: Sequence[float] | None, reach: float, p: float) -> Markup:
    """A difference as a dot with its interval on an axis from -reach to +reach, zero in the middle;
    coloured where `p` (corrected) is below 5 %."""

    def place(x: float) -> float:
        return 0.5 + max(-1.0, min(1.0, x / reach)) / 2

    css = "open" if p >= 0.05 else "gain" if delta > 0 else "loss"
    parts = ['<line class="zero" x1="50%" x2="50%" y1="0" y2="20"/>']
    if ci95:
        parts.append(f'<g class="{css}">{_whisker(place(ci95[0]), place(ci95[1]))}</g>')
    parts.append(f'<circle class="{css}" cx="{_percent(place(delta))}" cy="10" r="4.5"/>')
    return _svg(parts, "difference", f"{100 * delta:+.1f}")


def curve(
    series: Mapping[str, Sequence[tuple[float, float]]], zero_based: bool = False
) -> dict[str, Any]:
    """{"svg", "low", "high", "first", "last", "names"}: lines over one pair of axes, whose labels
    stand in the page.

    Args:
        series: name -> (x, y) points in order of x.
        zero_based: the y axis begins at 0 and ends at 1 or above.
    """
    points = [point for line in series.values() for point in line]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = (0.0, max(1.0, *ys)) if zero_based else (min(ys), max(ys))
    spread = (high - low) or 1.0
    width = (max(xs) - min(xs)) or 1.0
    lines = []
    for number, line in enumerate(series.values()):
        shown = _thinned(line)
        places = " ".join(
            f"{100 * (x - min(xs)) / width:.2f},{100 - 100 * (y - low) / spread:.2f}"
            for x, y in shown
        )
        lines.append(f'<polyline class="line s{number}" points="{places}"/>')
        if len(line) == 1 or zero_based:
            lines += [_dot(place, number) for place in places.split()]
    svg = (
        '<svg class="curve" viewBox="0 -3 100 106" preserveAspectRatio="none" aria-hidden="true">'
        + "".join(lines)
        + "</svg>"
    )
    return {
        "svg": Markup(svg),
        "low": low,
        "high": high,
        "first": min(xs),
        "last": max(xs),
        "names": list(series),
    }


def training_curves(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One chart per phase and quantity of a training log: {"title", **curve}. Train and dev loss
    share a chart."""
    series: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        phase = str(row.get("stage", ""))
        for name, value in row.items():
            drawn = isinstance(value, int | float) and not isinstance(value, bool) and "step" in row
            if drawn and name not in NOT_DRAWN:
                title = "loss" if name in ("loss", "eval_loss", "dev_loss") else name
                lines = series.setdefault((phase, title), {})
                lines.setdefault(
                    {"loss": "train", "eval_loss": "dev", "dev_loss": "dev"}.get(name, name), []
                ).append((float(row["step"]), float(value)))
    charts = []
    for (phase, title), lines in series.items():
        drawn_lines = {name: sorted(line) for name, line in lines.items() if len(line) > 1}
        if drawn_lines:
            charts.append({"title": f"{phase}: {title}" if phase else title, **curve(drawn_lines)})
    return charts


def _dot(place: str, number: int) -> str:
    """A dot that stays round though the drawing is stretched: a line of no length with round
    ends."""
    x, y = place.split(",")
    return f'<line class="dot s{number}" x1="{x}" y1="{y}" x2="{x}" y2="{y}"/>'


def _thinned(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most POINTS_PER_CURVE points, each the mean of its neighbours."""
    size = -(-len(line) // POINTS_PER_CURVE)
    groups = [line[i : i + size] for i in range(0, len(line), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _whisker(low: float, high: float) -> str:
    left, right = _percent(low), _percent(high)
    ends = "".join(f'<line x1="{x}" x2="{x}" y1="6" y2="14"/>' for x in (left, right))
    return f'<g class="whisker"><line x1="{left}" x2="{right}" y1="10" y2="10"/>{ends}</g>'


def _percent(share: float) -> str:
    return f"{100 * max(0.0, min(1.0, share)):.2f}%"


def _svg(parts: Sequence[str], css: str, label: str) -> Markup:
    return Markup(
        f'<svg class="{css}" width="100%" height="20" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )
