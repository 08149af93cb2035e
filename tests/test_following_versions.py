"""A server takes the promoted version without a restart; requests in flight end on the old one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from improve_run import first_run, write_document
from live_server import Says, live, served_models, small_run

from rag_ft.cli import main
from rag_ft.errors import ConfigError
from rag_ft.run_dir import RunDir
from rag_ft.serving import following
from rag_ft.serving.collections import Collection, ServedModel
from rag_ft.session import Session
from rag_ft.versions import promote, versions_of, write_version

ROOT = Path(__file__).parent.parent
NEW = [{"id": "ferry.md", "title": "Ferry", "text": "The ferry leaves at nine from the new pier."}]


class Closing(Says):
    """Says, and counts how often it was closed."""

    num_exits = 0

    def __exit__(self, *_: object) -> None:
        self.num_exits += 1


@pytest.fixture
def versions(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[ServedModel], list[ServedModel]]:
    """The models of a run and of its second version, which is not promoted yet."""
    first = small_run(tmp_path, tiny_encoder_dir)
    (tmp_path / "second").mkdir()
    other = small_run(tmp_path / "second", tiny_encoder_dir, NEW)
    folder = tmp_path / "run.v2"
    other.run_dir.path.rename(folder)
    run = other.config.run.model_copy(update={"dir": folder})
    second = Session.of(other.config.model_copy(update={"run": run}))
    write_version(second.run_dir, "run", {})
    for session in (first, second):
        session.run_dir.done("index").write_text("{}")
    new = served_models(second, Closing("at nine sharp [1]"))

    def reopen() -> Collection:
        return new[0].collection

    old = [
        dataclasses.replace(m, collection=dataclasses.replace(m.collection, reopen=reopen))
        for m in served_models(first, Closing("one two three four five six [1]", pause=0.3))
    ]

    @contextlib.contextmanager
    def open_models(collections: list[Collection]) -> Iterator[list[ServedModel]]:
        assert [c.session.run_dir.path for c in collections] == [folder]
        with new[0].llm:
            yield new

    monkeypatch.setattr(following, "SECONDS", 0.05)
    monkeypatch.setattr(following, "open_models", open_models)
    return old, new


def ask(url: str) -> str:
    body = {"model": "run", "messages": [{"role": "user", "content": "When does the ferry leave?"}]}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_request_in_flight_ends_on_the_old_version_and_the_next_asks_the_new_one(
    versions: tuple[list[ServedModel], list[ServedModel]], tmp_path: Path
) -> None:
    old, new = versions
    was, now = old[0].llm, new[0].llm
    assert isinstance(was, Closing) and isinstance(now, Closing)
    with live(old) as url:
        said: list[str] = []
        asking = threading.Thread(target=lambda: said.append(ask(url)))
        asking.start()
        until(lambda: was.num_open)
        promote(versions_of(tmp_path / "run")[1])
        until(lambda: ask_new(url))
        assert asking.is_alive() and was.num_exits == 0, "the old answer is still written"
        asking.join(20)
        assert said == ["one two three four five six [1]"]
        until(lambda: was.num_exits)
        # The page of a document is the new version's.
        assert "new pier" in httpx.get(f"{url}/documents/ferry.md").text
        assert httpx.get(f"{url}/health", timeout=30).status_code == 200
        assert now.num_exits == 0
    assert now.num_exits == 1


def test_a_model_that_cannot_be_closed_does_not_end_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Says):
        def __exit__(self, *_: object) -> None:
            raise OSError("the server is gone")

    answerer = SimpleNamespace(streams={})
    state: Any = SimpleNamespace(open_requests=set(), models={}, answerer=answerer)
    anyio.run(following.close_unused, state, [Failing("")])
    assert "cannot be closed: the server is gone" in caplog.text


def ask_new(url: str) -> bool:
    page = httpx.get(f"{url}/documents/ferry.md").text
    return "new pier" in page and ask(url) == "at nine sharp [1]"


def test_a_version_that_cannot_be_opened_leaves_the_old_one(
    versions: tuple[list[ServedModel], list[ServedModel]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(_: object) -> None:
        raise ConfigError("the GPU has no memory free")

    monkeypatch.setattr(following, "open_models", full)
    old, _ = versions
    with live(old) as url:
        promote(versions_of(tmp_path / "run")[1])
        until(lambda: "the old version is served on: the GPU has no memory free" in caplog.text)
        assert ask(url).startswith("one two")


@pytest.mark.slow
def test_no_request_is_dropped_while_a_real_server_switches(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_lm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = first_run(tmp_path, tiny_encoder_dir, tiny_lm_dir, monkeypatch)
    write_document(tmp_path / "train", "Far Light")
    assert main(["improve", str(run)]) == 0
    assert main(["rollback", str(run), "v1"]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "rag_ft", "serve", str(tmp_path / "x.yaml"), "--port", "0"]
    words.append("evaluate.advanced.max_tokens=8")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        statuses: list[int] = []
        stop = threading.Event()

        def keep_asking() -> None:
            body = {"model": "x", "messages": [{"role": "user", "content": "Who keeps it?"}]}
            while not stop.is_set():
                reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
                statuses.append(reply.status_code)

        asking = [threading.Thread(target=keep_asking) for _ in range(2)]
        for thread in asking:
            thread.start()
        assert httpx.get(f"{url}/documents/far-light.md").status_code == 404
        assert main(["rollback", str(run), "v2"]) == 0
        until(lambda: httpx.get(f"{url}/documents/far-light.md").status_code == 200, 90)
        before = len(statuses)
        until(lambda: len(statuses) > before + 4, 60)
        stop.set()
        for thread in asking:
            thread.join(60)
        assert set(statuses) == {200}
        models = httpx.get(f"{url}/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["x", "x-base", "x-closed-book"]
    finally:
        server.terminate()
        server.wait(60)
    assert "a new version is served" in (tmp_path / "log").read_text()
    assert json.loads(RunDir(run).promoted.read_text())["version"] == "x.v2"
