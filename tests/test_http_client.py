"""The client against a server that fails: nothing is lost, nothing doubled, and no error text
becomes an answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_server import (
    Handler,
    Serve,
    all_right,
    always,
    ask,
    chat_reply,
    config_of,
    requests,
    sometimes,
)
from faulty_server import serve as serve

from rag_ft.errors import ConfigError, DataError, RagFtError
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.reply_cache import cached_chat

FAULTS: dict[str, Callable[[Handler], None]] = {
    "random 500s": lambda h: h.send(500, {"error": {"message": "internal"}}),
    "truncated JSON": lambda h: h.send(200, '{"choices": [{"index": 0, "mess'),
    "a body shorter than announced": lambda h: h.send(200, chat_reply("ERROR"), cut=20),
    "connection resets": lambda h: h.reset(),
    "empty choices": lambda h: h.send(200, {"choices": []}),
    "no content": lambda h: h.send(200, chat_reply(None)),
    "an HTML page": lambda h: h.send(200, "<html>proxy error</html>"),
    "another shape": lambda h: h.send(200, ["ERROR"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_request_is_lost_or_doubled_under(name: str, serve: Serve, tmp_path: Path) -> None:
    server, path = serve(sometimes(0.3, FAULTS[name])), tmp_path / "replies.jsonl"
    with open_language_model(config_of(server), seed=0) as model:
        replies = {r.id: r for r in cached_chat(model, requests(60), path, "ask")}
    assert len(replies) == 60 and all_right(replies)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["text"] for row in rows) == sorted(f"PROMPT {i}" for i in range(60))


def test_a_429_is_tried_again_when_the_server_says(serve: Serve) -> None:
    asked: dict[str, list[float]] = {}

    def busy_once(handler: Handler, prompt: str, tries: int) -> bool:
        asked.setdefault(prompt, []).append(time.monotonic())
        if tries == 0:
            handler.send(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
        return tries == 0

    assert all_right(ask(serve(busy_once), 5))
    assert all(second - first >= 1.0 for first, second in asked.values())


def test_a_stalled_reply_is_given_up_and_asked_again(serve: Serve) -> None:
    def stall_once(handler: Handler, prompt: str, tries: int) -> bool:
        if tries == 0 and prompt.endswith(("1", "4")):
            time.sleep(1.5)
            handler.reset()
            return True
        return False

    assert all_right(ask(serve(stall_once), 8, timeout_seconds=0.5))


def test_a_server_killed_and_started_again_midway_costs_no_request(
    serve: Serve,
) -> None:
    def slow(handler: Handler, prompt: str, tries: int) -> bool:
        time.sleep(0.02)
        return False

    server = serve(slow)
    port = server.server_address[1]

    def restart() -> None:
        server.kill()
        time.sleep(0.5)
        serve(slow, port)

    replies = {}
    with open_language_model(config_of(server, retries=1, concurrency=8), seed=0) as model:
        for reply in model.chat(requests(120)):
            replies[reply.id] = reply
            if len(replies) == 40:
                threading.Thread(target=restart).start()
    assert len(replies) == 120 and all_right(replies)


def test_a_server_that_stays_away_ends_the_run_and_what_was_answered_is_kept(
    serve: Serve, tmp_path: Path
) -> None:
    server, path = serve(), tmp_path / "replies.jsonl"
    done = []
    with (
        open_language_model(
            config_of(server, retries=1, timeout_seconds=2, concurrency=4), seed=0
        ) as model,
        pytest.raises(RagFtError, match=r"does not answer any more.*run the same command again"),
    ):
        for reply in cached_chat(model, requests(200), path, "ask"):
            done.append(reply)
            if len(done) == 20:
                server.kill()
    assert all(r.error is None for r in done)
    assert len(path.read_text().splitlines()) >= 20


def test_a_server_that_fails_everything_ends_the_run(serve: Serve) -> None:
    server = serve(lambda handler, *_: handler.send(500, {"error": "down"}) is None)
    with (
        open_language_model(config_of(server, retries=1), seed=0) as model,
        pytest.raises(RagFtError, match="HTTP 500: down"),
    ):
        list(model.chat(requests(100)))


def test_one_request_the_server_always_fails_is_an_error_and_the_others_go_on(
    serve: Serve, tmp_path: Path
) -> None:
    def poison(handler: Handler, prompt: str, tries: int) -> bool:
        if prompt == "prompt 3":
            handler.send(500, {"error": {"message": "worker died"}})
        return prompt == "prompt 3"

    server, path = serve(poison), tmp_path / "replies.jsonl"
    with open_language_model(config_of(server, retries=2), seed=0) as model:
        replies = {r.id: r for r in cached_chat(model, requests(10), path, "ask")}
    bad = replies.pop("id3")
    assert all_right(replies)
    assert bad.text == "" and "worker died (tried 3 times)" in bad.error
    assert server.tries["prompt 3"] == 3
    assert "worker died" not in path.read_text()


def test_a_ten_megabyte_reply_is_dropped_with_its_reason(
    serve: Serve,
) -> None:
    def huge(handler: Handler, prompt: str, tries: int) -> bool:
        if prompt == "prompt 1":
            handler.send(200, chat_reply("x" * 10_000_000))
        return prompt == "prompt 1"

    replies = ask(serve(huge), 4)
    assert replies["id1"].text == "" and "more than" in replies["id1"].error
    assert replies["id2"].text == "PROMPT 2"


def test_many_requests_are_in_flight_without_a_barrier_and_never_more_than_asked(
    serve: Serve,
) -> None:
    def first_waits_for_the_last(handler: Handler, prompt: str, tries: int) -> bool:
        while prompt == "prompt 0" and server.tries["prompt 59"] == 0:
            time.sleep(0.05)
        time.sleep(0.01)
        return False

    server = serve(first_waits_for_the_last)
    with open_language_model(config_of(server, concurrency=6), seed=0) as model:
        order = [reply.id for reply in model.chat(requests(60))]
    assert order.index("id0") > 50
    assert 2 <= server.most_at_once <= 6


def test_leaving_midway_ends_what_is_in_flight(serve: Serve) -> None:
    server = serve()
    with open_language_model(config_of(server), seed=0) as model:
        replies = model.chat(requests(10_000))
        next(replies)
        replies.close()
        assert next(model.chat(requests(1))).text == "PROMPT 0"
    assert len(server.bodies) < 1000


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_ends_midway_ends_the_run_at_once_and_what_was_answered_is_kept(
    status: int, serve: Serve, tmp_path: Path
) -> None:
    def expires(handler: Handler, prompt: str, tries: int) -> bool:
        if len(handler.server.bodies) <= 8:
            return False
        handler.send(status, {"error": {"message": "The access token has expired"}})
        return True

    server, path = serve(expires), tmp_path / "replies.jsonl"
    said = (
        rf"rejected the API key \(HTTP {status}: The access token has expired\): "
        "set OPENAI_API_KEY.*are kept"
    )
    with (
        open_language_model(config_of(server, concurrency=1), seed=0) as model,
        pytest.raises(DataError, match=said),
    ):
        list(cached_chat(model, requests(1000), path, "ask"))
    assert len(path.read_text().splitlines()) == 8 and len(server.bodies) < 20


def test_a_redirect_is_not_followed_and_says_where_it_leads(serve: Serve) -> None:
    other = serve()

    def elsewhere(handler: Handler, prompt: str, tries: int) -> bool:
        handler.send(307, "", {"Location": f"{other.url}/chat/completions"})
        return True

    replies = ask(serve(elsewhere), 3)
    assert all("redirects to" in str(reply.error) for reply in replies.values())
    assert other.bodies == []


def test_a_key_that_the_server_echoes_is_not_kept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a1b2c3d4\n")
    echo = {"error": {"message": "model not found for key sk-a1b2c3d4"}}
    replies = ask(serve(always(400, echo)), 2)
    assert all("for key ***" in str(reply.error) for reply in replies.values())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a1\nb2c3d4")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters"):
        ask(serve(), 1)
