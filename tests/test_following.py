"""A server takes a new index without a restart, and keeps the old one where that fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.serving import following
from rag_ft.serving.collections import ServedModel, models_of, open_collection
from rag_ft.serving.state import ServerState


@pytest.fixture
def served(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_lm_dir: Path
) -> tuple[Config, Callable[[], ServerState]]:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.md").write_text(f"The mill {number} stands at the river.\n")
    config = make_config(
        {
            "run": {"dir": tmp_path / "run", "dtype": "float32"},
            "ingest": {"sources": [folder]},
            "encoder": {"model": str(tiny_encoder_dir)},
            "llm": {"model": str(tiny_lm_dir)},
        }
    )
    for name in ("ingest", "index"):
        run_stage(name, config)

    def state() -> ServerState:
        llm: Any = object()
        models = models_of(open_collection(config, base_only=True), llm, None, llm)
        unused: Any = None
        return ServerState({m.id: m for m in models}, config.serve, unused, unused, unused)

    return config, state


def found(model: ServedModel) -> set[str]:
    return {hit.chunk.document_id for hit in model.pipeline.retrieve("the lighthouse", k=20)}


def follow_for(state: ServerState, seconds: float) -> None:
    async def run() -> None:
        async with following.following(state):
            await anyio.sleep(seconds)

    anyio.run(run)


def update(config: Config, tmp_path: Path) -> None:
    (tmp_path / "docs" / "new.md").write_text("The lighthouse has a red lamp.\n")
    for name in ("ingest", "index"):
        run_stage(name, config, change="update")


def test_a_new_index_is_served_and_the_models_stay(
    served: tuple[Config, Callable[[], ServerState]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, make = served
    state = make()
    before = dict(state.models)
    assert all("new.md" not in found(model) for model in before.values())
    old = next(iter(before.values()))

    async def run() -> None:
        with anyio.move_on_after(30):
            async with following.following(state):
                await anyio.sleep(0.1)
                await anyio.to_thread.run_sync(update, config, tmp_path)
                while state.models == before:
                    await anyio.sleep(0.05)

    monkeypatch.setattr(following, "SECONDS", 0.05)
    anyio.run(run)
    assert list(state.models) == list(before)
    for name, model in state.models.items():
        assert "new.md" in found(model) and model.llm is before[name].llm
        assert model.retriever.encoder is before[name].retriever.encoder
        assert model.collection.documents["new.md"].text.startswith("The lighthouse")
    # Requests in flight end with the chunks that they began with.
    assert "new.md" not in found(old) and found(old)


def test_an_index_that_does_not_fit_leaves_the_old_one(
    served: tuple[Config, Callable[[], ServerState]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, make = served
    state = make()
    before = dict(state.models)
    found(next(iter(before.values())))
    monkeypatch.setattr(following, "SECONDS", 0.02)
    marks = itertools.count()
    monkeypatch.setattr(
        following, "_mark", lambda _: (RunDir(config.run_path).path, next(marks), 0)
    )
    (RunDir(config.run_path).index / "manifest.json").unlink()
    follow_for(state, 0.5)
    assert state.models == before and "the old index is served on" in caplog.text


def test_whatever_prevents_a_new_index_the_server_goes_on(
    served: tuple[Config, Callable[[], ServerState]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, make = served
    state, marks = make(), itertools.count()
    before = dict(state.models)

    def fail(models: Any) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(following, "SECONDS", 0.02)
    monkeypatch.setattr(
        following, "_mark", lambda _: (RunDir(config.run_path).path, next(marks), 0)
    )
    monkeypatch.setattr(following, "reopened", fail)
    follow_for(state, 0.5)
    assert state.models == before and caplog.text.count("too many open files") > 1
