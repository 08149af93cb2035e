"""A small run that is evaluated, whose language model reads facts and answers by rule, and the next
versions of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from foreteller import THINGS, Foreteller, use

from rag_ft.cli import main
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.storage import read_jsonl

Made = tuple[Path, Path, Foreteller]
HOMES = {
    "train": ["Grey Heron", "Old Tower", "East Mill"],
    "dev": ["Salt House"],
    "test": ["Long Bridge", "North Quay", "Wide Gate"],
}


def facts(name: str, **changed: str) -> str:
    told = THINGS | changed
    text = " ".join(f"The {thing} of the {name} is {value}." for thing, value in told.items())
    return f"# Notes on the {name}\n\n{text}\n"


def write_document(folder: Path, name: str, **changed: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.lower().replace(' ', '-')}.md"
    path.write_text(facts(name, **changed), encoding="utf-8")
    return path


def first_run(
    place: Path, encoder: Path, llm: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[Path, Foreteller]:
    """(run folder, language model) of a run with three train, one dev and three test documents."""
    for split, names in HOMES.items():
        for name in names:
            write_document(place / split, name)
    values: dict[str, Any] = {
        "run": {"dir": str(place / "runs" / "x"), "dtype": "float32"},
        "ingest": {
            "sources": [{"path": str(place / split), "split": split} for split in HOMES],
            "chunk_tokens": 500,
            "advanced": {"near_duplicate_similarity": 0.95},
        },
        "encoder": {"model": str(encoder)},
        "llm": {"model": str(llm), "prompts": "compact"},
        "generate": {"advanced": {"duplicate_similarity": 1.0}},
        "train_retriever": {"enabled": False},
        "train_generator": {"enabled": False},
        "evaluate": {"advanced": {"num_resamples": 200}},
        **settings,
    }
    (place / "x.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    model = use(monkeypatch, Foreteller())
    assert main(["run", str(place / "x.yaml")]) == 0
    return place / "runs" / "x", model


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path, tiny_lm_dir: Path
) -> Path:
    """The folder where every test finds the first run as it was finished, and a copy beside it."""
    place = tmp_path_factory.mktemp("improved") / "place"
    place.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        run, _ = first_run(place, tiny_encoder_dir, tiny_lm_dir, monkeypatch)
    assert len(pairs_of(run, "test")) >= 6 and len(pairs_of(run, "train")) >= 6
    shutil.copytree(place, place.with_name("kept"))
    return place


@pytest.fixture
def made(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """(folder of its documents, run folder, language model)."""
    shutil.rmtree(finished)
    shutil.copytree(finished.with_name("kept"), finished)
    return finished, finished / "runs" / "x", use(monkeypatch, Foreteller())


def about(run: Path, number: int) -> dict[str, Any]:
    """version.json of a version."""
    found = json.loads(RunDir(run.with_name(f"{run.name}.v{number}")).version.read_text())
    assert found.keys() == {"parent", "changes", "decision"}
    return dict(found)


def pairs_of(run: Path, split: str, document: str = "") -> dict[str, QAPair]:
    """{id: pair} of a split, of one document where it is named."""
    pairs = read_jsonl(RunDir(run).qa, QAPair)
    return {p.id: p for p in pairs if p.split == split and document in ("", p.document_id)}
