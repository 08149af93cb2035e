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


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        # What is left out ends where its own end tag is.
        ("<nav><ul><li><a>Home</nav><p>kept</p>", "kept"),
        ("<table><tr><td><button><b>Go</button><p>kept</p></table>", "kept"),
        ("<noscript><img><noscript></noscript><p>kept</p></noscript>", "kept"),
        ("<iframe src=x><p>no</p></iframe><p>kept</p>", "kept"),
        ("<nav><p>never closed</p><h1>T</h1>", "never closed\n\nT"),
        ("a<!-- <nav> -->b</nav> kept", "ab kept"),
        # Blocks part words.
        ("<fieldset><legend>Fee</legend>Cash</fieldset>", "Fee\n\nCash"),
        ("<center>a</center><center>b</center><search>c</search>", "a\n\nb\n\nc"),
        ("<hgroup>a<p>b</p></hgroup><video>c</video><canvas>d</canvas>", "a\n\nb\n\nc\n\nd"),
        # A row is one line.
        (
            "<table><tr><td>Mon<br>Tue<td><ul><li>a<li>b</ul><td><pre>x\ny</pre></table>",
            "Mon Tue | a; b | x y",
        ),
        (
            "<table><tr><td rowspan=2>P1<td>11<td>13<tr><td>12<td>14</table>",
            "P1 | 11 | 13\nP1 | 12 | 14",
        ),
        # Lists keep their numbers.
        ("<ol start=4><li>Open<li>Turn</ol>", "4. Open\n5. Turn"),
        ("<ol reversed><li>x<li value=9>y</ol>", "2. x\n9. y"),
        ("<ol type=a><li>x<ol><li>n</ol><li>y</ol>", "a. x\n  1. n\nb. y"),
        # Raised digits are not glued.
        ("10<sup>6</sup> l, 1931<sup>4</sup>, 5 m<sup>2</sup>", "10^6 l, 1931 [4], 5 m²"),
        ("H<sub>2</sub>O, 3<sup>n+1</sup>, the 1<sup>st</sup>", "H2O, 3^(n+1), the 1st"),
        ("10<sup>-</sup><sup>4</sup> m, la 1<sup>a</sup>", "10^-4 m, la 1a"),
        ("4500<sup>a</sup>, 70<sup>a</sup><sup>,</sup><sup>b</sup>", "4500^a, 70^(a,b)"),
        # A formula is said once, a reading is set apart.
        (
            "is <math><semantics><msup><mi>x</mi><mn>2</mn></msup><annotation "
            'encoding="application/x-tex">x^2</annotation></semantics></math> wide',
            "is x^2 wide",
        ),
        (
            '<span class="katex"><math><mi>a</mi></math><span class="katex-html">a</span></span>',
            "a",
        ),
        (
            "<math><mfrac><mn>1</mn><mrow><mi>x</mi><mo>+</mo><mn>2</mn></mrow></mfrac></math>",
            "1/(x + 2)",
        ),
        (
            "<ruby>漢字<rt>かんじ</rt></ruby> <ruby>東<rp>(</rp><rt>とう</rt><rp>)</rp></ruby>",
            "漢字(かんじ) 東(とう)",
        ),
    ],
)
def test_what_a_page_shows_is_read_once_and_in_order(html: str, expected: str) -> None:
    assert text_of(read_html(f"<body>{html}</body>".encode())) == expected


def test_xhtml_may_close_elements_in_their_start_tag() -> None:
    head = '<?xml version="1.0"?><html><head><title/><script src="x"/></head>'
    page = f"{head}<body><p>kept</p></body></html>"
    assert text_of(read_html(page.encode())) == "kept"


def test_headings_carry_their_level_and_head_rows_are_marked() -> None:
    blocks = read_html(
        b"<h1>A</h1><h3>B</h3><table><tr><th>x<th>y<tr><td>1<td>2</table><pre>c</pre>"
    ).blocks
    assert [(block.kind, block.level) for block in blocks] == [
        ("heading", 1),
        ("heading", 3),
        ("row", 1),
        ("row", 0),
        ("code", 0),
    ]


def test_a_style_raises_characters_as_the_element_does() -> None:
    raised = '<span style="vertical-align: super; font-size: 60%">6</span>'
    lowered = '<span style="vertical-align:sub">2</span>'
    assert lines(f"<p>10{raised} l of H{lowered}O") == ["10^6 l of H2O"]
    assert lines(f"<table><tr><td>10{raised}<td>b</table>") == ["10^6 | b"]


def test_a_table_with_headings_in_short_cells_is_one_of_facts() -> None:
    rows = "<tr><td><h3>Gull</h3>red<td>12<tr><td><h3>Heron</h3><td>40"
    assert lines(f"<table>{rows}</table>") == ["Gull red | 12", "Heron | 40"]
    long = "<p>" + "A long text that the page lays out. " * 9
    assert lines(f"<table><tr><td><h3>Gull</h3>{long}<td>12<tr><td>x<td>y</table>")[0] == "Gull"


def test_a_heading_by_role_and_over_what_unfolds_is_a_heading() -> None:
    page = (
        "<div role='heading' aria-level='3'>Boats</div><div>Two lie here.</div>"
        "<details><summary>May I swim?</summary>Only at noon.</details>"
        "<div role='heading'>End</div>"
    )
    blocks = read_html(page.encode()).blocks
    assert [(block.kind, block.level, block.text) for block in blocks] == [
        ("heading", 3, "Boats"),
        ("paragraph", 0, "Two lie here."),
        ("heading", 6, "May I swim?"),
        ("paragraph", 0, "Only at noon."),
        ("heading", 2, "End"),
    ]
