"""Errors of servers: requests that are too long, errors that look alike, errors in disguise."""

from __future__ import annotations

import pytest
from faulty_server import Handler, Serve, always, ask
from faulty_server import serve as serve


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            400,
            "This model's maximum context length is 2048 tokens. "
            "However, you requested 2100 tokens.",
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
            "Unsupported parameter: 'max_tokens' is not supported. "
            "Use 'max_completion_tokens' instead.",
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


def test_an_error_that_comes_as_a_success_is_told_in_the_servers_words(serve: Serve) -> None:
    said = {"error": {"message": "Provider returned error: quota exceeded", "code": 402}}
    [reply] = ask(serve(always(200, said)), 1, retries=0).values()
    assert (
        reply.error
        == "HTTP 200 with an error: Provider returned error: quota exceeded (tried 1 times)"
    )


def test_a_prompt_too_long_is_an_error_at_once_with_the_servers_words(
    serve: Serve,
) -> None:
    def too_long(handler: Handler, prompt: str, tries: int) -> bool:
        if prompt == "prompt 1":
            handler.send(
                400, {"error": {"message": "maximum context length is 1024 tokens", "code": 400}}
            )
        return prompt == "prompt 1"

    server = serve(too_long)
    replies = ask(server, 4)
    assert "maximum context length is 1024 tokens" in replies["id1"].error
    assert server.tries["prompt 1"] == 1
