"""The official openai client over the real server: what it reads, and how it names errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from live_server import Says, live, served_models, small_run
from live_server import llm as llm
from openai.types.chat import ChatCompletionMessageParam

from rag_ft.session import Session

ASKED: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "When does the ferry leave?"}
]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Session:
    advanced = {"max_concurrent": 1}
    return small_run(tmp_path_factory.mktemp("clients"), tiny_encoder_dir, advanced=advanced)


@pytest.fixture
def client(session: Session, llm: Says) -> Iterator[openai.OpenAI]:
    with live(served_models(session, llm), key="s3cret") as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0)


def test_models_and_embeddings(client: openai.OpenAI, session: Session) -> None:
    assert [model.id for model in client.models.list()] == ["run", "run-base", "run-closed-book"]
    # The client asks for base64 by default.
    found = client.embeddings.create(model="run", input=["the mill"]).data[0].embedding
    assert np.allclose(found, session.retriever().encoder.encode_chunks(["the mill"])[0], atol=1e-6)


def test_a_chat_and_its_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="run", messages=ASKED).choices[0].message
    assert whole.annotations and whole.annotations[0].url_citation.title
    stream = client.chat.completions.create(
        model="run", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.content
    assert [chunk.usage for chunk in chunks if chunk.usage]
    assert chunks[-1].model_extra and chunks[-1].model_extra["event"]["type"] == "citation"


def test_errors_have_the_clients_classes(client: openai.OpenAI, llm: Says) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=ASKED)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="run", messages=[])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="run", messages=ASKED, n=2)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    llm.pause = 1.5  # longer than a request waits for a place
    with (
        client.chat.completions.create(model="run", messages=ASKED, stream=True),
        pytest.raises(openai.RateLimitError),
    ):
        client.chat.completions.create(model="run", messages=ASKED)


def test_requests_for_json_get_json(client: openai.OpenAI, llm: Says) -> None:
    llm.reply = '{"answer": "noon [1]"}'
    schema = {"name": "x", "schema": {"type": "object"}}
    for response_format in (
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": schema},
    ):
        found = client.chat.completions.create(
            model="run",
            messages=[{"role": "system", "content": "Reply in JSON."}, *ASKED],
            response_format=response_format,  # type: ignore[arg-type]
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
        assert found.choices[0].message.content == '{"answer": "noon [1]"}'
        assert not found.choices[0].message.tool_calls
