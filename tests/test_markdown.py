"""What Markdown says is kept, whatever its marks: only marks go."""

from __future__ import annotations

import time

import pytest
from document_files import text_of

from rag_ft.documents.formats.markdown import front_matter, read_markdown


def plain(text: str) -> str:
    return text_of(read_markdown(text.encode()))


@pytest.mark.parametrize(
    "said",
    [
        "[^1]: The yard of Ilva Torrent built it for 5512 crowns.",
        "[Anna]: The crane is broken since Monday.",
        "[10:32]: Meeting begins in the hall.",
        "[Ben]: No.",
        "[10:40]: 12:30",
        "Press <Enter>, name the <folder> and read the Vec<String> of a Map<std::string>.",
        "Snake_case_names and 2 * 3 * 4 stay.",
    ],
)
def test_what_only_looks_like_a_mark_stays(said: str) -> None:
    assert plain(f"# Chronicle\n\n{said}\n\nThe end.") == f"Chronicle\n\n{said}\n\nThe end."


@pytest.mark.parametrize(
    "definition",
    [
        "[1]: https://harbour.example/plan",
        '[plan]: plans/quay.md "The plan"',
        "[a b]: <plan one.md> 'The plan'",
        "[x]: #opening",
        "  [mail]: mailto:keys@harbour.example (Keys)",
        "[image1]: <data:image/png;base64,iVBORw0KGgo>",
    ],
)
def test_definitions_of_links_go(definition: str) -> None:
    assert (
        plain(f"See [the plan][1].\n\n{definition}\n{definition}\n\nThe end.")
        == "See the plan.\n\nThe end."
    )


def test_addresses_stay_and_tags_go() -> None:
    assert plain("Write to <keys@harbour.example> or <mailto:a@b.example>.") == (
        "Write to keys@harbour.example or a@b.example."
    )
    assert (
        plain("See <https://harbour.example/a_b> or <tel:5512>.")
        == "See https://harbour.example/a_b or tel:5512."
    )
    assert plain("<div class='x'>\nThe <b>old</B> quay<br/>\n</div>") == "The old quay"


def test_code_spans_keep_every_character() -> None:
    assert plain(
        "Run `rag-ft merge --to <folder>` after `__init__.py`, *then* `` `**a**` `` and `a_*b*_c`."
    ) == ("Run rag-ft merge --to <folder> after __init__.py, then `**a**` and a_*b*_c.")
    assert plain("| `<a>` | **b** |\n|---|---|\n| `c\\*` | `[d](e)` |") == "<a> | b\nc\\* | [d](e)"
    assert (
        plain("Call `merge --to\n<folder>` now, \\`*so*\\`, 5` *long*.")
        == "Call merge --to <folder> now, `so`, 5` long."
    )
    assert read_markdown(b"# The `__init__` of *all*\n").title == "The __init__ of all"


def test_three_backticks_inside_a_paragraph_open_no_block() -> None:
    assert (
        plain("```make demo``` starts the *pump*.\n\nThen **wait**.")
        == "make demo starts the pump.\n\nThen wait."
    )


def test_a_block_of_code_ends_at_a_fence_as_long_as_its_own() -> None:
    assert plain("````md\n```\n*a*\n```\n````\n*b*") == "```\n*a*\n```\nb"
    assert (
        plain("1. Run\n   ```sh\n   cat <file>\n   ```\n2. *Wait*") == "1. Run\ncat <file>\n2. Wait"
    )
    assert plain("~~~\n*never closed*") == "*never closed*"


def test_comments_go_but_for_those_inside_code() -> None:
    assert plain("A<!-- no\n\n```\n-->B") == "AB"
    assert plain(
        "Begin with `<!--`, end with `-->`.\n\n```html\n<!-- kept -->\n```\nC<!-- no -->D <!-- open"
    ) == ("Begin with <!--, end with -->.\n\n<!-- kept -->\nCD <!-- open")


@pytest.mark.parametrize(
    "piece",
    [
        "<!--",
        "```\n",
        "``a `",
        "~~~\n",
        "[a]: ",
        "<a@b",
        "````\n```\n",
        "- `",
        "[x]: a:b 'c",
        "\\`",
    ],
)
def test_marks_that_never_end_take_linear_time(piece: str) -> None:
    begin = time.process_time()
    read_markdown((piece * 40_000).encode())
    assert time.process_time() - begin < 5


