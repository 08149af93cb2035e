"""`rag-ft serve`: who may reach it, what it serves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from live_server import DOCUMENTS

from rag_ft.commands.serve import serve
from rag_ft.config import Config, RerankerConfig
from rag_ft.errors import ConfigError
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.serving.collections import described, open_collection, open_models
from rag_ft.serving.listening import bind, read_key
from rag_ft.session import Session
from rag_ft.stages import index, ingest

MakeRun = Callable[..., tuple[Config, RunDir]]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAG_FT_API_KEY", raising=False)
    monkeypatch.delenv("RAG_FT_API_KEY_FILE", raising=False)


@pytest.fixture
def run(make_run: MakeRun) -> tuple[Config, RunDir]:
    return make_run(DOCUMENTS)


def tuned(run_dir: RunDir, verdict: str | None) -> None:
    """The marks of two tuned components, and a report with this verdict."""
    for file in ("retriever/modules.json", "retriever_index/manifest.json"):
        (run_dir.path / file).parent.mkdir(parents=True, exist_ok=True)
        (run_dir.path / file).write_text("{}")
    run_dir.generator.mkdir()
    (run_dir.generator / "adapter_config.json").write_text("{}")
    if verdict:
        run_dir.metrics.write_text(json.dumps({"verdict": {"ship": verdict}}))


@pytest.mark.parametrize(
    ("verdict", "served"),
    [
        ("both", {"retriever", "generator"}),
        ("retriever", {"retriever"}),
        ("generator", {"generator"}),
        ("none", set()),
        ("undecided", set()),
        (None, {"retriever", "generator"}),
    ],
)
def test_what_the_verdict_ships_is_served(
    run: tuple[Config, RunDir], verdict: str | None, served: set[str]
) -> None:
    config, run_dir = run
    run_dir.path.mkdir()
    tuned(run_dir, verdict)
    collection = open_collection(config, base_only=False)
    assert collection.tuned == served
    assert (verdict or "not evaluated") in described(collection)
    assert open_collection(config, base_only=True).tuned == set()


@pytest.mark.parametrize(
    ("verdict", "served"),
    [
        ("all", {"retriever", "generator", "reranker"}),
        ("both", {"retriever", "generator"}),
        ("retriever_reranker", {"retriever", "reranker"}),
    ],
)
def test_a_tuned_reranker_is_served_where_the_verdict_ships_it(
    run: tuple[Config, RunDir], verdict: str, served: set[str]
) -> None:
    config, run_dir = run
    run_dir.path.mkdir()
    tuned(run_dir, verdict)
    run_dir.reranker.mkdir()
    (run_dir.reranker / "config.json").write_text("{}")
    named = config.model_copy(update={"reranker": RerankerConfig(model="auto")})
    assert open_collection(named, base_only=False).tuned == served
    assert open_collection(config, base_only=False).tuned == served - {"reranker"}


def test_two_runs_of_one_name_are_refused(run: tuple[Config, RunDir]) -> None:
    collection = open_collection(run[0], base_only=True)
    with (
        pytest.raises(ConfigError, match="two run folders are named run"),
        open_models([collection, collection]),
    ):
        pass


def test_runs_over_one_base_model_share_it(run: tuple[Config, RunDir], tmp_path: Path) -> None:
    config, _ = run
    other = config.model_copy(
        update={"run": config.run.model_copy(update={"dir": tmp_path / "other"})}
    )
    for each in (config, other):
        ingest.run(Session.of(each))
        index.run(Session.of(each))
    collections = [open_collection(each, base_only=True) for each in (config, other)]
    with open_models(collections) as models:
        assert [model.id for model in models] == [
            *("run", "run-base", "run-closed-book"),
            *("other", "other-base", "other-closed-book"),
        ]
        assert len({id(model.llm) for model in models}) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_the_network_needs_a_key(run: tuple[Config, RunDir], host: str) -> None:
    with pytest.raises(ConfigError, match="RAG_FT_API_KEY"):
        serve([run[0]], host=host, port=0)


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("127.0.0.1", 99_999)


def test_the_key_comes_from_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert read_key() is None
    (tmp_path / "key").write_text("secret\n")
    monkeypatch.setenv("RAG_FT_API_KEY_FILE", str(tmp_path / "key"))
    assert read_key() == "secret"
    monkeypatch.setenv("RAG_FT_API_KEY", "other\n")
    assert read_key() == "other"
    for wrong in (" ", "schlüssel"):
        monkeypatch.setenv("RAG_FT_API_KEY", wrong)
        with pytest.raises(ConfigError, match="printable ASCII"):
            read_key()


@pytest.mark.slow
def test_a_server_says_its_address_answers_and_ends_with_its_last_answer(
    run: tuple[Config, RunDir], tmp_path: Path
) -> None:
    config, _ = run
    for stage in ("ingest", "index"):
        run_stage(stage, config)
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(_plain(config)))
    words = [sys.executable, "-m", "rag_ft", "serve", str(path), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as server:
        assert server.stdout
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        body = {
            "model": "run",
            "stream": True,
            "max_tokens": 200,
            "messages": [{"role": "user", "content": "When does the ferry leave?"}],
        }
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.wait(timeout=30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def _plain(config: Config) -> dict[str, Any]:
    plain = config.model_dump(mode="json")
    plain.pop("name")
    return plain
