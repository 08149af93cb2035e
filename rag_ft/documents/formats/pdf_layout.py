"""From the lines of PDF pages to headings, paragraphs, items and footnotes."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

from rag_ft.documents.formats.cleaning import MIN_WRAPPED_CHARS, join_broken_words, unwrap
from rag_ft.documents.formats.content import Block, BlockKind

# A heading is printed this much larger than the text, and a footnote this much smaller.
HEADING_SIZE, FOOTNOTE_SIZE = 1.14, 0.93
MAX_HEADING_CHARS = 160
# A distance between lines above this multiple of the usual one ends a paragraph.
PARAGRAPH_GAP = 1.35
# What stands at the same place (points) of at least this share of the pages is a running head.
SAME_PLACE, HEAD_SHARE = 8.0, 0.4
# Running heads stand in this share of the page at its top and at its bottom.
MARGIN = 0.15
# Two columns of text have at least this many lines side by side, of this many characters each.
MIN_COLUMN_LINES, MIN_COLUMN_CHARS = 5, 20
# The fewest characters of a wrapped line in a narrow column.
NARROW = 22
# The lines at the top and at the bottom of a page that may be running heads.
MAX_HEAD_LINES = 4

_ITEM = re.compile(r"(?:[-*•‣–◦●○■□▪▫➢➤✓✔·o]|\d{1,3}[.)]|[ivxIVX]{1,5}[.)]|\(?\w[.)])\s+\S")
_NOTE = re.compile(r"(?:\[?\d{1,3}[\].)]?|[*†‡§]+)\s*\S")
# A page number alone: "3", "- 3 -", "Page 3 of 7", "iv".
_PAGE = re.compile(
    r"\W*(?:[^\W\d]{1,9}\.?\s*)?(?:\d+|[ivxlc]+)(?:\s*\S{1,4}\s*\d+)?\W*$", re.IGNORECASE
)
_SENTENCE_END = (".", "!", "?", ":", ";", "。", "！", "？", "”", '"', "…")


@dataclass(frozen=True)
class Line:
    """A line of a page, its box in points from the page's lower left corner, and its font."""

    text: str
    left: float
    right: float
    bottom: float
    top: float
    size: float
    bold: bool
    page: int
    page_height: float
    is_field: bool = False


def in_reading_order(lines: list[Line], gaps: list[list[tuple[float, float, int]]]) -> list[Line]:
    """Returns the lines of a page, those of two columns one column after the other.

    Some programs draw columns line by line, so that each line holds a part of both. `gaps` are the
    wide blanks of each line: (left, right, place in the text).
    """
    middle = _gutter(lines, gaps)
    if middle is None:
        return lines
    ordered: list[Line] = []
    right: list[Line] = []
    for line, found in zip(lines, gaps, strict=True):
        gap = next((g for g in found if g[0] <= middle <= g[1]), None)
        if gap is not None:
            ordered.append(replace(line, text=line.text[: gap[2]].rstrip(), right=gap[0]))
            right.append(replace(line, text=line.text[gap[2] :].lstrip(), left=gap[1]))
        elif line.left >= middle and right:
            right.append(line)
        else:
            # A line over both columns ends them.
            if line.right > middle:
                ordered += right
                right = []
            ordered.append(line)
    return ordered + right


def _gutter(lines: list[Line], gaps: list[list[tuple[float, float, int]]]) -> float | None:
    """Returns where the blank between two columns of text is; None where there is none. The columns
    of a table are no columns of text: their cells are short."""
    middles = [
        (left + right) / 2
        for line, found in zip(lines, gaps, strict=True)
        for left, right, place in found
        if place >= MIN_COLUMN_CHARS and len(line.text) - place >= MIN_COLUMN_CHARS
    ]
    if len(middles) < MIN_COLUMN_LINES:
        return None
    middle = median(middles)
    inside = [left <= middle <= right for found in gaps for left, right, _ in found]
    return middle if sum(inside) >= MIN_COLUMN_LINES else None


