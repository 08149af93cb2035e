"""Chat completions in OpenAI's shape: answers, streams, citations, history, tasks, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import Says, lines_of, live, served_models, small_run
from live_server import llm as llm
from live_server import url as url

from rag_ft.session import Session

QUESTION = [{"role": "user", "content": "When does the ferry leave?"}]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Session:
    return small_run(tmp_path_factory.mktemp("served"), tiny_encoder_dir, log=True)


def ask(url: str, **body: Any) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions", json={"model": "run", "messages": QUESTION} | body
    )


def frames(response: httpx.Response) -> list[Any]:
    data = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(frame) for frame in data[:-1]]


def test_the_models_stand_in_order(url: str) -> None:
    data = httpx.get(f"{url}/v1/models").json()["data"]
    assert [model["id"] for model in data] == ["run", "run-base", "run-closed-book"]


def test_an_answer_has_its_citations_in_two_shapes(url: str) -> None:
    [choice] = ask(url).json()["choices"]
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == ("at noon [1]", "stop")
    [annotation] = message["annotations"]
    place = annotation["url_citation"]
    assert message["content"][place["start_index"] : place["end_index"]] == "[1]"
    first, *others = message["context"]["citations"]
    assert first["cited"] and not first["inferred"] and first["document_id"] == "ferry.md"
    assert place["url"] == first["url"] and first["url"].startswith(f"{url}/documents/ferry.md?")
    start, end = first["evidence"]
    assert first["content"][start:end] == "at noon"
    assert (first["page"], first["rank"], first["title"]) == (None, 1, "Ferry")
    assert not any(citation["cited"] for citation in others)


def test_a_stream_gives_the_same_answer_and_ends_in_order(url: str) -> None:
    whole = ask(url).json()["choices"][0]["message"]
    found = frames(ask(url, stream=True, stream_options={"include_usage": True}))
    deltas = [frame["choices"][0]["delta"] for frame in found if frame["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    *texts, last = [frame for frame in found if frame["choices"]]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["delta"]["annotations"] == whole["annotations"]
    assert last["choices"][0]["delta"]["context"] == whole["context"]
    assert all(frame["choices"][0]["finish_reason"] is None for frame in texts)
    usage, event = found[-2:]
    assert usage["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert event["event"]["type"] == "citation"
    assert event["event"]["data"]["document"] == [whole["context"]["citations"][0]["content"]]
    assert all(frame["object"] == "chat.completion.chunk" for frame in found)


def test_usage_comes_only_where_it_is_asked_for(url: str) -> None:
    assert not any("usage" in frame for frame in frames(ask(url, stream=True)))


def test_an_answer_without_marks_cites_the_chunk_that_contains_it(url: str, llm: Says) -> None:
    llm.reply = "Noon"
    message = ask(url).json()["choices"][0]["message"]
    cited = [c for c in message["context"]["citations"] if c["cited"]]
    assert message["content"] == "Noon [1]"
    assert [c["inferred"] for c in cited] == [True]


def test_an_abstention_cites_nothing(url: str, llm: Says) -> None:
    llm.reply = "I don't know. [1]"
    message = ask(url).json()["choices"][0]["message"]
    assert (message["content"], message["annotations"]) == ("I don't know.", [])
    found = frames(ask(url, stream=True))
    assert not any("event" in frame for frame in found)
    assert found[-1]["choices"][0]["delta"]["annotations"] == []


def test_a_number_of_no_chunk_is_removed(url: str, llm: Says) -> None:
    llm.reply = "it is [9] blue [12]."
    assert ask(url).json()["choices"][0]["message"]["content"] == "it is blue."


def test_a_follow_up_is_rewritten_before_it_is_looked_up(url: str, llm: Says) -> None:
    llm.reply = lambda request: (
        "When was the mill built?" if request.id == "rewrite" else "in 1842 [1]"
    )
    history = [
        {"role": "user", "content": "Who built the mill?"},
        {"role": "assistant", "content": "Ola Brand"},
        {"role": "user", "content": "And when?"},
    ]
    message = ask(url, messages=history).json()["choices"][0]["message"]
    context = message["context"]
    assert context["question"] == "And when?"
    assert context["standalone_question"] == "When was the mill built?"
    assert context["citations"][0]["document_id"] == "mill.md"
    assert "When was the mill built?" in llm.asked[-1].messages[0]["content"]


@pytest.mark.parametrize("reply", ["", "I don't know.", "x" * 600, "Zebras eat grass all day long"])
def test_a_rewrite_of_no_use_leaves_the_last_question(url: str, llm: Says, reply: str) -> None:
    llm.reply = lambda request: reply if request.id == "rewrite" else "in 1842"
    history = [*QUESTION, {"role": "assistant", "content": "noon"}, *QUESTION]
    context = ask(url, messages=history).json()["choices"][0]["message"]["context"]
    assert context["standalone_question"] == QUESTION[0]["content"]


def test_filters_leave_out_other_documents(url: str, llm: Says) -> None:
    message = ask(url, filters={"id": "mill*"}).json()["choices"][0]["message"]
    assert {c["document_id"] for c in message["context"]["citations"]} == {"mill.md"}
    num_asked = len(llm.asked)
    message = ask(url, filters={"id": "none"}).json()["choices"][0]["message"]
    assert (message["content"], message["context"]["citations"]) == ("I don't know.", [])
    assert len(llm.asked) == num_asked
    assert ask(url, filters={"id": {"deep": 1}}).status_code == 400


def test_a_task_of_a_chat_page_goes_to_the_model_without_chunks(url: str, llm: Says) -> None:
    llm.reply = "Ferry times [1]"
    task = [{"role": "user", "content": "### Task:\nGenerate a title."}]
    message = ask(url, messages=task).json()["choices"][0]["message"]
    assert message["content"] == "Ferry times [1]"
    assert message["context"]["citations"] == message["annotations"] == []
    assert [dict(m) for m in llm.asked[-1].messages] == task


def test_the_closed_book_model_is_shown_no_chunk(url: str, llm: Says) -> None:
    message = ask(url, model="run-closed-book").json()["choices"][0]["message"]
    assert message["context"]["citations"] == []
    assert "leaves at noon" not in llm.asked[-1].messages[0]["content"]


def test_stop_and_max_tokens_are_honoured(url: str, llm: Says) -> None:
    llm.reply = "one two three four"
    message = ask(url, stop=["three"], max_tokens=5).json()["choices"][0]["message"]
    assert message["content"] == "one two"
    assert llm.asked[-1].max_tokens == 5
    content = [
        frame["choices"][0]["delta"].get("content", "")
        for frame in frames(ask(url, stop="o three", stream=True))
        if frame["choices"]
    ]
    assert "".join(content) == "one tw"


def test_a_reply_longer_than_the_context_is_cut_to_its_room(
    url: str, llm: Says, session: Session
) -> None:
    ask(url, max_tokens=1_000_000)
    assert 0 < llm.asked[-1].max_tokens < session.config.llm.max_model_tokens


def test_json_replies_are_left_as_they_are(url: str, llm: Says) -> None:
    llm.reply = '{"rows": [1], "n": 99}'
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    message = ask(url, response_format=form).json()["choices"][0]["message"]
    assert json.loads(message["content"]) == {"rows": [1], "n": 99}
    assert llm.asked[-1].schema == {"type": "object"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "other"}, 404),
        ({"messages": []}, 400),
        ({"messages": [{"role": "user", "content": " "}]}, 400),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400),
        ({"n": 2}, 400),
        ({"temperature": "hot"}, 400),
        ({"messages": [{"role": "user", "content": "x" * 100_001}]}, 400),
        ({"messages": [{"role": "user", "content": "### Task: " + "x" * 70_000}]}, 400),
        ({"response_format": {"type": "json_schema", "x": ["x" * 200] * 500}}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400),
    ],
)
def test_a_wrong_request_gets_an_error_in_openais_shape(
    url: str, change: dict[str, Any], status: int
) -> None:
    response = ask(url, **change)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


NAN = b'{"model": "run", "messages": [], "response_format": {"x": NaN}}'
INFINITE = b'{"model": "run", "messages": [], "response_format": {"x": 1e999}}'


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", NAN, INFINITE])
def test_a_body_that_is_no_json_object_is_a_client_error(url: str, body: bytes) -> None:
    assert httpx.post(f"{url}/v1/chat/completions", content=body).status_code == 400


def test_unknown_fields_and_parts_of_text_are_taken(url: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "When does it leave?"}]}]
    system = [{"role": "system", "content": "Be nice."}]
    response = ask(url, messages=system + parts, tools=[{"x": 1}], seed=3, user="me")
    assert response.status_code == 200


def test_a_failed_model_is_an_error_and_not_an_answer(url: str, llm: Says) -> None:
    llm.error = "out of memory"
    for stream in (False, True):
        response = ask(url, stream=stream)
        assert response.status_code == 502
        assert "out of memory" in response.json()["error"]["message"]


def test_exchanges_are_logged_where_the_log_is_on(url: str, session: Session) -> None:
    before = lines_of(session.run_dir.served)
    ask(url)
    [line] = lines_of(session.run_dir.served)[len(before) :]
    row = json.loads(line)
    assert (row["question"], row["answer"]) == (QUESTION[0]["content"], "at noon [1]")
    assert row["citations"] == row["chunk_ids"][:1] and row["fingerprints"]["encoder"]


def test_without_the_log_nothing_is_written(
    tmp_path: Path, tiny_encoder_dir: Path, llm: Says
) -> None:
    session = small_run(tmp_path, tiny_encoder_dir)
    before = sorted(tmp_path.rglob("*"))
    with live(served_models(session, llm)) as url:
        ask(url)
    assert sorted(tmp_path.rglob("*")) == before
