"""The review page in a real browser, by keyboard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from live_server import lines_of, running
from review_browser import (
    MARKS,
    app_of,
    opened,
    press,
    question,
    reviews,
)
from review_browser import browser as browser
from review_browser import context as context
from review_browser import page as page
from review_browser import seen as seen
from review_browser import session as session
from review_browser import url as url
from review_run import make_review_run
from test_pages import TOO_WIDE, Seen

from rag_ft.review.store import ReviewStore
from rag_ft.session import Session

pytestmark = MARKS


def test_fifty_decisions_by_keyboard_are_each_on_disk_before_the_next_card(
    page: Any, url: str, session: Session
) -> None:
    opened(page, url)
    keys = (["a"], ["r", "1"], ["a"], ["s"], ["r", "6"])
    decisions = ("accept", "reject", "accept", "unsure", "reject")
    for number in range(50):
        shown, before = question(page), len(reviews(session))
        assert before == number
        for key in keys[number % 5]:
            page.keyboard.press(key)
        # The next card shows: its predecessor's line must be there already.
        page.wait_for_function(
            "(q) => document.querySelector('#card h2').innerText !== q", arg=shown
        )
        rows = reviews(session)
        assert len(rows) == number + 1
        assert (rows[-1]["question"], rows[-1]["decision"]) == (shown, decisions[number % 5])
        assert rows[-1]["reviewer"] == "ann"
    assert [row["reason"] for row in reviews(session)[:5]] == [
        *(None, "not grounded", None, None, "other")
    ]
    assert "50 decided" in page.inner_text("#count")


def test_a_reload_loses_nothing_and_shows_what_is_left(
    page: Any, url: str, session: Session
) -> None:
    opened(page, url)
    total = int(page.inner_text("#count").split(" of ")[1].split(" ")[0])
    press(page, "a")
    press(page, "a")
    second = question(page)
    page.reload()
    page.wait_for_selector("#card h2")
    assert question(page) == second and f"1 of {total - 2}" in page.inner_text("#count")
    page.select_option("[name=status]", "mine")
    page.wait_for_selector(".verdict.accept")
    assert "1 of 2" in page.inner_text("#count")


def test_a_killed_server_loses_nothing(page: Any, seen: Seen, tmp_path: Path) -> None:
    session = make_review_run(tmp_path / "run", 3)
    config = tmp_path / "mills.yaml"
    config.write_text(yaml.safe_dump({"run": {"dir": str(tmp_path / "run")}}))
    words = [sys.executable, "-m", "rag_ft", "review", str(config), "--port", "0"]
    for number in range(2):
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        try:
            assert server.stdout
            opened(page, server.stdout.readline().strip())
            assert "0 decided" in page.inner_text("#count")
            press(page, "a")
            assert len(reviews(session)) == number + 1
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait(timeout=30)
        with session.run_dir.reviews.open("a") as out:
            out.write('{"pair_id": "half')  # as a writer that was killed leaves it
        page.goto("about:blank")
        # Cards that the page was fetching when the server died.
        seen.complaints[:] = [line for line in seen.complaints if "ERR_" not in line]
    assert len({row["key"] for row in reviews_until_half(session)}) == 2


def reviews_until_half(session: Session) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(session.run_dir.reviews)[:-1]]


def test_two_reviewers_at_once_do_not_overwrite_each_other(browser: Any, session: Session) -> None:
    with running(app_of(session, overlap=1.0)) as address:
        contexts = [browser.new_context() for _ in range(2)]
        pages = [opened(context.new_page(), address) for context in contexts]
        for tab, name in zip(pages, ("ann", "bob"), strict=True):
            tab.fill("#reviewer", name)
            tab.press("#reviewer", "Tab")
            tab.wait_for_function("() => document.body.dataset.busy === 'no'")
            tab.focus("#card")
        for _ in range(10):
            pages[0].keyboard.press("a")
            pages[1].keyboard.press("s")
            for tab in pages:
                tab.wait_for_function("() => document.body.dataset.busy === 'no'")
        for context in contexts:
            context.close()
    store = ReviewStore(session.run_dir.reviews)
    both = [store.latest(key) for key in store.keys]
    assert len(both) == 10 and all(set(each) == {"ann", "bob"} for each in both)
    assert {each["ann"].decision for each in both} == {"accept"}
    assert {each["bob"].decision for each in both} == {"unsure"}


def test_what_another_reviewer_decides_meanwhile_is_skipped(
    page: Any, browser: Any, session: Session
) -> None:
    with running(app_of(session, overlap=0.0)) as address:
        opened(page, address)
        second = httpx.get(f"{address}/review/queue").json()["numbers"][1]
        body = {"reviewer": "bob", "numbers": [second], "decision": "accept"}
        assert httpx.post(f"{address}/review/decisions", json=body).is_success
        press(page, "a")
        assert len(reviews(session)) == 2
        third = httpx.get(f"{address}/review/queue", params={"reviewer": "ann"}).json()["numbers"]
        shown = httpx.get(f"{address}/review/cards/{third[0]}").json()["question"]
        assert question(page) == shown


def test_undo_takes_the_last_decision_back(page: Any, url: str, session: Session) -> None:
    opened(page, url)
    first = question(page)
    press(page, "a")
    press(page, "u")
    assert question(page) == first
    assert [row["decision"] for row in reviews(session)] == ["accept", "undo"]
    assert "0 decided" in page.inner_text("#count")


def test_undo_works_after_a_reload(page: Any, url: str, session: Session) -> None:
    opened(page, url)
    first = question(page)
    press(page, "a", "a")
    page.reload()
    page.wait_for_selector("#card h2")
    press(page, "u", "u")
    assert question(page) == first
    rows = reviews(session)
    assert [row["decision"] for row in rows] == ["accept", "accept", "undo", "undo"]
    assert [row["key"] for row in rows[:2]] == [row["key"] for row in reversed(rows[2:])]


def test_an_error_of_the_server_is_said_and_the_card_stays(
    page: Any, seen: Seen, session: Session
) -> None:
    with running(app_of(session)) as address:
        opened(page, address)
        first = question(page)
        page.route("**/review/decisions", lambda route: route.abort())
        press(page, "a")
        assert "Nothing was saved" in page.inner_text("#status") and question(page) == first
        page.unroute("**/review/decisions")
        assert all("ERR_FAILED" in complaint for complaint in seen.complaints)
        seen.complaints.clear()
        press(page, "a")
        assert question(page) != first and len(reviews(session)) == 1


def test_the_key_guards_the_page_and_its_routes(page: Any, session: Session) -> None:
    with running(app_of(session, key="open sesame")) as address:
        body = {"reviewer": "eve", "numbers": [0], "decision": "accept"}
        assert httpx.post(f"{address}/review/decisions", json=body).status_code == 401
        assert httpx.get(f"{address}/review/queue").status_code == 401
        page.goto(address)
        page.fill("#key", "open sesame")
        page.press("#key", "Enter")
        page.wait_for_selector("#card h2")
        assert reviews(session) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(page: Any, url: str, scheme: str) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme=scheme)
    opened(page, url)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground[4:-1]}]")) < 150) == (scheme == "dark")
    assert page.evaluate(TOO_WIDE) == []
    page.click("#rate")
    assert page.evaluate(TOO_WIDE) == []
    page.click("#rate")
    page.click("[data-do=reject]")
    assert page.evaluate(TOO_WIDE) == []
    page.click("[data-do=cancel]")
    page.click("#show-filters")
    assert page.evaluate(TOO_WIDE) == []
    page.click("#show-filters")
    page.click("[data-do=edit]")
    assert page.evaluate(TOO_WIDE) == []


PRESSED = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
FILTERED = """{
    const text = document.querySelector('[name=text]');
    text.value = '%s';
    text.dispatchEvent(new Event('input', {bubbles: true}));
}"""


def took(page: Any, action: str) -> float:
    """Milliseconds from an action to the frame with the next card, in the page's own clock."""
    page.evaluate(
        """() => {
            const began = performance.now();
            window.took = null;
            new MutationObserver((_, seen) => {
                seen.disconnect();
                requestAnimationFrame(() => { window.took = performance.now() - began; });
            }).observe(document.querySelector('#card'), {childList: true});
            ACTION;
        }""".replace("ACTION", action)
    )
    page.wait_for_function("() => window.took !== null")
    page.wait_for_function("() => document.body.dataset.busy === 'no'")
    return float(page.evaluate("window.took"))


def test_the_page_reacts_within_100_ms_at_20000_pairs(page: Any, tmp_path: Path) -> None:
    """The median of 30."""
    session = make_review_run(tmp_path, 4000)
    times: dict[str, list[float]] = {"accept": [], "undo": [], "filter": []}
    with running(app_of(session)) as address:
        opened(page, address)
        assert "of 20000" in page.inner_text("#count")
        for _ in range(30):
            times["accept"].append(took(page, PRESSED % "a"))
            times["undo"].append(took(page, PRESSED % "u"))
            took(page, PRESSED % "a")
        for number in range(30):
            times["filter"].append(took(page, FILTERED % f"mill {number + 1}"))
    medians = {}
    for name, each in times.items():
        medians[name] = sorted(each)[15]
        print(f"{name}: median {medians[name]:.0f} ms, worst {max(each):.0f} ms")
    assert max(medians.values()) < 100
