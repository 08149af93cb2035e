"""The hardware that a benchmark ran on, and the folder of its result."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

# Where results go; tests that only try whether a benchmark runs name another folder.
RESULTS = Path(os.environ.get("RAG_FT_RESULTS", Path(__file__).parent / "results"))


def processor() -> str:
    """The processor's name as the system tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def write_result(name: str, hardware: str, found: dict[str, Any]) -> Path:
    """Writes results/<name>-<hardware>-<date>.json, date and hardware first. Prints and returns its
    path."""
    today = datetime.date.today().isoformat()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}-{'-'.join(hardware.lower().split())[:40]}-{today}.json"
    text = json.dumps({"date": today, "hardware": hardware, **found}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    print(path)
    return path