def place_fields(lines: list[Line], fields: list[Line]) -> list[Line]:
    """Puts the values of form fields and the texts of notes after the lines that label them: the
    nearest line at the same height, else the last one above."""
    placed = list(lines)
    for field in fields:
        middle = (field.bottom + field.top) / 2
        beside = [n for n, line in enumerate(placed) if line.bottom - 3 <= middle <= line.top + 3]
        if beside and field.is_field:
            at = min(beside, key=lambda n: abs(placed[n].left - field.left))
            before = [n for n in beside if placed[n].right <= field.left + 3]
            at = max(before, key=lambda n: placed[n].right, default=at)
            label = placed[at]
            placed[at] = replace(
                label, text=f"{label.text} {field.text}", right=max(label.right, field.right)
            )
            continue
        above = [n for n, line in enumerate(placed) if line.bottom >= middle]
        at = min(above, key=lambda n: placed[n].bottom - middle, default=-1)
        size = placed[at].size if placed else 10.0
        placed.insert(at + 1 if placed else 0, replace(field, size=size))
    return placed


def blocks_of_pages(pages: list[list[Line]]) -> list[Block]:
    """Returns the blocks of a document, without what repeats at the edges of its pages."""
    pages = without_running_heads(pages)
    every = [line for lines in pages for line in lines]
    if not every:
        return []
    sizes = Counter[float]()
    for line in every:
        sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0] or 10.0
    levels = _heading_levels(every, body)
    whole = "\n".join(line.text for line in every)
    blocks: list[Block] = []
    # The lines in the margins that do not repeat, such as the name of a chapter.
    marginal: set[int] = set()
    for lines in pages:
        found = []
        for kind, group in _groups(lines, body, levels):
            found.append(_block(group, kind, levels, whole))
            if all(_is_marginal(line, body) for line in group):
                marginal.add(id(found[-1]))
        # Footnotes stand after the text of their page.
        found.sort(key=lambda block: block.kind == "footnote")
        _continue_over_page(blocks, found, marginal)
        blocks += found
    return blocks


def without_running_heads(pages: list[list[Line]]) -> list[list[Line]]:
    """Leaves out the lines that stand at the same place on many pages, but for their numbers."""
    places: dict[str, list[float]] = defaultdict(list)
    for lines in pages:
        ordered = sorted(lines, key=lambda line: -line.top)
        edges = {id(line): line for line in ordered[:MAX_HEAD_LINES] + ordered[-MAX_HEAD_LINES:]}
        for line in edges.values():
            places[_without_numbers(line.text)].append(line.bottom)
    num_pages = sum(map(bool, pages))
    if num_pages < 2:
        return pages
    texts = Counter(line.text for lines in pages for line in lines)
    kept_pages: list[list[Line]] = []
    for lines in pages:
        ordered = sorted(lines, key=lambda line: -line.top)
        dropped: dict[int, Line] = {}
        for edge in (ordered, ordered[::-1]):
            for line in edge[:MAX_HEAD_LINES]:
                if MARGIN * line.page_height < line.bottom < (1 - MARGIN) * line.page_height:
                    break
                found = places[_without_numbers(line.text)]
                same = sum(abs(bottom - line.bottom) <= SAME_PLACE for bottom in found)
                if same < max(2, HEAD_SHARE * num_pages):
                    break
                dropped[id(line)] = line
        if len(dropped) == len(lines):
            # Pages of one sentence each, equal but for its numbers: only true repeats go.
            repeats = (n for n, d in dropped.items() if texts[d.text] > 1 or _PAGE.match(d.text))
            dropped = {n: dropped[n] for n in repeats}
        kept_pages.append([line for line in lines if id(line) not in dropped])
    # A document of equal pages, such as labels, keeps them.
    return kept_pages if any(kept_pages) else pages


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+|(?<!\w)[ivxlc]+(?!\w)", "#", text.strip())


def _heading_levels(lines: list[Line], body: float) -> dict[float, int]:
    """Returns font size -> heading level for the sizes that are larger than the text's."""
    larger = {
        line.size
        for line in lines
        if line.size >= HEADING_SIZE * body and len(line.text) <= MAX_HEADING_CHARS
    }
    return {size: min(n, 6) for n, size in enumerate(sorted(larger, reverse=True), 1)}


