"""The server's pages in a real browser: chat, document, login."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from live_server import DOCUMENTS, Says, lines_of, live, served_models, small_run

from rag_ft.session import Session

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH"),
]

WINDOW = {"width": 1280, "height": 800}
QUESTION = "When does the ferry leave?"
EVIL = (
    "<script>document.title='pwned'</script><img src=x onerror=document.title='pwned'>"
    " {{ 7 * 7 }} & \"q\" 'q' </mark></textarea>"
)
LONG = "unbreakable" * 30
HOSTILE = {"id": "evil/<b>.md", "title": f"Lighthouse {EVIL}", "text": f"The lighthouse {EVIL}."}
WIDE = {"id": "wide.md", "title": f"Harbour {LONG}", "text": f"The harbour is {LONG} deep."}
# What stands beyond the right edge, or scrolls sideways in a box of its own.
TOO_WIDE = """() => [...document.querySelectorAll("body, body *")].filter((node) => {
    const box = node.getBoundingClientRect();
    const scrolls = getComputedStyle(node).overflowX === "auto"
        && node.scrollWidth > node.clientWidth;
    return scrolls || (box.width > 1 && box.right > innerWidth + 0.5);
}).map((node) => node.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Session:
    folder = tmp_path_factory.mktemp("pages")
    return small_run(folder, tiny_encoder_dir, [*DOCUMENTS, HOSTILE, WIDE])


@pytest.fixture(scope="module")
def served(session: Session) -> Iterator[tuple[str, Says]]:
    says = Says("")
    with live(served_models(session, says, tuned=("retriever", "generator"))) as address:
        yield address, says


@pytest.fixture
def url(served: tuple[str, Says]) -> str:
    return served[0]


@pytest.fixture
def llm(served: tuple[str, Says]) -> Says:
    says = served[1]
    says.reply, says.pause, says.error = "at noon [1]", 0.0, None
    return says


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport=WINDOW)
        context.set_default_timeout(15_000)
        yield context
        browser.close()


class Seen:
    """What pages complained about, and the hosts that they called."""

    def __init__(self, context: Any) -> None:
        self.complaints: list[str] = []
        self.hosts: set[str | None] = set()
        context.on("console", self._said)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture(scope="module")
def all_seen(context: Any) -> Seen:
    return Seen(context)


@pytest.fixture
def seen(all_seen: Seen) -> Iterator[Seen]:
    all_seen.complaints.clear()
    yield all_seen
    assert all_seen.complaints == []
    assert all_seen.hosts <= {"127.0.0.1"}


@pytest.fixture(scope="module")
def tab(context: Any) -> Any:
    return context.new_page()


@pytest.fixture
def page(tab: Any, seen: Seen, llm: Says) -> Any:
    tab.set_viewport_size(WINDOW)
    tab.emulate_media(color_scheme="light")
    return tab


def ask(page: Any, question: str = QUESTION) -> Any:
    """Asks, waits for the answers, and returns the last one."""
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector("#stop", state="hidden")
    return page.locator(".answer").last


