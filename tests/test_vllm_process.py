"""Our vLLM server: what is checked before it starts, how it is called, and how it is restarted."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from test_vllm_watchdog import all_gone

from rag_ft.config import LLMConfig
from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.hardware import release_gpu
from rag_ft.llm import http_client, vllm_process
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest
from rag_ft.llm.vllm_process import VLLMServer, find_vllm_python, is_cpu_build, last_error
from rag_ft.training.distributed import Processes

# Speaks the protocol. Asked about "poison" it dies, as often as its second argument says; the file
# of its first argument counts the deaths.
MORTAL = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
deaths, most = sys.argv[1], int(sys.argv[2])
class Handler(BaseHTTPRequestHandler):
    def reply(self, body):
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
    def do_GET(self):
        self.reply({"data": [{"id": "base"}]})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        if "poison" in prompt and os.path.getsize(deaths) < most:
            open(deaths, "a").write("x")
            print("MemoryError: no room for blocks", flush=True)
            os.kill(os.getpid(), 9)
        time.sleep(0.01)
        choice = {"message": {"content": prompt.upper()}, "finish_reason": "stop"}
        self.reply({"choices": [choice], "usage": {}})
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Handler).serve_forever()
"""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tiny_lm_dir: Path, tmp_path: Path):
    def make(
        on_cpu: bool, adapters: dict[str, Path] | None = None, **settings: object
    ) -> VLLMServer:
        monkeypatch.setattr(vllm_process, "is_cpu_build", lambda _: on_cpu)
        monkeypatch.setattr(vllm_process, "check_gpu_memory", lambda *_: None)
        llm = {
            "backend": "vllm",
            "model": str(tiny_lm_dir),
            "vllm_python": sys.executable,
            **settings,
        }
        config = make_config({"llm": llm}).llm
        return VLLMServer(config, tiny_lm_dir, adapters or {}, tmp_path / "vllm.log")

    return make


def test_the_settings_reach_the_command_line(made, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 12}))
    server = made(
        False,
        {"tuned-1": tmp_path},
        tensor_parallel=2,
        data_parallel=4,
        gpu_memory_share=0.5,
        quantization="fp8",
        max_model_tokens=99_999,
        vllm_args=["--seed", "3"],
    )
    line = " ".join(server.command(1234))
    for part in (
        "--tensor-parallel-size 2",
        "--data-parallel-size 4",
        "--gpu-memory-utilization 0.5",
        "--port 1234",
        "--quantization fp8",
        "--max-lora-rank 16",
        f"--lora-modules tuned-1={tmp_path}",
        "--seed 3",
        "--max-model-len 2048",
        "--generation-config vllm",
    ):
        assert part in line
    assert "--enforce-eager" not in line


def test_the_cpu_build_is_called_so_that_it_does_not_crash(made) -> None:
    line = " ".join(made(True).command(1))
    assert "--no-enable-chunked-prefill --max-num-batched-tokens 4096" in line
    assert "--gpu-memory-utilization" not in line


def test_a_server_that_does_not_come_up_is_told_with_the_end_of_its_log(made) -> None:
    server = made(True)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"exited with code 1: .*vllm.*whole log: "):
        server.start()
    server.stop()
    assert time.monotonic() - began < 30


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch, tiny_lm_dir: Path, tmp_path: Path):
    """mortal(n): a model behind a server of ours that dies n times."""
    monkeypatch.setattr(vllm_process, "is_cpu_build", lambda _: True)
    monkeypatch.setattr(http_client, "BACKOFF_SECONDS", 0.05)
    deaths = tmp_path / "deaths"
    deaths.write_text("")

    def make(times: int):
        command = [sys.executable, "-c", MORTAL, str(deaths), str(times)]
        monkeypatch.setattr(VLLMServer, "command", lambda self, port: [*command, str(port)])
        config = LLMConfig(
            backend="vllm",
            model=str(tiny_lm_dir),
            advanced={"vllm_python": sys.executable, "concurrency": 8},
        )
        return open_language_model(config, 0, log_path=tmp_path / "vllm.log")

    return make


def some_requests(num: int, poisoned: int) -> list[ChatRequest]:
    texts = ["poison" if i == poisoned else f"prompt {i}" for i in range(num)]
    return [
        ChatRequest(f"id{i}", ({"role": "user", "content": text},), 16)
        for i, text in enumerate(texts)
    ]


def test_a_server_that_dies_at_work_is_started_again_and_no_request_is_lost(
    mortal, caplog: pytest.LogCaptureFixture
) -> None:
    with mortal(2) as model:
        replies = {reply.id: reply for reply in model.chat(some_requests(60, poisoned=20))}
        assert len(replies) == 60 and all(r.error is None for r in replies.values())
        assert replies["id20"].text == "POISON" and replies["id59"].text == "PROMPT 59"
        processes = [psutil.Process(model._server._watchdog.pid)]
    assert all_gone(processes)
    told = [record.message for record in caplog.records if "starting it again" in record.message]
    assert told == [
        "the vLLM server was killed by signal 9: MemoryError: no room for blocks; "
        f"starting it again ({n} of 2)"
        for n in (1, 2)
    ]


def test_beside_a_server_on_the_cpu_our_own_models_take_one_core(mortal) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with mortal(0):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_server_that_goes_on_dying_ends_the_run_with_the_reason(mortal) -> None:
    replies = []
    with mortal(9) as model, pytest.raises(RagFtError) as caught:
        for reply in model.chat(some_requests(60, poisoned=20)):
            replies.append(reply)
    assert "killed by signal 9: MemoryError: no room for blocks, after 2 restarts" in str(
        caught.value
    )
    assert "run the same command again" in str(caught.value)
    assert all(reply.error is None for reply in replies)


def test_leaving_while_the_server_starts_again_does_not_wait_for_it(
    made, tmp_path: Path, monkeypatch
) -> None:
    server = made(True)
    monkeypatch.setattr(
        VLLMServer,
        "command",
        lambda self, port: [sys.executable, "-c", "import time; time.sleep(60)"],
    )
    failed: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except RagFtError as error:
            failed.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    time.sleep(1)
    server.stop()
    starting.join(timeout=10)
    assert not starting.is_alive() and failed


def test_the_telling_line_of_a_log_is_found(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text(
        "INFO start\nTraceback (most recent call last):\nValueError: no room\nINFO bye\n"
    )
    assert last_error(log) == "ValueError: no room"


def test_a_python_without_vllm_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="make vllm"):
        is_cpu_build(sys.executable)
    with pytest.raises(ConfigError, match="is no program"):
        find_vllm_python(str(tmp_path / "python"))
    # Whoever ran `make vllm` has one beside the checkout.
    monkeypatch.setattr(vllm_process, "CHECKOUT", tmp_path)
    with pytest.raises(ConfigError, match="make vllm"):
        find_vllm_python(None)


def test_a_missing_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        open_language_model(LLMConfig(backend="vllm", model=str(tmp_path / "nowhere")), seed=0)


def test_memory_that_this_process_no_longer_uses_is_free_for_its_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("released"))
    release_gpu()
    assert not done  # no GPU was used: none is touched
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(vllm_process, "is_cpu_build", lambda _: False)
    monkeypatch.setattr(vllm_process, "check_gpu_memory", lambda *_: done.append("checked"))
    VLLMServer(LLMConfig(advanced={"vllm_python": sys.executable}), Path(), {})
    assert done == ["released", "checked"]
    Processes(1, 2).first(lambda: done.append("worked"))  # one that only waits releases too
    assert done == ["released", "checked", "released"]
