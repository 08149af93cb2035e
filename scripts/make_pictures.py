"""Pictures of the demo's report and chat page for the README, light and dark.

python scripts/make_pictures.py      # in the folder of a finished demo; --to docs/pictures

It needs Playwright and a chromium on the PATH. The pages are those that a user sees: the report is
opened from its file, and the chat page of a running `rag-ft serve` is asked a question.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG, REPORT = "configs/demo.yaml", Path("runs/demo/report.html")
QUESTION = "Where can visitors see the Little Crown?"
WINDOW, TALL = {"width": 1100, "height": 620}, {"width": 1100, "height": 900}


def main(argv: list[str] | None = None) -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description="pictures of the report and of the chat page")
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"), metavar="FOLDER")
    to = parser.parse_args(argv).to
    from playwright.sync_api import sync_playwright

    to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, served() as address:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for theme in ("light", "dark"):
            page = chromium.new_page(viewport=TALL, color_scheme=theme)
            page.goto(REPORT.resolve().as_uri())
            save(page, to / f"report-{theme}.webp")
            page.set_viewport_size(WINDOW)
            ask(page, address)
            save(page, to / f"chat-{theme}.webp")
            page.close()
        chromium.close()


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of a server over the demo, which ends with the block."""
    words = [sys.executable, "-m", "rag_ft", "serve", CONFIG, "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        yield server.stdout.readline().strip()  # said when it can be reached
    finally:
        server.terminate()
        server.wait()


def ask(page: Any, address: str) -> None:
    """Asks the chat page with and without tuning, and opens the first chunk that is cited."""
    page.goto(address)
    page.check("#compare")
    page.fill("#question", QUESTION)
    page.keyboard.press("Enter")
    # Not the Stop button: beside a short answer it comes and goes unseen.
    complete = page.locator("#status", has_text="The answer is complete.")
    complete.wait_for(state="attached", timeout=120_000)
    page.locator(".mark").first.click()
    page.locator("#drawer").wait_for()


def save(page: Any, path: Path) -> None:
    """What the page shows, as a small file."""
    from PIL import Image

    page.wait_for_timeout(300)  # a drawer slides in
    Image.open(io.BytesIO(page.screenshot())).save(path, quality=80, method=6)


if __name__ == "__main__":
    main()
