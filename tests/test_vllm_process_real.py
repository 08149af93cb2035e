"""A real vLLM server (CPU build in .venv-vllm) of our own, against the in-process model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rag_ft.config import LLMConfig
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.llm import vllm_process
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.llm.reply_cache import cached_chat

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not Path(".venv-vllm/bin/python").exists(), reason="no .venv-vllm: run make vllm"
    ),
]
SCHEMA = {
    "type": "object",
    "properties": {
        name: {"type": "string", "maxLength": 60} for name in ("evidence", "question", "answer")
    },
    "required": ["evidence", "question", "answer"],
    "additionalProperties": False,
}
NAMES = ["Harbour", "Mill", "Canal", "Tower", "Garden", "Bridge", "Museum", "Depot"]


def config_of(folder: Path, backend: str) -> LLMConfig:
    """float32: in bfloat16 two likely tokens can be closer than rounding, and replies differ."""
    return LLMConfig(backend=backend, model=str(folder), max_model_tokens=1024, dtype="float32")


def question(i: int) -> tuple[dict[str, str], ...]:
    name = NAMES[i % len(NAMES)]
    facts = (
        f"The {name} Station opened in {1900 + i}. It has {i + 3} platforms. "
        "Its warden is Mara Voss."
    )
    content = (
        "Answer the question from the context, as briefly as possible. "
        "If the context does not say, reply: I don't know.\n\n"
        f"Context:\n[1] {facts}\n\nQuestion: When did the {name} Station open?"
    )
    return ({"role": "user", "content": content},)


def writing(i: int) -> tuple[dict[str, str], ...]:
    name = NAMES[i % len(NAMES)]
    passage = f"The {name} Station opened in {1900 + i}. It has {i + 3} platforms."
    content = (
        f"Write a question about the passage as JSON.\n\nPassage:\n{passage}\n\n"
        f"Sentence: The {name} Station opened in {1900 + i}.\nKind: factoid"
    )
    return ({"role": "user", "content": content},)


def some_requests(n: int, **settings: Any) -> list[ChatRequest]:
    return [ChatRequest(f"q{i}", question(i), 24, **settings) for i in range(n)]


@pytest.fixture(scope="module")
def lm_dir(tiny_lm_dir: Path) -> Path:
    """The demo LM where it has been trained, else the tiny random one."""
    demo = Path("data/models/demo-lm")
    return demo if (demo / "model.safetensors").exists() else tiny_lm_dir


@pytest.fixture(scope="module")
def here(lm_dir: Path) -> Iterator[Any]:
    with open_language_model(config_of(lm_dir, "transformers"), seed=0) as model:
        yield model


@pytest.fixture(scope="module")
def served(lm_dir: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(open_language_model(config_of(lm_dir, "vllm"), seed=0))


@pytest.fixture(scope="module")
def adapter_dir(lm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    lora = LoraConfig(
        r=12,
        lora_alpha=4,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(lm_dir), lora).save_pretrained(folder)
    return folder


def processes_of(model: Any) -> list[psutil.Process]:
    guard = psutil.Process(model._server._watchdog.pid)
    return [guard, *guard.children(recursive=True)]


def test_greedy_replies_equal_the_in_process_models(served: Any, here: Any, lm_dir: Path) -> None:
    if lm_dir.name != "demo-lm":
        pytest.skip("a random model's greedy replies hang on rounding")
    requests = some_requests(64) + [ChatRequest(f"w{i}", writing(i), 90) for i in range(32)]
    ours = {r.id: r.text for r in here.chat(requests)}
    theirs = {r.id: r.text for r in served.chat(requests)}
    same = sum(ours[k] == theirs[k] for k in ours) / len(ours)
    assert same >= 0.95, {k: (ours[k], theirs[k]) for k in ours if ours[k] != theirs[k]}


def test_a_schema_gives_the_same_compact_json_as_in_process(served: Any, here: Any) -> None:
    requests = [ChatRequest(f"w{i}", writing(i), 200, schema=SCHEMA) for i in range(12)]
    for model in (served, here):
        for reply in model.chat(requests):
            assert reply.finish_reason == "stop", reply
            assert list(json.loads(reply.text)) == ["evidence", "question", "answer"]
            assert reply.text.startswith('{"evidence": "')


def test_sampled_replies_in_a_crowd_do_not_kill_the_engine(served: Any) -> None:
    replies = list(served.chat(some_requests(64, temperature=0.8)))
    assert len(replies) == 64 and all(r.error is None for r in replies)


def test_a_prompt_too_long_is_an_error_with_the_servers_words(served: Any) -> None:
    long = ChatRequest("long", ({"role": "user", "content": "station " * 3000},), 8)
    replies = {r.id: r for r in served.chat([long, *some_requests(3)])}
    assert "context length" in replies["long"].error
    assert all(replies[f"q{i}"].error is None for i in range(3))


def test_answer_log_probabilities_equal_the_in_process_models(served: Any, here: Any) -> None:
    jobs = [(question(i), text) for i in range(10) for text in (str(1900 + i), "I don't know.")]
    for ours, theirs in zip(here.answer_logprobs(jobs), served.answer_logprobs(jobs), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_prompts_are_counted_alike(served: Any, here: Any) -> None:
    [reply] = served.chat(some_requests(1))
    assert served.count_tokens(question(0)) == here.count_tokens(question(0)) == reply.prompt_tokens


def test_a_running_server_is_used_by_its_address_and_needs_no_model_folder_here(
    served: Any,
) -> None:
    config = LLMConfig(
        backend="openai", model="base", base_url=served._client.base_url, dtype="float32"
    )
    jobs = [(question(0), "1900"), (question(1), "I don't know.")]
    with open_language_model(config, seed=0) as model:
        assert model.count_tokens(question(0)) == served.count_tokens(question(0))
        theirs = {r.id: r.text for r in model.chat(some_requests(8))}
        scores = model.answer_logprobs(jobs)
    same = sum(theirs[r.id] == r.text for r in served.chat(some_requests(8)))
    assert same == 8
    for a, b in zip(scores, served.answer_logprobs(jobs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)


def test_stopping_leaves_no_process(served: Any) -> None:
    processes = processes_of(served)
    assert len(processes) >= 3
    served.__exit__()
    assert not psutil.wait_procs(processes, timeout=5)[1]


def test_adapters_are_served_beside_the_base_model(lm_dir: Path, adapter_dir: Path) -> None:
    base = some_requests(8)
    tuned = [ChatRequest(f"t{r.id}", r.messages, r.max_tokens, adapter="tuned") for r in base]
    with open_language_model(config_of(lm_dir, "transformers"), 0, {"tuned": adapter_dir}) as model:
        ours = {r.id: r.text for r in model.chat(base + tuned)}
    with open_language_model(config_of(lm_dir, "vllm"), 0, {"tuned": adapter_dir}) as model:
        theirs = {r.id: r.text for r in model.chat(base + tuned)}
        if lm_dir.name == "demo-lm":
            assert sum(ours[k] == theirs[k] for k in ours) >= 0.75 * len(ours), (ours, theirs)
        with pytest.raises(ConfigError, match="cannot score answers"):
            model.answer_logprobs([(question(0), "1900")])


def kill_server(model: Any) -> None:
    for process in processes_of(model)[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)


def test_a_server_killed_midway_is_started_again_and_only_what_was_in_flight_is_asked_again(
    lm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_process, "MAX_RESTARTS", 1)
    requests = [ChatRequest(f"w{i}", writing(i), 64) for i in range(200)]
    with open_language_model(config_of(lm_dir, "vllm"), 0, log_path=tmp_path / "vllm.log") as model:
        expected = {r.id: r.text for r in model.chat(requests)}
        got: list[Reply] = []
        for reply in cached_chat(model, requests, tmp_path / "replies.jsonl", "ask"):
            got.append(reply)
            if len(got) == 50:
                kill_server(model)
        assert all(reply.error is None for reply in got)
        assert sorted(reply.id for reply in got) == sorted(expected)
        assert sum(expected[r.id] == r.text for r in got) >= 0.95 * len(got)
        kept = [
            json.loads(line)["id"] for line in (tmp_path / "replies.jsonl").read_text().splitlines()
        ]
        assert len(kept) == len(set(kept)) == 200
        kill_server(model)  # once too often
        model._server._watchdog.wait(60)  # on a busy machine it notices late
        with pytest.raises(RagFtError, match=r"was killed by signal 9: .* after 1 restarts"):
            list(model.chat(some_requests(3)))