def test_markdown_loses_its_marks_and_keeps_its_structure() -> None:
    content = read_markdown(
        b"---\ntitle: House rules\nyear: 2024\n---\n# Rules\n\n## **Opening** hours\n"
        b'The *hall* opens at `nine`; see [the plan](plan.md "x").\n<!-- no\nsecret -->\n\n'
        b"* one\n* two_words_here\n\n| Day | Time |\n"
        b"|---|:--:|\n| Mon | 9 |\n\n"
        b"```python\na = b['**c**'] # d\n```\n"
    )
    text = text_of(content)
    assert (content.title, content.metadata) == ("House rules", {"year": 2024})
    assert "Opening hours\nThe hall opens at nine; see the plan." in text
    assert "* one\n* two_words_here" in text and "Day | Time\nMon | 9" in text
    assert "a = b['**c**'] # d" in text
    assert "secret" not in text and "---" not in text


def test_markdown_without_front_matter_is_titled_by_its_first_heading() -> None:
    assert read_markdown(b"Intro\n\n## Second\n\n# The *main* one #\ntext").title == "The main one"
    assert read_markdown(b"Under *lined*\n===\n\ntext").title == "Under lined"
    assert read_markdown(b"---\n: [bad yaml\n---\n# Title\n").title == "Title"
    assert read_markdown(b"---\ndate: 2024-13-45\n---\n# Title ##\n").title == "Title"
    assert text_of(read_markdown(b"# On C#\n")) == "On C#"
    assert read_markdown(b"```\n# a comment\n```\ntext").title == ""


def test_front_matter_gives_its_scalars_and_the_text_after_it() -> None:
    block = "---\nyear: 2024\nday: 2024-05-01\ntags: [a, b]\nempty:\n1: one\n---\n"
    metadata = {"year": 2024, "day": "2024-05-01", "1": "one"}
    assert front_matter(block + "# Title") == (metadata, "# Title")
    for text in ("# Title", "---\n- a list\n---\n# Title", "\n---\nyear: 2024\n---\n"):
        assert front_matter(text) == ({}, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<table><tr><td>a</td>\n\n<td>1</td></tr></table>\n\nEnd", "a | 1\n\nEnd"),
        ("| Day |\n|---|\n| Mon<br>Tue |", "Day\nMon Tue"),
        ("<ul><li>one</li><li>two</li></ul>\n\n<p>a</p><p>b</p>", "- one\n- two\n\na\n\nb"),
        ("Call 12<br>34 now.", "Call 12\n34 now."),
        ("10<sup>7</sup> litres", "10^7 litres"),
        ("# R&amp;D\n\n5&nbsp;km &lt; 6 &#39;x&#39; `&amp;`", "R&D\n\n5 km < 6 'x' &amp;"),
        ("Use:\n\n    f(*args)\n    >>> a*b*c\n\nEnd", "Use:\n\nf(*args)\n>>> a*b*c\n\nEnd"),
        ('<div\n  class="box">\nMade here\n</div>', "Made here"),
        ("<style>\n.a {color: red}\n</style>\n\nEnd", "End"),
        ("See [the bay](https://e.org/Bay_(water)) first.", "See the bay first."),
        ("It is 2*3*4 and x[1][2] as `a[1][2]`.", "It is 2*3*4 and x1 as a[1][2]."),
        ("The office opens in the mor-\nning, the north-west in the north-\nwest.",
         "The office opens in the morning, the north-west in the north-west."),
    ],
)  # fmt: skip
def test_html_and_references_inside_markdown_are_read(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_markdown_gives_blocks_with_levels_items_and_rows() -> None:
    blocks = read_markdown(
        b"# A\n\n* x\n* y\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nc\n```\n"
    ).blocks
    assert [(block.kind, block.level, block.tight) for block in blocks] == [
        ("heading", 1, False),
        ("item", 0, False),
        ("item", 0, True),
        ("row", 1, False),
        ("row", 0, True),
        ("code", 0, False),
    ]


def test_a_tag_whose_end_stands_alone_in_a_line_goes() -> None:
    text = '<a\nhref="https://example.org/x"\n>The bay</a> is wide.'
    assert text_of(read_markdown(text.encode())) == "The bay is wide."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('The <i title="1 > 0"\n class="x">lamp</i> is lit.', "The lamp is lit."),
        ('A.\n\n<img alt="to > from"\n src="a.png">\n\nB.', "A.\n\nB."),
        ('<a\n onclick="go(1 > 0)"\n>The bay</a> is wide.', "The bay is wide."),
        ('If a > b\nthen it is "x".', 'If a > b\nthen it is "x".'),
        (f'See <a href="data:{"x" * 400}">this</a>.', "See this."),
    ],
)
def test_a_tag_over_lines_may_hold_a_greater_sign(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_what_stands_between_blank_lines_in_a_cell_is_markdown() -> None:
    cells = "<table><tr><td>\n\n**Gull** of `a**b**c`\n\n</td><td>\n\n- _one_\n- two\n\n</td></tr>"
    assert plain(f"{cells}</table>") == "Gull of a**b**c | one ; two"
    assert plain("<table><tr><td>**x**</td>\n\n<td>a*b*c</td></table>") == "**x** | a*b*c"
