"""The question browser: its data, and the page in a real browser."""

from __future__ import annotations

import html
import html.parser
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import QUICK, make_synthetic_run, reported_with

from rag_ft.config import Config
from rag_ft.report.browser import (
    BLIND_ABSTENTION,
    EXACT,
    INVENTED,
    NEEDLESS_ABSTENTION,
    RIGHT_ABSTENTION,
    UNJUDGED_ABSTENTION,
    add_ranks,
    reason,
    script_json,
)
from rag_ft.run_dir import RunDir
from rag_ft.schema import Hit
from rag_ft.session import Session
from rag_ft.stages import report
from rag_ft.storage import write_jsonl

EVIL = (
    "</script><script>document.title='pwned'</script>"
    "<img src=x onerror=document.title='pwned'> {thing} & \"q\" 'q'"
)
CHROMIUM = Path("/usr/bin/chromium")


def test_json_in_a_script_cannot_end_it() -> None:
    data = {"text": "</script><!-- & \u2028"}
    text = script_json(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data


def test_every_answer_says_why_it_has_its_score() -> None:
    right = {"em": 1.0, "f1": 1.0, "contains": 1.0, "abstained": 0.0}
    abstained = {"em": 0.0, "f1": 0.0, "contains": 0.0, "abstained": 1.0}
    assert reason(right, answerable=True, seen=True) == EXACT
    assert reason(right, answerable=False, seen=True) == INVENTED
    assert reason(abstained, answerable=False, seen=False) == RIGHT_ABSTENTION
    assert reason(abstained, answerable=True, seen=True) == NEEDLESS_ABSTENTION
    assert reason(abstained, answerable=True, seen=False) == BLIND_ABSTENTION
    assert reason(abstained, answerable=True, seen=None) == UNJUDGED_ABSTENTION
    assert reason(abstained, answerable=False, seen=None) == RIGHT_ABSTENTION


def test_a_shown_chunk_says_where_it_stands_in_every_ranking() -> None:
    answer = ["said", 0, 0.0, 3, [1], []]
    data = {
        "chunks": [{"id": "a#0"}, {"id": "a#1"}],
        "questions": [{"id": "q1", "a": {0: answer}}, {"id": "q2", "a": {}}],
    }
    hits = {
        "base": [Hit("q1", 1, "a#0", 0.9), Hit("q1", 2, "a#1", 0.51234), Hit("q2", 1, "a#1", 1.0)],
        "lexical": [Hit("q1", 7, "a#1", 12.3456), Hit("q9", 1, "a#1", 1.0)],
    }
    add_ranks(data, hits)
    assert data["rankings"] == ["base", "lexical"]
    assert data["questions"][0]["r"] == {1: {0: [2, 0.512], 1: [7, 12.3]}}
    assert data["questions"][1]["r"] == {}


PROBE = """<script>
const failures = [];
const say = (event) => failures.push(event.message || "load " + event.target.outerHTML);
addEventListener("error", say, true);
for (const level of ["error", "warn"])
  console[level] = (...parts) => failures.push(parts.join(" "));
addEventListener("securitypolicyviolation",
  (event) => failures.push("blocked " + event.blockedURI));
function choose(id, value) {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("change"));
}
addEventListener("load", () => {
  const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const cards = document.querySelectorAll(".card").length;
  choose("show", "worse");
  const worse = document.getElementById("found").textContent;
  choose("show", "all");
  document.querySelectorAll(".card details").forEach((box) => { box.open = true; });
  setTimeout(() => {
    const [marks, images] = ["mark", "img"].map((name) => document.querySelectorAll(name).length);
    const paper = getComputedStyle(document.body).backgroundColor;
    const seen = {failures, requests, title: document.title, cards, worse, marks, images, paper};
    document.body.dataset.probe = JSON.stringify(seen);
  }, 300);
});
</script>"""
FRAME = """<iframe width="390" height="844" srcdoc="{}"></iframe><script>
addEventListener("load", () => {{
  const root = document.querySelector("iframe").contentDocument.documentElement;
  document.body.dataset.probe = JSON.stringify({{wide: root.scrollWidth, width: root.clientWidth,
    cards: root.querySelectorAll(".card").length}});
}});
</script>"""
FOREIGN_FRAME = """<iframe width="390" height="844" srcdoc="{}"></iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const left = (node, at) => {{
    const range = page.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    return range.getBoundingClientRect().left;
  }};
  const whys = () =>
    [...page.querySelectorAll(".why")].map((box) => box.textContent.split(" · ")[0]);
  page.querySelectorAll(".card details").forEach((box) => {{ box.open = true; }});
  setTimeout(() => {{
    const question = page.querySelector(".q").firstChild;
    const marks = [...page.querySelectorAll("mark")].map((mark) => mark.textContent);
    const seen = {{wide: root.scrollWidth, width: root.clientWidth, marks,
      first: left(question, 0), last: left(question, question.length - 1), why: whys()}};
    const right = page.getElementById("right");
    right.value =
      [...right.options].find((option) => option.text === "oracle_tuned").value;
    right.dispatchEvent(new Event("change"));
    seen.why.push(...whys());
    document.body.dataset.probe = JSON.stringify(seen);
  }}, 300);
}});
</script>"""


def open_in_browser(page: Path, folder: Path, *flags: str) -> str:
    """The page's DOM after a few seconds in headless chromium."""
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=4000",
        *flags,
        "--dump-dom",
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=240).stdout


