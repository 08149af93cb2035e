"""What servers say that is no plain answer: requests too long, keys that end, errors in disguise, odd texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_llm_openai_backend import FaultyServer, Handler, ask, chat_reply, config_of, requests
from test_llm_openai_backend import serve as serve

from rag_ft.errors import DataError
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.reply_cache import cached_chat

Serve = Callable[..., FaultyServer]


def always(status: int, body: Any) -> Callable[[Handler, str, int], bool]:
    def fault(handler: Handler, prompt: str, tries: int) -> bool:
        handler.send(status, body)
        return True

    return fault


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            400,
            "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens.",
        ),
        (400, "The decoder prompt (length 3000) is longer than the maximum model length of 2048."),
        (400, "the request exceeds the available context size. try increasing the context size"),
        (
            400,
            "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
        ),
        (413, "Please reduce the length of the messages or completion."),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"),
        (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    ],
)
def test_a_request_beyond_the_models_context_is_marked(
    status: int, said: str, serve: Serve
) -> None:
    [reply] = ask(serve(always(status, {"error": {"message": said}})), 1).values()
    assert reply.refused and reply.error is not None and said in reply.error


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            400,
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
        ),
        (
            402,
            "This request costs more tokens than your balance has; the context length is no matter",
        ),
        (429, "Rate limit reached for m on tokens per min (TPM): Limit 30000"),
        (413, "Request Entity Too Large"),
    ],
)
def test_other_errors_are_not_however_many_tokens_they_speak_of(
    status: int, said: str, serve: Serve
) -> None:
    server = serve(always(status, {"error": {"message": said}}))
    [reply] = ask(server, 1, retries=0, timeout_seconds=0.5).values()
    assert reply.error is not None and said in reply.error and not reply.refused


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
    said = rf"rejected the API key \(HTTP {status}: The access token has expired\): set OPENAI_API_KEY.*are kept"
    with (
        open_language_model(config_of(server, concurrency=1), seed=0) as model,
        pytest.raises(DataError, match=said),
    ):
        list(cached_chat(model, requests(1000), path, "ask"))
    assert len(path.read_text().splitlines()) == 8 and len(server.bodies) < 20


def test_a_reply_that_is_all_thinking_is_an_empty_one_cut_off(serve: Serve, tmp_path: Path) -> None:
    server = serve(always(200, chat_reply(None, "length")))
    replies = ask(server, 40).values()
    assert {(r.text, r.finish_reason, r.error) for r in replies} == {("", "length", None)}
    assert len(server.bodies) == 40


def test_half_a_character_in_a_reply_can_still_be_written(serve: Serve, tmp_path: Path) -> None:
    server, path = serve(always(200, chat_reply("Mill \ud83d!"))), tmp_path / "replies.jsonl"
    with open_language_model(config_of(server), seed=0) as model:
        for _ in range(2):
            assert [r.text for r in cached_chat(model, requests(1), path, "ask")] == [
                "Mill \ufffd!"
            ]


@pytest.mark.parametrize(
    "usage", [None, {}, [], {"prompt_tokens": None, "completion_tokens": None}]
)
def test_a_server_may_tell_no_numbers_of_tokens(usage: Any, serve: Serve) -> None:
    [reply] = ask(serve(always(200, chat_reply("HI") | {"usage": usage})), 1).values()
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("HI", 0, 0)


def test_an_error_that_comes_as_a_success_is_told_in_the_servers_words(serve: Serve) -> None:
    said = {"error": {"message": "Provider returned error: quota exceeded", "code": 402}}
    [reply] = ask(serve(always(200, said)), 1, retries=0).values()
    assert (
        reply.error
        == "HTTP 200 with an error: Provider returned error: quota exceeded (tried 1 times)"
    )


def test_models_without_names_are_not_checked(serve: Serve) -> None:
    server = serve()
    server.models = [{"name": "echo"}]
    assert ask(server, 1)["id0"].error is None
