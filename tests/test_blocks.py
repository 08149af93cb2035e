"""Blocks join to a text in which each knows its place."""

from __future__ import annotations

from rag_ft.documents.blocks import blocks_of_text, join_blocks
from rag_ft.documents.formats.content import Block


def test_every_block_is_its_part_of_the_text() -> None:
    text, blocks = join_blocks(
        [
            Block("heading", " Rules ", 1, page=1),
            Block("paragraph", "\u00a0"),
            Block("item", "- one", tight=True),
            Block("item", "  - two ", tight=True, page=1, page_end=2),
            Block("code", "  a\n    b\n\n"),
        ]
    )
    assert text == "Rules\n- one\n  - two\n\n  a\n    b"
    assert [(b.kind, text[b.start : b.end]) for b in blocks] == [
        ("heading", "Rules"),
        ("item", "- one"),
        ("item", "  - two"),
        ("code", "  a\n    b"),
    ]
    assert [(b.page, b.page_end) for b in blocks] == [(1, 1), (None, None), (1, 2), (None, None)]


def test_a_text_without_blocks_has_the_headings_of_markdown() -> None:
    text = "Intro.\n\n## Hours\n\nNine.\n# not\nEnd"
    blocks = blocks_of_text(text)
    assert [(b.kind, b.level, text[b.start : b.end].strip()) for b in blocks] == [
        ("paragraph", 0, "Intro."),
        ("heading", 2, "## Hours"),
        ("paragraph", 0, "Nine."),
        ("heading", 1, "# not"),
        ("paragraph", 0, "End"),
    ]
