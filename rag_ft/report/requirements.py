"""What a run must reach, such as "recall@5>=0.8,f1_delta>=0", for tests of every change."""

from __future__ import annotations

import difflib
import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError
from rag_ft.evaluation.metric_table import METRICS
from rag_ft.evaluation.systems import SYSTEMS, distinct, shipped_system
from rag_ft.report.summary import grid

FORM = re.compile(r"(?:(\w+)\.)?([\w@]+?)(_delta)?\s*(>=|<=)\s*([-+]?\d*\.?\d+)")
Interval = tuple[float, float]


@dataclass(frozen=True)
class Requirement:
    """`metric` of `system` (None: of what the verdict ships) is at least or at most `limit`;
    `is_delta`: its change from base is. Shares and changes of shares are 0-1."""

    text: str
    system: str | None
    metric: str
    is_delta: bool
    at_least: bool
    limit: float


@dataclass(frozen=True)
class Outcome:
    """What was measured. `decides` is the value, or with `strict` the end of its interval that is
    worse."""

    requirement: Requirement
    system: str
    value: float
    ci95: Interval | None
    decides: float

    @property
    def is_met(self) -> bool:
        """Whether the requirement is met."""
        limit = self.requirement.limit
        return self.decides >= limit if self.requirement.at_least else self.decides <= limit

    def __str__(self) -> str:
        around = f" [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]" if self.ci95 else ""
        met = "met" if self.is_met else "not met"
        return f"{self.requirement.text}: {met}, {self.value:.3f}{around} ({self.system})"


def parse_requirements(text: str) -> list[Requirement]:
    """The requirements in a text, separated by commas.

    Raises:
        ConfigError: one is not of the form [system.]metric[_delta]>=number, or names no metric or
            system.
    """
    found = [_parse(part.strip()) for part in text.split(",") if part.strip()]
    if not found:
        raise ConfigError("--require names nothing: write for example recall@5>=0.8,f1_delta>=0")
    return found


def outcomes(
    requirements: Sequence[Requirement], metrics: Mapping[str, Any], strict: bool = False
) -> list[Outcome]:
    """How metrics.json meets the requirements, in order. `strict`: the worse end of the 95 %
    interval must.

    Raises:
        ConfigError: a metric was not measured, or with `strict` has no interval.
    """
    rows = {row["name"]: row for row in grid(metrics)}
    tuned = {component for component, is_tuned in metrics["tuned"].items() if is_tuned}
    made = []
    for wanted in requirements:
        system = measured_system(
            wanted.system or shipped_system(metrics["verdict"]["ship"]).name, tuned
        )
        row = rows.get(system, {"cells": {}, "changes": {}})
        level, change = row["cells"].get(wanted.metric), row["changes"].get(wanted.metric)
        if not level or level["value"] is None:
            raise ConfigError(f"{wanted.text}: {wanted.metric} of {system} was not measured")
        value, ci95 = level["value"], level["ci95"]
        if wanted.is_delta and system == "base":
            value, ci95 = 0.0, (0.0, 0.0)
        elif wanted.is_delta:
            if not change:
                raise ConfigError(f"{wanted.text}: {system} was not compared with base by it")
            value, ci95 = change["delta"], change["ci95"]
        if strict and not ci95:
            raise ConfigError(
                f"{wanted.text}: --strict needs an interval, and questions about one document have "
                "none"
            )
        decides = ci95[0 if wanted.at_least else 1] if strict else value
        made.append(Outcome(wanted, system, value, tuple(ci95) if ci95 else None, decides))
    return made


def measured_system(name: str, tuned: Collection[str]) -> str:
    """The system that stands for `name` in a run in which only the components `tuned` were tuned:
    with the retriever alone, "tuned" is "tuned_retriever"."""
    [system] = [known for known in SYSTEMS if known.name == name]
    return next(
        known.name
        for known in distinct(SYSTEMS, tuned)
        if known.context == system.context and not (known.tuned ^ system.tuned) & {*tuned}
    )


def write_junit(path: Path, run: str, results: Sequence[Outcome]) -> None:
    """Writes the outcomes as JUnit XML: a test case for each requirement."""
    failed = [result for result in results if not result.is_met]
    suite = ET.Element(
        "testsuite",
        name=f"rag-ft {run}",
        tests=str(len(results)),
        failures=str(len(failed)),
        errors="0",
    )
    for result in results:
        case = ET.SubElement(suite, "testcase", classname=run, name=result.requirement.text)
        if not result.is_met:
            ET.SubElement(case, "failure", message=str(result))
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _parse(text: str) -> Requirement:
    match = FORM.fullmatch(text)
    if not match:
        raise ConfigError(
            f"--require {text!r}: write metric>=number, such as recall@5>=0.8, f1_delta>=0 or "
            "tuned.seconds<=2"
        )
    system, metric, delta, sign, number = match.groups()
    systems = [known.name for known in SYSTEMS]
    for kind, name, known in (("metric", metric, list(METRICS)), ("system", system, systems)):
        if name is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f": did you mean {near[0]}?" if near else f": choose from {', '.join(known)}"
            raise ConfigError(f"--require {text!r}: no {kind} {name}{hint}")
    limit = float(number)
    if METRICS[metric].unit == "share" and abs(limit) > 1:
        raise ConfigError(f"--require {text!r}: {metric} is a share from 0 to 1, not a percentage")
    return Requirement(text, system, metric, bool(delta), sign == ">=", limit)
