"""What Markdown says is kept, whatever its marks: only marks go."""

from __future__ import annotations

import time

import pytest

from rag_ft.documents.formats.markdown import read_markdown


def plain(text: str) -> str:
    return read_markdown(text.encode()).text.strip()


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
    ["[1]: https://harbour.example/plan", '[plan]: plans/quay.md "The plan"', "[a b]: <plan one.md> 'The plan'",
     "[x]: #opening", "  [mail]: mailto:keys@harbour.example (Keys)", "[image1]: <data:image/png;base64,iVBORw0KGgo>"],
)  # fmt: skip
def test_definitions_of_links_go(definition: str) -> None:
    assert (
        plain(f"See [the plan][1].\n\n{definition}\n{definition}\n\nThe end.")
        == "See the plan.\n\n\nThe end."
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
    assert plain("| `<a>` | **b** |\n|---|---|\n| `c\\*` | `[d](e)` |") == "<a> | b \nc\\* | [d](e)"
    assert (
        plain("Call `merge --to\n<folder>` now, \\`*so*\\`, 5` *long*.")
        == "Call merge --to\n<folder> now, `so`, 5` long."
    )
    assert read_markdown(b"# The `__init__` of *all*\n").title == "The __init__ of all"


def test_three_backticks_inside_a_paragraph_open_no_block() -> None:
    assert (
        plain("```make demo``` starts the *pump*.\n\nThen **wait**.")
        == "make demo starts the pump.\n\nThen wait."
    )


def test_a_block_of_code_ends_at_a_fence_as_long_as_its_own() -> None:
    assert plain("````md\n```\n*a*\n```\n````\n*b*") == "```\n*a*\n```\n\nb"
    assert (
        plain("1. Run\n   ```sh\n   cat <file>\n   ```\n2. *Wait*")
        == "1. Run\n   cat <file>\n\n2. Wait"
    )
    assert plain("~~~\n*never closed*") == "*never closed*"


def test_comments_go_but_for_those_inside_code() -> None:
    assert plain("A<!-- no\n\n```\n-->B") == "AB"
    assert plain(
        "Begin with `<!--`, end with `-->`.\n\n```html\n<!-- kept -->\n```\nC<!-- no -->D <!-- open"
    ) == ("Begin with <!--, end with -->.\n\n<!-- kept -->\n\nCD <!-- open")


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