def tab_to(page: Any, selector: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def is_focused(page: Any, selector: str) -> bool:
    return bool(page.evaluate("(s) => document.activeElement.matches(s)", selector))


def test_the_keyboard_alone_asks_opens_the_chunk_and_returns(page: Any, url: str) -> None:
    page.goto(url)
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(".mark")
    assert is_focused(page, "#question")
    tab_to(page, ".mark")
    page.keyboard.press("Enter")
    drawer = page.locator("#drawer")
    assert drawer.is_visible() and is_focused(page, "#drawer-title")
    assert drawer.locator("mark").inner_text() == "at noon"
    assert drawer.locator(".chunk").inner_text() == DOCUMENTS[0]["text"]
    assert "null" not in drawer.inner_text()
    page.keyboard.press("Escape")
    assert not drawer.is_visible() and is_focused(page, ".mark")


def test_the_focus_is_not_lost_with_the_button_that_was_pressed(page: Any, url: str) -> None:
    page.goto(url)
    page.fill("#question", QUESTION)
    page.focus("#send")
    page.keyboard.press("Enter")
    page.wait_for_selector(".mark")
    page.wait_for_selector("#send:focus")


def test_a_link_in_the_drawer_opens_the_document_at_the_chunk(
    page: Any, context: Any, url: str
) -> None:
    page.goto(url)
    ask(page).locator(".mark").click()
    with context.expect_page() as opened:
        page.click("#drawer a")
    document = opened.value
    document.wait_for_load_state()
    assert document.locator("mark#cited").inner_text() == DOCUMENTS[0]["text"]
    assert document.title() == "Ferry"
    document.close()  # a tab behind another one is slow


def test_a_document_marks_only_the_cited_chunk(page: Any, url: str, session: Session) -> None:
    [chunk] = [c for c in session.chunks if c.document_id == "mill.md"]
    page.goto(f"{url}/documents/mill.md?chunk={quote(chunk.id)}")
    assert page.locator("mark#cited").inner_text() == chunk.text
    page.goto(f"{url}/documents/mill.md")
    assert page.locator("mark").count() == 0
    page.goto(f"{url}/documents/ferry.md?chunk={quote(chunk.id)}")
    assert page.locator("mark").count() == 0 and "any more" in page.inner_text(".error")


def test_an_unknown_document_has_a_page_and_the_status_404(url: str) -> None:
    response = httpx.get(f"{url}/documents/none.md")
    assert response.status_code == 404 and "No such document" in response.text


def test_a_thumb_lands_in_the_feedback_of_the_run(page: Any, url: str, session: Session) -> None:
    before = len(lines_of(session.run_dir.feedback))
    page.goto(url)
    answer = ask(page)
    for label, rating in (("Good answer", 1), ("Bad answer", -1)):
        thumb = answer.get_by_role("button", name=label)
        thumb.click()
        page.wait_for_selector(f"[aria-label='{label}'][aria-pressed=true]")
        row = json.loads(lines_of(session.run_dir.feedback)[-1])
        assert row["rating"] == rating and row["exchange"]["question"] == QUESTION
    assert len(lines_of(session.run_dir.feedback)) == before + 2
    assert answer.locator("[aria-pressed=true]").count() == 1


def test_a_correction_becomes_a_review(page: Any, url: str, session: Session) -> None:
    page.goto(url)
    answer = ask(page)
    answer.get_by_role("button", name="Correct this answer").click()
    assert is_focused(page, "textarea[name=answer]")
    assert answer.locator("textarea").input_value() == "at noon"
    answer.locator("textarea").fill("the long pier")
    answer.get_by_label("Comment (optional)").fill("where, not when")
    answer.get_by_role("button", name="Save correction").click()
    answer.get_by_text("Correction saved.").wait_for()
    assert not answer.locator("form").is_visible()
    review = json.loads(lines_of(session.run_dir.reviews)[-1])
    assert (review["question"], review["answers"]) == (QUESTION, ["the long pier"])
    assert (review["document_id"], review["reason"]) == ("ferry.md", "where, not when")
    [evidence] = review["evidence"]
    found = DOCUMENTS[0]["text"][evidence["start"] : evidence["end"]]
    assert found == "the long pier"
    feedback = json.loads(lines_of(session.run_dir.feedback)[-1])
    assert feedback["answer"] == "the long pier" and len(feedback["chunk_ids"]) == 1


def test_an_answer_that_nobody_changed_is_no_correction(
    page: Any, url: str, session: Session
) -> None:
    before = lines_of(session.run_dir.feedback), lines_of(session.run_dir.reviews)
    page.goto(url)
    answer = ask(page)
    answer.get_by_role("button", name="Correct this answer").click()
    answer.get_by_role("button", name="Save correction").click()
    assert "Nothing is changed" in answer.get_by_role("alert").inner_text()
    page.keyboard.press("Escape")
    assert not answer.locator("form").is_visible()
    assert before == (lines_of(session.run_dir.feedback), lines_of(session.run_dir.reviews))


def test_compare_shows_the_answers_of_two_models(page: Any, url: str) -> None:
    page.goto(url)
    page.check("#compare")
    ask(page)
    assert page.locator(".answer h3").all_inner_texts() == ["run", "run-base"]
    assert page.locator(".answer .text").all_inner_texts() == ["at noon [1]"] * 2


def test_a_run_without_tuned_components_says_why_it_compares_nothing(
    page: Any, session: Session, llm: Says
) -> None:
    with live(served_models(session, llm)) as address:
        page.goto(address)
        assert page.locator("#compare").is_disabled()
        assert page.locator("#compare-why").is_visible()


def test_a_follow_up_sends_the_conversation(page: Any, url: str, llm: Says) -> None:
    llm.reply = lambda request: "Who built the mill?" if request.id == "rewrite" else "Ola [1]"
    page.goto(url)
    ask(page)
    with page.expect_request("**/v1/chat/completions") as sent:
        answer = ask(page, "And the mill?")
    assert sent.value.post_data_json["messages"] == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Ola [1]"},
        {"role": "user", "content": "And the mill?"},
    ]
    assert "Searched for: Who built the mill?" in answer.inner_text()
    page.click("#new")
    assert page.locator(".answer").count() == 0
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page)
    assert len(sent.value.post_data_json["messages"]) == 1


