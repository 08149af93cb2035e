"""The MCP tools, by the official client, over the real server."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

pytest.importorskip("mcp", reason="the extra mcp is not installed (pip install 'rag-ft[mcp]')")

import httpx2
from live_server import DOCUMENTS, Says, lines_of, live, served_models, small_run
from live_server import llm as llm
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from rag_ft.serving.mcp import SHOWN_CHARACTERS
from rag_ft.session import Session

LONG = {"id": "long.md", "title": "Long", "text": "The dyke is long. " * 2000}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Session:
    advanced = {"public_url": "https://ask.example"}
    folder = tmp_path_factory.mktemp("tools")
    return small_run(folder, tiny_encoder_dir, [*DOCUMENTS, LONG], log=True, advanced=advanced)


@pytest.fixture
def url(session: Session, llm: Says) -> Iterator[str]:
    with live(served_models(session, llm)) as address:
        yield f"{address}/mcp"


def connected(url: str, work: Callable[[Client], Awaitable[Any]], mode: str = "auto") -> Any:
    """What `work(client)` returns. `mode` legacy: clients before the revision 2026-07-28."""

    async def run() -> Any:
        async with Client(url, mode=mode) as client:
            return await work(client)

    return anyio.run(run)


def call(url: str, name: str, mode: str = "auto", **arguments: Any) -> Any:
    """The structured result of a tool; its error text where it failed."""
    result = connected(url, lambda client: client.call_tool(name, arguments), mode)
    text = result.content[0].text
    if result.is_error:
        return text
    assert json.loads(text) == result.structured_content
    return result.structured_content


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_clients_of_both_revisions_find_the_three_tools(url: str, mode: str) -> None:
    listed = connected(url, lambda client: client.list_tools(), mode)
    assert [tool.name for tool in listed.tools] == ["search", "ask", "get_document"]
    for tool in listed.tools:
        assert tool.description and tool.annotations.read_only_hint
        assert "context" not in tool.input_schema["properties"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_search_gives_chunks_best_first_with_their_links(url: str, mode: str) -> None:
    chunks = call(url, "search", mode, query="Who built the mill?", k=2)["chunks"]
    assert len(chunks) == 2 and chunks[0]["score"] >= chunks[1]["score"]
    assert chunks[0]["text"] == DOCUMENTS[1]["text"]
    assert chunks[0]["document_id"] == "mill.md" and chunks[0]["title"] == "Mill"
    assert chunks[0]["url"].startswith("https://ask.example/documents/mill.md?chunk=")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_ask_answers_with_what_it_cites_and_is_logged(
    url: str, session: Session, mode: str
) -> None:
    said = call(url, "ask", mode, question="When does the ferry leave?")
    assert (said["answer"], said["abstained"]) == ("at noon [1]", False)
    [citation] = said["citations"]
    assert citation["rank"] == 1 and citation["content"] == DOCUMENTS[0]["text"]
    line = json.loads(lines_of(session.run_dir.served)[-1])
    assert line["id"] == said["id"] and line["question"] == "When does the ferry leave?"


def test_an_abstention_cites_nothing(url: str, session: Session, llm: Says) -> None:
    llm.reply = session.prompts.abstain
    said = call(url, "ask", question="Who is the mayor?", model="run-base")
    assert said["abstained"] and said["citations"] == []


def test_a_long_document_comes_in_parts(url: str) -> None:
    first = call(url, "get_document", document_id="long.md")
    assert first["title"] == "Long" and first["next_start"] == SHOWN_CHARACTERS
    last = call(url, "get_document", document_id="long.md", start=first["next_start"])
    assert last["next_start"] is None
    assert (first["text"] + last["text"]).strip() == LONG["text"].strip()


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("get_document", {"document_id": "../../etc/passwd"}, "no document '../../etc/passwd'"),
        ("search", {"query": "mill", "model": "other"}, "there are run, run-base"),
        ("search", {"query": "mill", "k": 0}, "greater than or equal to 1"),
        ("ask", {"question": " "}, "must be a question"),
    ],
)
def test_a_wrong_argument_is_an_error_with_its_reason(
    url: str, tool: str, arguments: dict[str, Any], said: str
) -> None:
    assert said in call(url, tool, **arguments)


def test_a_prompt_that_nobody_has_is_no_error_in_the_log(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def said(client: Client) -> str:
        with pytest.raises(MCPError) as raised:
            await client.get_prompt("x", {})
        return str(raised.value)

    assert "this server has no prompts" in connected(url, said, "legacy")
    assert "Traceback" not in caplog.text


def test_a_language_model_that_fails_is_an_error_and_no_traceback(url: str, llm: Says) -> None:
    llm.error = "out of memory"
    said = call(url, "ask", question="When does the ferry leave?")
    assert said.endswith("the language model: out of memory") and "Traceback" not in said


def test_a_key_is_asked_for(session: Session, llm: Says) -> None:
    initialize = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"Accept": "application/json, text/event-stream"}

    async def listed(address: str) -> int:
        async with (
            httpx2.AsyncClient(headers={"Authorization": "Bearer s3cret"}) as http,
            Client(streamable_http_client(address, http_client=http)) as client,
        ):
            return len((await client.list_tools()).tools)

    with live(served_models(session, llm), key="s3cret") as address:
        assert httpx.post(f"{address}/mcp", json=initialize, headers=headers).status_code == 401
        assert anyio.run(listed, f"{address}/mcp") == 3


def test_only_posts_are_answered_and_other_hosts_are_not(url: str) -> None:
    assert httpx.get(url, headers={"Accept": "text/event-stream"}).status_code == 405
    assert httpx.delete(url).status_code == 405
    assert httpx.post(url, json={}, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.post(url, json={}, headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_that_goes_away_frees_its_slot_and_the_model(
    url: str, llm: Says, mode: str
) -> None:
    llm.reply, llm.pause = "word " * 1000, 0.05

    async def leave() -> None:
        with anyio.move_on_after(1.0):
            async with Client(url, mode=mode) as client:
                await client.call_tool("ask", {"question": "When does the ferry leave?"})

    anyio.run(leave)
    assert llm.asked
    deadline = time.monotonic() + 5
    metrics = url.replace("/mcp", "/metrics")
    while llm.num_open or "rag_ft_in_flight 0.0" not in httpx.get(metrics).text:
        assert time.monotonic() < deadline, "the slot or the model is still taken"
        time.sleep(0.05)
    assert 'route="mcp"' in httpx.get(metrics).text