def _groups(
    lines: list[Line], body: float, levels: dict[float, int]
) -> Iterator[tuple[BlockKind, list[Line]]]:
    """Yields the lines that belong to one block, and the kind of the block."""
    gaps = [
        a.bottom - b.bottom
        for a, b in itertools.pairwise(lines)
        if 0 < a.bottom - b.bottom < 4 * body and abs(a.size - b.size) < 1
    ]
    pitch = median(gaps) if gaps else 1.2 * body
    group: list[Line] = []
    kind: BlockKind = "paragraph"
    for line in lines:
        own = _kind(line, body, levels)
        if group:
            last = group[-1]
            gap = last.bottom - line.bottom
            # A new column begins higher on the page: the paragraph may go on there.
            apart = gap > PARAGRAPH_GAP * max(pitch, line.size) or gap < -pitch
            other = (
                abs(last.size - line.size) > 0.08 * body and min(len(last.text), len(line.text)) > 3
            )
            if (
                apart
                or other
                or own == "item"
                or (own != kind and kind != "item")
                or (kind == "item" and own == "heading")
            ):
                yield kind, group
                group = []
        if not group:
            kind = own
        group.append(line)
    if group:
        yield kind, group


def _kind(line: Line, body: float, levels: dict[float, int]) -> BlockKind:
    if line.size in levels and len(line.text) <= MAX_HEADING_CHARS:
        return "heading"
    if line.bold and len(line.text) < 80 and not line.text.endswith(_SENTENCE_END):
        return "heading"
    if (
        0 < line.size <= FOOTNOTE_SIZE * body
        and line.top < line.page_height / 2
        and _NOTE.match(line.text)
    ):
        return "footnote"
    return "item" if _ITEM.match(line.text) else "paragraph"


def _block(lines: list[Line], kind: BlockKind, levels: dict[float, int], whole: str) -> Block:
    first = lines[0]
    text = "\n".join(line.text for line in lines)
    if kind == "heading":
        level = levels.get(first.size, len(set(levels.values())) + 1)
        text = " ".join(join_broken_words(text, whole).split("\n"))
        return Block("heading", text, min(level, 6), first.page)
    # Columns are narrow: a paragraph of several lines is known by its shape.
    text = unwrap(text, whole, NARROW if len(lines) > 2 else MIN_WRAPPED_CHARS)
    tight = kind == "item"
    return Block(kind, text, page=first.page, tight=tight)


def _is_marginal(line: Line, body: float) -> bool:
    """Whether a line stands in the margin of its page and is smaller than the text."""
    height = line.page_height
    at_edge = line.bottom > (1 - MARGIN / 2) * height or line.top < MARGIN / 2 * height
    return at_edge and line.size < body


def _continue_over_page(blocks: list[Block], found: list[Block], marginal: set[int]) -> None:
    """Joins the last paragraph of the pages before with the first of this one, where a sentence
    goes on; changes both lists. What stands between, footnotes and lines in the margins, follows
    it."""
    at = len(blocks) - 1
    while at >= 0 and (blocks[at].kind == "footnote" or id(blocks[at]) in marginal):
        at -= 1
    start = next((n for n, block in enumerate(found) if id(block) not in marginal), len(found))
    if at < 0 or start == len(found):
        return
    last, first = blocks[at], found[start]
    if last.kind not in ("paragraph", "item") or first.kind != "paragraph":
        return
    end, begin = last.text.rstrip(), first.text.lstrip()
    ended = end.endswith(_SENTENCE_END) or len(end) < 20
    if ended or not (begin[:1].islower() or end.endswith("-") or end[-1:] == ","):
        return
    joined = join_broken_words(f"{end}\n{begin}", f"{end}\n{begin}")
    blocks[at] = replace(
        last, text=joined.replace("\n" + begin[:20], " " + begin[:20]), page_end=first.page
    )
    del found[start]
