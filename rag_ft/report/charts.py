"""Bars, intervals and curves as inline SVG. Coordinates are percentages, so that they fit any width
unscaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

POINTS_PER_CURVE = 200
NOT_DRAWN = ("step", "epoch", "learning_rate", "grad_norm")
LOSSES = {"loss": "train", "eval_loss": "dev", "dev_loss": "dev"}  # name in a log -> its line


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

    # Only a significant difference gets the colour of a gain or a loss.
    css = "open" if p >= 0.05 else "gain" if delta > 0 else "loss"
    parts = ['<line class="zero" x1="50%" x2="50%" y1="0" y2="20"/>']
    if ci95:
        parts.append(f'<g class="{css}">{_whisker(place(ci95[0]), place(ci95[1]))}</g>')
    parts.append(f'<circle class="{css}" cx="{_percent(place(delta))}" cy="10" r="4.5"/>')
    return _svg(parts, "difference", f"{100 * delta:+.1f}")


def curve(
    series: Mapping[str, Sequence[tuple[float, float]]], zero_based: bool = False
) -> dict[str, Any]:
    """{"svg", "low", "high", "first", "last", "names"}: lines over one pair of axes. The page shows
    the ends of the axes (`first` and `last` of x, `low` and `high` of y).

    Args:
        series: name -> (x, y) points in order of x.
        zero_based: the y axis begins at 0 and ends at 1 or above.
    """
    # The ranges of both axes; a constant series still needs a height and a width.
    points = [point for line in series.values() for point in line]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = (0.0, max(1.0, *ys)) if zero_based else (min(ys), max(ys))
    spread = (high - low) or 1.0
    width = (max(xs) - min(xs)) or 1.0
    lines = []
    for number, line in enumerate(series.values()):
        # A long line is thinned: each point is the mean of its neighbours.
        size = -(-len(line) // POINTS_PER_CURVE)
        places = []
        for start in range(0, len(line), size):
            group = line[start : start + size]
            mean_x = sum(x for x, _ in group) / len(group)
            mean_y = sum(y for _, y in group) / len(group)
            left, top = 100 * (mean_x - min(xs)) / width, 100 - 100 * (mean_y - low) / spread
            places.append((f"{left:.2f}", f"{top:.2f}"))
        points_drawn = " ".join(f"{x},{y}" for x, y in places)
        lines.append(f'<polyline class="line s{number}" points="{points_drawn}"/>')
        if len(line) == 1 or zero_based:
            # The drawing is stretched. A line of no length with round ends stays a round dot.
            lines += [
                f'<line class="dot s{number}" x1="{x}" y1="{y}" x2="{x}" y2="{y}"/>'
                for x, y in places
            ]
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
    # (phase, title of the chart) -> name of a line -> its points
    series: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if "step" not in row:
            continue
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name not in NOT_DRAWN:
                title = "loss" if name in LOSSES else name
                lines = series.setdefault((str(row.get("stage", "")), title), {})
                point = (float(row["step"]), float(value))
                lines.setdefault(LOSSES.get(name, name), []).append(point)
    charts = []
    for (phase, title), lines in series.items():
        # One point makes no line.
        drawn = {name: sorted(line) for name, line in lines.items() if len(line) > 1}
        if drawn:
            charts.append({"title": f"{phase}: {title}" if phase else title, **curve(drawn)})
    return charts


def _whisker(low: float, high: float) -> str:
    left, right = _percent(low), _percent(high)
    ends = "".join(f'<line x1="{x}" x2="{x}" y1="6" y2="14"/>' for x in (left, right))
    return f'<g class="whisker"><line x1="{left}" x2="{right}" y1="10" y2="10"/>{ends}</g>'


def _percent(share: float) -> str:
    return f"{100 * max(0.0, min(1.0, share)):.2f}%"


def _svg(parts: Sequence[str], css: str, label: str) -> Markup:
    return Markup(
        f'<svg class="{css}" width="100%" height="20" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )
