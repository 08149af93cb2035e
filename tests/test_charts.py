"""charts: curves as SVG."""

from __future__ import annotations

from rag_ft.report.charts import curve, training_curves


def test_training_logs_become_curves_by_phase() -> None:
    rows = [{"stage": "one", "step": n, "loss": 1 / n} for n in range(1, 900)] + [
        {"step": 5, "loss": 1.0}
    ]
    charts = training_curves([*rows, {"stage": "gate", "reason": "better", "alpha": 1.0}])
    assert [chart["title"] for chart in charts] == ["one: loss"]
    assert charts[0]["svg"].count(",") <= 200


def test_a_curve_spans_its_axes() -> None:
    drawn = curve({"base": [(0.0, 1.0), (10.0, 3.0)]})
    assert (drawn["low"], drawn["high"], drawn["first"], drawn["last"]) == (1.0, 3.0, 0.0, 10.0)
    assert "0.00,100.00 100.00,0.00" in drawn["svg"]
