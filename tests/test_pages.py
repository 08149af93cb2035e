"""The pages in a real browser: by keyboard alone, without a request to another host."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import DOCUMENTS, Says, lines_of, live, served_models, small_run

from rag_ft.session import Session

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is missing")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
QUESTION = "When does the ferry leave?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def session(tmp_path: Path, tiny_encoder_dir: Path) -> Session:
    hostile = {"id": "bad.md", "title": HOSTILE, "text": f"The dyke {HOSTILE} is long."}
    return small_run(tmp_path, tiny_encoder_dir, [*DOCUMENTS, hostile])


@pytest.fixture
def llm() -> Says:
    return Says("at noon [1]")


@pytest.fixture
def url(session: Session, llm: Says) -> Iterator[str]:
    with live(served_models(session, llm)) as address:
        yield address


@pytest.fixture
def open_page(browser: Any, url: str) -> Iterator[Any]:
    """open_page(path, width, scheme) -> a page that must stay without errors and foreign
    requests."""
    contexts, problems = [], list[str]()

    def open_(path: str = "/", width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((url, "blob:")) else problems.append(r.url),
        )
        page.goto(url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def ask(page: Any, question: str = QUESTION, answers: int = 1) -> None:
    """Types a question as a person does, and waits for the answer."""
    before = page.get_by_role("button", name="Correct this answer").count()
    page.locator("#question").focus()
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Correct this answer").nth(before + answers - 1).wait_for()


def until(holds: Callable[[], bool]) -> None:
    """Waits up to ten seconds."""
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


def tab_to(page: Any, text: str) -> None:
    """Presses Tab until the element with this text has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == text:
            return
    raise AssertionError(f"Tab does not reach {text}")


def test_a_passage_is_opened_and_closed_by_keyboard(open_page: Any) -> None:
    page = open_page()
    assert page.evaluate("document.activeElement.id") == "question"
    ask(page)
    page.evaluate("document.querySelector('#new').focus()")
    tab_to(page, "[1]")
    page.keyboard.press("Enter")
    drawer = page.locator("#drawer")
    drawer.get_by_text("The ferry leaves").wait_for()
    assert drawer.locator("mark").inner_text() == "at noon"
    page.keyboard.press("Escape")
    drawer.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.textContent.trim()") == "[1]"


def test_a_follow_up_is_sent_with_the_chat(open_page: Any, llm: Says) -> None:
    page = open_page()
    ask(page)
    ask(page, "And when does it come back?")
    rewrite = next(request for request in llm.asked if request.id == "rewrite")
    assert QUESTION in rewrite.messages[0]["content"]
    assert "at noon" in rewrite.messages[0]["content"]


def test_what_people_say_is_stored(open_page: Any, session: Session) -> None:
    page = open_page()
    ask(page)
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_role("button", name="Bad answer", pressed=True).wait_for()
    page.get_by_role("button", name="Correct this answer").click()
    page.locator("textarea[name=answer]").fill("at dawn")
    page.get_by_role("button", name="Save correction").click()
    page.wait_for_timeout(100)
    until(lambda: bool(lines_of(session.run_dir.reviews)))
    feedback = [json.loads(line) for line in lines_of(session.run_dir.feedback)]
    assert feedback[0]["rating"] == -1 and feedback[-1]["answer"] == "at dawn"
    [review] = map(json.loads, lines_of(session.run_dir.reviews))
    assert review["answers"] == ["at dawn"] and review["question"] == QUESTION


def test_hostile_texts_are_shown_and_do_nothing(open_page: Any, llm: Says) -> None:
    llm.reply = f"The dyke {HOSTILE} [1]"
    page = open_page()
    ask(page, f"How long is the dyke {HOSTILE}?")
    page.locator("button", has_text="[1]").first.click()
    page.locator("#drawer").get_by_text("<script>").first.wait_for()
    page.goto(page.url.rstrip("/") + "/documents/bad.md?chunk=bad.md%230")
    assert "<script>" in page.inner_text("body")
    assert "hacked" not in page.title().replace(HOSTILE, "")


def test_a_document_shows_the_cited_chunk(open_page: Any) -> None:
    page = open_page("/documents/ferry.md?chunk=ferry.md%230#cited")
    assert page.locator("#cited").inner_text() == DOCUMENTS[0]["text"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways(open_page: Any, scheme: str) -> None:
    page = open_page(width=390, scheme=scheme)
    ask(page, "When does the ferry leave, and " + "very" * 40 + "?")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", background)[:3])) < 200
    assert dark == (scheme == "dark")


def test_the_thread_is_exported(open_page: Any) -> None:
    page = open_page()
    ask(page)
    page.get_by_text("Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as Markdown").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert QUESTION in text and "at noon" in text


def test_an_error_is_said_in_words(browser: Any, url: str, llm: Says) -> None:
    llm.error = "out of memory"
    page = browser.new_page()
    page.goto(url)
    page.locator("#question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.get_by_text("out of memory").first.wait_for(timeout=10_000)
    page.close()


def test_tuned_and_base_are_asked_side_by_side(browser: Any, session: Session, llm: Says) -> None:
    with live(served_models(session, llm, tuned=frozenset({"retriever"}))) as url:
        page = browser.new_page()
        page.goto(url)
        page.locator("#compare").check()
        ask(page, answers=2)
        shown = page.locator("#thread").inner_text()
        page.close()
    assert shown.count("at noon") == 2 and "run-base" in shown


def test_a_browser_is_asked_for_the_key_once(browser: Any, session: Session, llm: Says) -> None:
    with live(served_models(session, llm), key="s3cret") as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.locator("input[name=key]").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text(re.compile("wrong|not the key", re.IGNORECASE)).first.wait_for()
        page.locator("input[name=key]").fill("s3cret")
        page.keyboard.press("Enter")
        page.locator("#question").wait_for()
        ask(page)
        assert page.evaluate("document.cookie") == ""
        context.close()
