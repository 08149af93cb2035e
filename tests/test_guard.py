"""Who may ask, how much at a time, and how long."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from live_server import Says, live, served_models, small_run
from live_server import llm as llm
from live_server import url as url

from rag_ft.serving.guard import is_loopback
from rag_ft.session import Session

BODY = {"model": "run", "messages": [{"role": "user", "content": "When does the ferry leave?"}]}
KEY = "very secret"
OK = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Session:
    limits = {"timeout_seconds": 3, "max_body_mb": 0.1}
    return small_run(
        tmp_path_factory.mktemp("guarded"),
        tiny_encoder_dir,
        max_concurrent=2,
        cors=["https://intranet.example"],
        advanced=limits,
    )


@pytest.fixture
def locked(session: Session, llm: Says) -> Iterator[str]:
    with live(served_models(session, llm), key=KEY) as address:
        yield address


def chat(url: str, headers: dict[str, str] | None = None, stream: bool = False) -> httpx.Response:
    body = BODY | {"stream": stream}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def in_flight(url: str) -> float:
    [value] = re.findall(r"^rag_ft_in_flight (\S+)", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return float(value)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.7:80"])
def test_without_a_key_the_host_must_be_this_machine(url: str, host: str) -> None:
    assert httpx.get(f"{url}/v1/models", headers={"Host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "a.localhost"])
def test_loopback_names_are_this_machine(url: str, host: str) -> None:
    assert httpx.get(f"{url}/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.2", "example.org", "[bad"])
def test_other_addresses_are_not(host: str) -> None:
    assert not is_loopback(host)


def test_a_page_of_another_site_may_not_call(url: str) -> None:
    # Such a page can send simple requests to this machine without asking first.
    evil = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert chat(url, evil).status_code == 403
    assert chat(url, {"Origin": "null"}).status_code == 403
    assert chat(url, {"Origin": url}).status_code == 200


def test_named_origins_may_call(url: str) -> None:
    mine = {"Origin": "https://intranet.example"}
    response = chat(url, mine)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == mine["Origin"]
    asked = httpx.options(f"{url}/v1/chat/completions", headers=mine)
    assert asked.status_code == 204
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in chat(url).headers


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}, {"X": KEY}]
)
def test_with_a_key_nobody_else_gets_in(locked: str, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/metrics", "/static/chat.js"):
        assert httpx.get(locked + path, headers=headers).status_code == 401
    refused = chat(locked, headers)
    assert refused.status_code == 401
    assert KEY not in refused.text
    assert httpx.get(f"{locked}/documents/ferry.md", headers=headers).status_code == 303


def test_with_the_key_any_host_gets_in(locked: str) -> None:
    assert chat(locked, OK | {"Host": "rag.example"}).status_code == 200


def test_health_needs_no_key(locked: str) -> None:
    assert httpx.get(f"{locked}/health").json() == {"status": "ok"}


def test_a_browser_gives_the_key_once(locked: str) -> None:
    with httpx.Client(base_url=locked, follow_redirects=True) as browser:
        assert browser.get("/").url.path == "/login"
        assert browser.post("/login", data={"key": "wrong"}).status_code == 401
        browser.post("/login", data={"key": KEY})
        [cookie] = browser.cookies.jar
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite").lower() == "strict"
        assert KEY not in (cookie.value or "")
        assert browser.get("/").url.path == "/"
        assert browser.post("/v1/chat/completions", json=BODY).status_code == 200


def test_every_answer_has_the_headers_of_a_safe_page(url: str) -> None:
    for path in ("/", "/v1/models", "/nothing", "/documents/ferry.md"):
        headers = httpx.get(url + path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_a_large_body_is_refused(url: str) -> None:
    assert httpx.post(f"{url}/v1/rerank", content=b"x" * 200_000).status_code == 413


def test_more_requests_than_slots_are_told_to_come_again(url: str, llm: Says) -> None:
    llm.pause = 0.6
    with ThreadPoolExecutor(6) as threads:
        responses = list(threads.map(lambda _: chat(url), range(6)))
    codes = sorted(response.status_code for response in responses)
    assert codes.count(200) == 2 and set(codes) == {200, 429}
    busy = next(response for response in responses if response.status_code == 429)
    assert busy.headers["retry-after"] == "1"
    assert in_flight(url) == 0


def test_a_request_waits_a_moment_for_a_slot(url: str, llm: Says) -> None:
    llm.pause = 0.3
    with ThreadPoolExecutor(4) as threads:
        responses = list(threads.map(lambda _: chat(url), range(4)))
    assert [response.status_code for response in responses] == [200] * 4


def test_a_request_that_takes_too_long_is_ended_and_frees_its_slot(url: str, llm: Says) -> None:
    llm.pause = 10
    began = time.monotonic()
    assert chat(url).status_code == 504
    assert time.monotonic() - began < 6
    assert (in_flight(url), llm.num_open) == (0, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(url: str, llm: Says, stream: bool) -> None:
    llm.pause = 1.0
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/chat/completions", json=BODY | {"stream": stream}, timeout=0.3)
    deadline = time.monotonic() + 2
    while (in_flight(url) or llm.num_open) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (in_flight(url), llm.num_open, llm.num_closed) == (0, 0, 1)


def test_a_slow_body_takes_no_slot(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/rerank HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{"
    slow = [socket.create_connection((host, int(port))) for _ in range(5)]
    for connection in slow:
        connection.sendall(head.encode())
    assert chat(url).status_code == 200
    for connection in slow:
        connection.close()


def test_requests_at_the_same_time_do_not_mix(session: Session) -> None:
    llm = Says(lambda request: request.messages[0]["content"][-20:], pause=0.01)

    async def ask_all(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url) as client:

            async def one(number: int) -> str:
                messages = [{"role": "user", "content": f"question number {number:03d}"}]
                while True:
                    response = await client.post(
                        "/v1/chat/completions",
                        json={"model": "run-closed-book", "messages": messages},
                    )
                    if response.status_code == 200:
                        return response.json()["choices"][0]["message"]["content"]
                    await asyncio.sleep(0.02)

            return await asyncio.gather(*(one(number) for number in range(20)))

    with live(served_models(session, llm)) as url:
        answers = asyncio.run(ask_all(url))
    assert [answer[-3:] for answer in answers] == [f"{number:03d}" for number in range(20)]
