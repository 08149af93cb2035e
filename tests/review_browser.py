"""The review page in headless Chromium: fixtures and what tests do with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import lines_of, running
from review_run import make_review_run, review_state
from test_pages import Seen

from rag_ft.serving.guard import Key
from rag_ft.serving.review_app import make_review_app
from rag_ft.session import Session

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def seen(context: Any) -> Iterator[Seen]:
    seen = Seen(context)
    yield seen
    assert seen.complaints == [] and seen.hosts <= {"127.0.0.1", None}


@pytest.fixture
def page(context: Any, seen: Seen) -> Any:
    return context.new_page()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_review_run(tmp_path, 20)


@pytest.fixture
def url(session: Session) -> Iterator[str]:
    with running(app_of(session)) as address:
        yield address


def app_of(session: Session, key: str | None = None, **deck: Any) -> Any:
    state = review_state(session, **deck)
    return make_review_app(state, session.config.serve, Key(key) if key else None)


def opened(page: Any, url: str) -> Any:
    page.goto(url)
    page.wait_for_selector("#card h2")
    return page


def question(page: Any) -> str:
    return str(page.inner_text("#card h2"))


def reviews(session: Session) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(session.run_dir.reviews)]


def ready(page: Any) -> Any:
    """The page, when nothing is being loaded or saved: until then keys count for nothing, since the
    next card is not shown yet."""
    page.wait_for_function("() => document.body.dataset.busy !== 'yes'")
    return page


def press(page: Any, *keys: str) -> None:
    """Presses keys, each when the page has done what the one before asked for."""
    for key in keys:
        ready(page).keyboard.press(key)
        page.wait_for_function("() => document.body.dataset.busy === 'no'")
