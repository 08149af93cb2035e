"""HTML as it is found: end tags left out, layout tables, odd declarations."""

from __future__ import annotations

import time

import pytest
from document_files import text_of

from rag_ft.documents.formats.html import read_html


def lines(html: str) -> list[str]:
    return [line for line in text_of(read_html(html.encode())).split("\n") if line]


def test_cells_and_rows_may_leave_out_their_end_tags() -> None:
    assert lines("<table><tr><td>Name<td>Age<tr><td>Kittam<td>1820</table>after") == [
        "Name | Age",
        "Kittam | 1820",
        "after",
    ]
    parts = "<thead><tr><th>Name\n<th>Age\n<tbody><tr><td>Kittam\n<td>1820\n"
    assert lines(f"<table>\n{parts}</table>") == ["Name | Age", "Kittam | 1820"]
    assert lines("<ul><li>one<li>two</ul><dl><dt>a<dd>b</dl>") == ["- one", "- two", "a", "b"]


def test_a_table_inside_a_layout_cell_is_a_table_of_its_own() -> None:
    inner = "<table><tr><td>Pump<td>12 bar<tr><td>Crane<td>3 t</table>"
    assert lines(f"<table><tr><td>menu<td>{inner}</table>") == [
        "menu",
        "Pump | 12 bar",
        "Crane | 3 t",
    ]


@pytest.mark.parametrize(
    "piece",
    [
        "<tr><td>Pump<td>12 bar\n",
        "<table><tr><td>a",
        "<td><h1>a",
        "<a href='",
        "<b>a",
        "<div><h2>a</h2>",
    ],
)
def test_unclosed_elements_take_linear_time(piece: str) -> None:
    begin = time.process_time()
    read_html((piece * 5000).encode())
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("charset", ["undefined", "no-such", "hex", "utf-16", "\u00e9"])
def test_a_page_that_declares_nonsense_is_read_all_the_same(charset: str) -> None:
    filling = "<p>The hall opens at nine.</p>" * 9
    raw = f'<meta charset="{charset}"><p>caf\u00e9</p>{filling}'
    assert text_of(read_html(raw.encode("latin-1"))).startswith("caf\u00e9\n")
    assert text_of(read_html(raw.encode())).startswith("caf\u00e9\n")


def test_japanese_in_seven_bits_is_read_as_declared() -> None:
    raw = "<meta charset=iso-2022-jp><title>港</title><p>日本語のテキスト"
    content = read_html(raw.encode("iso-2022-jp"))
    title, text = content.title, text_of(content)
    assert (title, text) == ("港", "日本語のテキスト")
    assert text_of(read_html(raw.encode())) == "日本語のテキスト", "declared, but UTF-8"


@pytest.mark.parametrize(
    "odd", ["<![ y ]>", "<![if IE]>", "<!DOCTYPE [", "<!ELEMENT x>", "<?php echo ?>", "</ >", "<>"]
)
def test_odd_markup_costs_no_more_than_itself(odd: str) -> None:
    text = text_of(read_html(f"<p>see {odd} here</p><p>and there</p>".encode()))
    assert "see" in text and "and there" in text


def test_html_keeps_blocks_lists_and_tables_and_drops_scripts_and_navigation() -> None:
    content = read_html(
        b"<html><head><title>Site | Rules</title><style>p{}</style></head><body><nav>Home</nav>"
        b"<h1>House <i>rules</i></h1>"
        b"<script>var x='</p>';</script><!-- hidden --><p>First\n para<b>graph</b>.</p>"
        b"<p>Line<br>break &amp; more</p><ul><li><p>one</p></li><li>two</li></ul>"
        b"<table><tr><th>Day</th><th>Time</th></tr><tr><td>Mon</td><td><p>9</p></td></tr></table>"
        b"<pre>a\n  b</pre></body></html>"
    )
    assert content.title == "House rules"
    text = text_of(content)
    assert text.startswith("House rules\n\nFirst paragraph.\n\nLine\nbreak & more\n\n- one\n")
    assert (
        "\n- two\n" in text
        and "\nDay | Time\n" in text
        and "\nMon | 9\n" in text
        and text.endswith("\na\n  b")
    )
    assert not any(word in text for word in ("Home", "var", "hidden", "p{}", "Site"))


def test_html_is_read_in_the_encoding_it_declares() -> None:
    raw = '<meta charset="koi8-r"><title>Почта</title><p>Индекс</p>'.encode("koi8-r")
    content = read_html(raw)
    assert (content.title, text_of(content)) == ("Почта", "Индекс")


def test_a_table_that_lays_out_the_page_is_no_table_of_facts() -> None:
    content = read_html(
        b"<table><tr><td>menu<td><h1>House<br>rules</h1><p>One.</p><p>Two.</p></table>"
    )
    assert content.title == "House rules" and "One.\n\nTwo." in text_of(content)