def test_an_answer_can_be_stopped(page: Any, url: str, llm: Says) -> None:
    llm.reply, llm.pause = "word " * 500, 0.02
    page.goto(url)
    page.fill("#question", QUESTION)
    page.press("#question", "Enter")
    page.get_by_text("word word word").wait_for()
    page.click("#stop")
    page.get_by_text("Stopped.").wait_for()
    assert page.locator(".thumb").count() == 0 and is_focused(page, "#question")
    page.wait_for_timeout(200)
    assert llm.num_open == 0


def test_a_failed_answer_says_why_and_can_be_asked_again(
    page: Any, url: str, llm: Says, seen: Seen
) -> None:
    llm.error = "out of memory"
    page.goto(url)
    answer = ask(page)
    assert "out of memory" in answer.get_by_role("alert").inner_text()
    assert all("status of 502" in complaint for complaint in seen.complaints)
    seen.complaints.clear()
    llm.error = None
    answer.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".mark")
    assert page.locator(".answer").count() == 1


def test_hostile_text_is_shown_and_runs_nothing(page: Any, url: str, llm: Says) -> None:
    llm.reply = f"{EVIL} [1]"
    page.goto(url)
    answer = ask(page, f"lighthouse {EVIL}")
    assert page.inner_text(".question") == f"lighthouse {EVIL}"
    assert answer.locator(".text").inner_text() == llm.reply
    answer.get_by_role("button", name="Correct this answer").click()
    answer.locator(".mark").click()
    assert page.inner_text("#drawer-title") == HOSTILE["title"]
    assert page.inner_text("#drawer .chunk") == HOSTILE["text"]
    assert page.locator("main img, main script, dialog img, dialog script").count() == 0
    assert page.title() == "Chat: run"
    page.goto(page.locator("#drawer a").get_attribute("href"))
    assert page.inner_text("h1") == HOSTILE["title"] == page.title()
    assert page.inner_text("mark#cited") == HOSTILE["text"]
    assert page.locator("img, script").count() == 0


@pytest.mark.parametrize("kind", ["JSON", "Markdown"])
def test_the_conversation_is_exported(page: Any, url: str, kind: str) -> None:
    page.goto(url)
    ask(page)
    page.click("#export summary")
    with page.expect_download() as download:
        page.click(f"text=Export as {kind}")
    text = download.value.path().read_text(encoding="utf-8")
    if kind == "JSON":
        [turn] = json.loads(text)["turns"]
        assert (turn["question"], turn["answers"][0]["answer"]) == (QUESTION, "at noon [1]")
    else:
        assert f"## {QUESTION}" in text and f"/documents/{DOCUMENTS[0]['id']}" in text


def test_the_key_is_asked_for_once(page: Any, session: Session, llm: Says, seen: Seen) -> None:
    with live(served_models(session, llm), key="open sesame") as address:
        page.goto(f"{address}/documents/mill.md")
        assert urlsplit(page.url).path == "/login" and is_focused(page, "#key")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        assert all("status of 401" in complaint for complaint in seen.complaints)
        seen.complaints.clear()
        page.fill("#key", "open sesame")
        page.press("#key", "Enter")
        page.wait_for_url(f"{address}/")
        ask(page).locator(".mark").wait_for()
        assert "sesame" not in json.dumps(page.context.cookies())
        page.context.clear_cookies()
        assert ask(page).get_by_role("link", name="Sign in").is_visible()
        seen.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_never_scrolls_sideways(
    page: Any, url: str, llm: Says, scheme: str
) -> None:
    llm.reply = f"It is {LONG} [1]"
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(url)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground[4:-1]}]")) < 150) == (scheme == "dark")
    assert page.evaluate(TOO_WIDE) == []
    page.check("#compare")
    answer = ask(page, f"harbour {LONG}")
    answer.get_by_role("button", name="Correct this answer").click()
    page.click("#export summary")
    assert page.evaluate(TOO_WIDE) == []
    answer.locator(".mark").click()
    assert page.evaluate(TOO_WIDE) == []
    page.keyboard.press("Escape")
    assert not page.locator("#drawer").is_visible()
    for path in ("/login", "/documents/wide.md"):
        page.goto(url + path)
        assert page.evaluate(TOO_WIDE) == []
