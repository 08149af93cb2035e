"""The files of a bundle for people and for other tools: card, container, Kitfile and Modelfile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_ft.evaluation.components import in_order
from rag_ft.evaluation.metric_table import LABELS
from rag_ft.evaluation.systems import TUNED_SYSTEMS
from rag_ft.report.summary import asked_about, cell, grid, main_metrics
from rag_ft.run_dir import RunDir

TEMPLATES = Path(__file__).parent / "files"
COLUMNS = 5  # metrics in the card
MODELS = ("models", "generator", "retriever")


def write_cards(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes them into the folder of a bundle, whose other files are there; `content` is that of
    bundle.json, without `files`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # jinja's own tojson writes "<" as \u003c, which only HTML needs.
    templates.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    names = sorted(path.name for path in TEMPLATES.iterdir())
    if not content["gguf"]:
        names.remove("Modelfile")  # Ollama reads no safetensors
    values = {
        **content,
        **_results(folder),
        "what": _what(content),
        "backend": content["settings"]["llm.backend"],
        "code": [name for name in names if name != "README.md"],
        "parts": [name for name in MODELS if (folder / name).is_dir()],
        "data": sorted(p.name for p in folder.iterdir() if _is_data(p)),
    }
    for name in names:
        text = templates.get_template(name).render(values)
        (folder / name).write_text(text, encoding="utf-8")


def _results(folder: Path) -> dict[str, Any]:
    """What the card shows of metrics.json, where there is one."""
    path = RunDir(folder).metrics
    if not path.exists():
        return {"metrics": None}
    metrics = json.loads(path.read_text(encoding="utf-8"))
    shown = {"base", *(system.name for system in TUNED_SYSTEMS)}
    return {
        "metrics": metrics,
        "asked_about": asked_about(metrics),
        "shown": main_metrics(metrics, COLUMNS),
        "grid": [row for row in grid(metrics) if row["name"] in shown],
        "labels": LABELS,
        "cell": cell,
    }


def _what(content: Mapping[str, Any]) -> str:
    tuned = in_order(content["tuned"])
    text = f"the tuned {' and the tuned '.join(tuned)}" if tuned else "base models"
    return text + (", beside the base models" if tuned and content["base"] else "")


def _is_data(path: Path) -> bool:
    """Whether a file or folder of a bundle is neither a model nor written here."""
    written = (TEMPLATES / path.name).exists()
    return not written and path.name not in (*MODELS, "gguf", "bundle.json")
