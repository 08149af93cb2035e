"""Editing, adding, filters and buttons of the review page, in a real browser."""

from __future__ import annotations

from typing import Any

from review_browser import (
    MARKS,
    opened,
    press,
    question,
    ready,
    reviews,
)
from review_browser import browser as browser
from review_browser import context as context
from review_browser import page as page
from review_browser import seen as seen
from review_browser import session as session
from review_browser import url as url

from rag_ft.session import Session

pytestmark = MARKS


def test_an_edit_is_checked_at_once_and_its_evidence_is_selected(
    page: Any, url: str, session: Session
) -> None:
    opened(page, url)
    page.fill("#text", '"part 1 of mill 7"')
    page.wait_for_function("() => document.querySelector('#card h2').innerText.includes('mill 7')")
    page.press("#text", "Enter")
    press(page, "e")
    page.keyboard.type("a")  # keys are off: it is a letter
    assert page.locator(".write").is_visible() and reviews(session) == []
    page.fill("[name=question]", "Who built it?")
    page.wait_for_selector(".write .fail")
    assert "'it'" in page.inner_text(".write .fail")
    page.fill("[name=question]", "Whose work is part 1 of mill 7?")
    page.fill("[name=answers]", "Per Holm\nHolm")
    page.wait_for_function("() => !document.querySelector('.write .fail')")
    page.evaluate(
        """() => {
            const chunk = document.querySelector('[data-chunk]');
            const walker = document.createTreeWalker(chunk, NodeFilter.SHOW_TEXT);
            let node = walker.nextNode();
            while (node && !node.data.includes('Per Holm')) node = walker.nextNode();
            const at = node.data.indexOf('Per Holm');
            document.getSelection().setBaseAndExtent(node, at, node, at + 'Per Holm'.length);
        }"""
    )
    page.wait_for_function("() => document.querySelector('[name=evidence]').value === 'Per Holm'")
    page.focus("[name=question]")
    ready(page).keyboard.press("Control+Enter")
    page.wait_for_selector(".write", state="detached")
    [row] = reviews(session)
    assert (row["decision"], row["answers"]) == ("edit", ["Per Holm", "Holm"])
    chunks = {chunk.id: chunk for chunk in session.chunks}
    [place] = row["evidence"]
    chunk = chunks[place["chunk_id"]]
    assert chunk.text[place["start"] - chunk.start : place["end"] - chunk.start] == "Per Holm"


def test_evidence_can_be_typed(page: Any, url: str, session: Session) -> None:
    opened(page, url)
    page.fill("#text", '"part 1 of mill 7"')
    page.wait_for_function("() => document.querySelector('#card h2').innerText.includes('mill 7')")
    page.press("#text", "Enter")
    press(page, "e")
    page.fill("[name=evidence]", "not in the chunk")
    page.wait_for_selector(".write .fail")
    assert "does not contain" in page.inner_text(".hint")
    page.fill("[name=evidence]", "Per Holm in 1701")
    page.wait_for_function("() => !document.querySelector('.write .fail')")
    assert page.inner_text("#chunks mark") == "Per Holm in 1701"
    ready(page).keyboard.press("Control+Enter")
    page.wait_for_selector(".write", state="detached")
    [row] = reviews(session)
    assert row["decision"] == "edit" and len(row["evidence"]) == 1


def test_escape_leaves_an_edit_and_nothing_is_written(
    page: Any, url: str, session: Session
) -> None:
    opened(page, url)
    first = question(page)
    press(page, "e")
    page.fill("[name=question]", "Something else?")
    page.keyboard.press("Escape")
    assert question(page) == first and reviews(session) == []
    press(page, "j")
    assert question(page) != first


def test_a_question_of_ones_own_becomes_a_card(page: Any, url: str, session: Session) -> None:
    opened(page, url)
    first = question(page)
    press(page, "n")
    page.keyboard.type("When was part 0 of this mill finished?")
    page.fill("[name=answers]", "1700")
    ready(page).keyboard.press("Control+Enter")
    page.wait_for_selector(".write", state="detached")
    [row] = reviews(session)
    assert (row["decision"], row["answers"], row["source"]) == ("add", ["1700"], "review")
    assert question(page) == first
    page.select_option("[name=where]", "added")
    page.select_option("[name=status]", "mine")
    page.wait_for_selector(".verdict.add")
    assert question(page) == "When was part 0 of this mill finished?"
    press(page, "u")
    assert reviews(session)[-1]["decision"] == "undo"
    page.select_option("[name=status]", "all")
    page.wait_for_selector("#empty:not([hidden])")


def test_the_judges_opinion_is_hidden_until_the_decision(
    page: Any, url: str, session: Session
) -> None:
    opened(page, url)
    page.select_option("[name=where]", "rejected")
    page.wait_for_function("() => document.querySelector('#card h2').innerText.startsWith('When')")
    text = page.inner_text("#main")
    assert "1800" not in text and "rejected" not in text
    page.focus("#card")
    press(page, "a")
    press(page, "k")
    page.wait_for_selector(".verdict.accept")
    assert "answered: 1800" in page.inner_text("#main")


def test_all_cards_of_a_filter_are_decided_after_a_question(
    page: Any, url: str, session: Session
) -> None:
    opened(page, url)
    page.fill("[name=document]", "d3.md")
    page.wait_for_function("() => document.querySelector('#count').innerText.startsWith('1 of 5')")
    page.focus("#card")
    ready(page).keyboard.press("Shift+A")
    page.wait_for_selector("#bulk[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#bulk", state="hidden")
    assert reviews(session) == []
    ready(page).keyboard.press("Shift+A")
    page.wait_for_selector("#bulk[open]")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#count').innerText.includes('5 decided')")
    assert {row["document_id"] for row in reviews(session)} == {"d3.md"}
    press(page, "u")
    assert [row["decision"] for row in reviews(session)] == ["accept"] * 5 + ["undo"] * 5


def test_a_filter_that_changes_while_cards_are_fetched_counts(page: Any, url: str) -> None:
    opened(page, url)
    page.evaluate(
        """() => ["mill", "mill 3", '"part 0 of mill 2?"'].forEach((words) => {
            const text = document.querySelector("#text");
            text.value = words;
            text.dispatchEvent(new Event("input", {bubbles: true}));
        })"""
    )
    page.wait_for_function("() => document.querySelector('#count').innerText.startsWith('1 of 1 ')")
    assert "part 0 of mill 2?" in question(page)


def test_the_evidence_is_marked_and_neighbours_come_on_demand(page: Any, url: str) -> None:
    opened(page, url)
    page.fill("#text", '"part 0 of mill 2?"')
    page.wait_for_function("() => document.querySelector('#card h2').innerText.includes('mill 2')")
    page.press("#text", "Enter")
    marked = "Part 0 of mill 2 was built by Ola Brand in 1700."
    assert page.inner_text("#chunks mark") == marked
    press(page, "b")
    assert "begins here" in page.inner_text("#before")
    assert "Part 4 of mill 2" in page.inner_text("#after")


def test_every_action_has_a_button(page: Any, url: str, session: Session) -> None:
    opened(page, url)
    page.click("[data-do=accept]")
    page.wait_for_function("() => document.querySelector('#count').innerText.includes('1 decided')")
    page.click("[data-do=reject]")
    page.click("text=Ambiguous")
    page.wait_for_function("() => document.querySelector('#count').innerText.includes('2 decided')")
    assert [row["reason"] for row in reviews(session)] == [None, "ambiguous"]
    page.click("#show-help")
    assert page.locator("#help").is_visible()