def probe(text: str, folder: Path, *flags: str) -> dict[str, Any]:
    """What a probe inside the page saw."""
    page = folder / "probed.html"
    page.write_text(text)
    found = re.search(r'data-probe="([^"]*)"', open_in_browser(page, folder, *flags))
    assert found, "the page did not finish loading"
    return json.loads(html.unescape(found[1]))


def with_probe(text: str) -> str:
    """The page with the probe in it. The policy allows that script; the rest of it stays."""
    assert text.count("script-src 'sha256-") == 1
    return re.sub(r"script-src [^;]*", "script-src 'unsafe-inline'", text, count=1).replace(
        "<style>", PROBE + "<style>", 1
    )


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_a_browser_shows_the_page_in_dark_mode_without_an_error_or_a_request(
    tmp_path: Path,
) -> None:
    run_dir = reported_with(tmp_path / "run", title=EVIL)
    page, dark = (
        with_probe(run_dir.report_html.read_text()),
        "--blink-settings=preferredColorScheme=0",
    )
    seen = probe(page, tmp_path, "--window-size=1280,900", dark)
    assert (seen["failures"], seen["requests"], seen["images"]) == ([], [], 0)
    assert "pwned" not in seen["title"]
    assert seen["cards"] == 25
    assert seen["marks"] > 0
    assert re.fullmatch(r"\d+ of \d+ questions", seen["worse"])
    assert seen["paper"] == "rgb(18, 22, 28)"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_the_browser_test_would_see_an_error_and_a_request(
    reported: tuple[Config, RunDir], tmp_path: Path
) -> None:
    text = with_probe(reported[1].report_html.read_text())
    seen = probe(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'), tmp_path)
    assert seen["requests"] and seen["failures"]


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_the_page_as_written_runs_under_its_own_policy_and_fits_a_phone(
    reported: tuple[Config, RunDir], tmp_path: Path
) -> None:
    seen = probe(FRAME.format(html.escape(reported[1].report_html.read_text())), tmp_path)
    assert seen["wide"] <= seen["width"] <= 390
    assert seen["cards"] == 25


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_a_phone_shows_emoji_long_words_and_right_to_left_text_as_they_should_be(
    tmp_path: Path,
) -> None:
    opening = "\U0001f600\U0001f600\U0001f600 This page tells about the {thing}."
    config, run_dir = make_synthetic_run(
        tmp_path / "run", num_documents=3, opening=opening, unplaced=5, **QUICK
    )
    rows = [json.loads(line) for line in run_dir.qa.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["question"] = f"\u0645\u0646 \u0647\u0648 (The Crown {number})\u061f"
        row["answers"] = [*row["answers"], "a" * 400]
    write_jsonl(run_dir.qa, rows)
    report.run(Session(config, run_dir))
    seen = probe(FOREIGN_FRAME.format(html.escape(run_dir.report_html.read_text())), tmp_path)
    assert seen["wide"] <= seen["width"] <= 390
    answers = {row["answers"][0] for row in rows}
    assert seen["marks"] and {mark for mark in seen["marks"] if len(mark) > 2} <= answers
    assert (
        seen["last"] < seen["first"]
    )  # a question mark that ends what is read from the right stands on the left
    assert "abstained; the gold chunk is not known" in seen["why"]
    assert "not asked: the gold chunk is not known" in seen["why"]
