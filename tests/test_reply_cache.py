"""The replies file: asked once, resumed byte for byte, errors never kept.

The models are real and tiny, or count what they are asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

from rag_ft.config import LLMConfig
from rag_ft.errors import DataError
from rag_ft.llm import reply_cache
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.llm.reply_cache import ReplyStore, cached_chat


class Counting:
    """Replies with the prompt in capitals, counts requests, fails for prompts with 'bad'."""

    def __init__(self, window: int = 1, name: str = "counting") -> None:
        self.name, self.window, self.asked = name, window, []

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        for request in requests:
            text = request.messages[0]["content"]
            self.asked.append(text)
            if "bad" in text:
                yield Reply(request.id, "", "error", 0, 0, 0.0, "refused")
            else:
                yield Reply(request.id, text.upper(), "stop", 1, 1, 0.0)


def ask(text: str, name: str | None = None, **settings: object) -> ChatRequest:
    return ChatRequest(name or text, ({"role": "user", "content": text},), 8, **settings)  # type: ignore[arg-type]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "damage",
    [
        "{not json}",
        "[]",
        '{"text": "x"}',
        '{"key": "k", "text": null, "finish_reason": "stop", "seconds": 0}',
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "replies.jsonl"
    list(cached_chat(Counting(), [ask("a"), ask("b")], path, "ask"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, lines[1]]) + "\n")
    with pytest.raises(
        DataError, match=r"replies\.jsonl line 2 is not a valid cached reply: delete the line"
    ):
        list(cached_chat(Counting(), [ask("a")], path, "ask"))


def test_a_stored_reply_without_numbers_of_tokens_or_with_its_thinking_is_read(
    tmp_path: Path,
) -> None:
    path, model = tmp_path / "replies.jsonl", Counting()
    list(cached_chat(model, [ask("a")], path, "ask"))
    row = json.loads(path.read_text()) | {"prompt_tokens": None, "completion_tokens": None}
    path.write_text(json.dumps(row | {"text": "<think>?</think>\nA \ud83d"}) + "\n")
    [reply] = cached_chat(model, [ask("a")], path, "ask")
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("A \ufffd", 0, 0)
    assert len(model.asked) == 1


@pytest.mark.parametrize("window", [1, 3])
def test_nothing_is_asked_twice(tmp_path: Path, window: int) -> None:
    model, path = Counting(window), tmp_path / "replies.jsonl"
    first = {
        r.id: r.text for r in cached_chat(model, [ask(f"q{i}") for i in range(7)], path, "ask")
    }
    again = {
        r.id: r.text for r in cached_chat(model, [ask(f"q{i}") for i in range(7)], path, "ask")
    }
    assert first == again == {f"q{i}": f"Q{i}" for i in range(7)}
    assert len(model.asked) == 7 == len(rows(path))


@pytest.mark.parametrize("window", [1, 4])
def test_equal_requests_share_one_reply_and_keep_their_ids(tmp_path: Path, window: int) -> None:
    model, path = Counting(window), tmp_path / "replies.jsonl"
    replies = list(cached_chat(model, [ask("same", f"id{i}") for i in range(6)], path, "ask"))
    assert sorted(r.id for r in replies) == [f"id{i}" for i in range(6)]
    assert model.asked == ["same"]
    assert len(rows(path)) == 1


@pytest.mark.parametrize("window", [1, 4])
def test_errors_are_handed_on_but_not_kept(tmp_path: Path, window: int) -> None:
    model, path = Counting(window), tmp_path / "replies.jsonl"
    requests = [ask("a"), ask("bad"), ask("b")]
    assert {r.id: r.error for r in cached_chat(model, requests, path, "ask")} == {
        "a": None,
        "bad": "refused",
        "b": None,
    }
    assert [row["text"] for row in rows(path)] == ["A", "B"]
    list(cached_chat(model, requests, path, "ask"))
    assert model.asked == ["a", "bad", "b", "bad"]


def test_another_model_schema_or_temperature_is_another_request(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    list(cached_chat(Counting(name="one"), [ask("q")], path, "ask"))
    model = Counting(name="two")
    variants = [
        ask("q", "1"),
        ask("q", "2", temperature=0.5),
        ask("q", "3", schema={"type": "object"}),
        ask("q", "4", adapter="tuned"),
    ]
    list(cached_chat(model, variants, path, "ask"))
    assert len(model.asked) == 4
    assert len(rows(path)) == 5


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    model, path = Counting(), tmp_path / "replies.jsonl"
    list(cached_chat(model, [ask("a"), ask("b")], path, "ask"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    list(cached_chat(model, [ask("a"), ask("b")], path, "ask"))
    assert model.asked == ["a", "b", "b"]
    assert path.read_bytes() == whole


def test_a_half_written_window_is_asked_again_whole_and_no_row_is_doubled(tmp_path: Path) -> None:
    path, requests = tmp_path / "replies.jsonl", [ask(f"q{i}") for i in range(9)]
    list(cached_chat(Counting(window=4), requests, path, "ask"))
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:6]))
    model = Counting(window=4)
    list(cached_chat(model, requests, path, "ask"))
    assert model.asked == ["q4", "q5", "q6", "q7", "q8"]
    assert path.read_bytes() == whole


def test_a_run_stopped_midway_resumes_to_the_same_replies_with_a_real_model(
    tmp_path: Path, tiny_lm_dir: Path
) -> None:
    config = LLMConfig(model=str(tiny_lm_dir), dtype="float32", advanced={"batch_tokens": 512})
    requests = [ask("word " * (i % 5) + str(i), temperature=0.8 * (i % 2)) for i in range(40)]
    with open_language_model(config, seed=0) as model:
        model.window = 16
        whole = {
            r.id: r.text for r in cached_chat(model, requests, tmp_path / "whole.jsonl", "ask")
        }
        stream = cached_chat(model, requests, tmp_path / "cut.jsonl", "ask")
        for _ in range(20):
            next(stream)
        stream.close()
        resumed = {
            r.id: r.text for r in cached_chat(model, requests, tmp_path / "cut.jsonl", "ask")
        }
    assert resumed == whole
    texts = [
        [(row["key"], row["text"]) for row in rows(tmp_path / f"{name}.jsonl")]
        for name in ("whole", "cut")
    ]
    assert texts[0] == texts[1]


def test_a_stream_is_answered_while_it_is_still_being_drawn(tmp_path: Path) -> None:
    drawn = []

    def stream() -> Iterator[ChatRequest]:
        for i in range(1000):
            drawn.append(i)
            yield ask(f"q{i}")

    replies = cached_chat(Counting(), stream(), tmp_path / "replies.jsonl", "ask")
    next(replies)
    assert len(drawn) < 10


@pytest.mark.parametrize("window", [1, 4])
def test_the_bar_moves_with_every_reply_and_ends_full(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, moves, bars = Counting(window), [], []

    class Bar(tqdm):
        def update(self, n: float = 1) -> None:
            bars.append(self)
            moves.extend([len(model.asked)] * int(n))
            super().update(n)

    class AtMost(list):
        def __len__(self) -> int:
            return 50

    monkeypatch.setattr(reply_cache, "tqdm", Bar)
    requests = [ask(f"q{i % 8}", f"id{i}") for i in range(10)]
    assert len(list(cached_chat(model, AtMost(requests), tmp_path / "replies.jsonl", "ask"))) == 10
    assert len(moves) == 10 and set(moves) >= set(range(1, 9))
    assert (bars[-1].n, bars[-1].total) == (10, 10)
    list(cached_chat(model, requests, tmp_path / "replies.jsonl", "ask"))
    assert (len(moves), bars[-1].n) == (20, 10)


def test_odd_numbers_in_a_stored_reply_do_not_stop_later_runs(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    row = {"key": "k", "text": "Yes.", "finish_reason": "stop", "seconds": float("inf")}
    path.write_text(json.dumps(row | {"prompt_tokens": "many", "completion_tokens": 1e400}) + "\n")
    with ReplyStore(path) as store:
        reply = store.get("k", "id")
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("Yes.", 0, 0)
    assert reply.seconds == 0.0
