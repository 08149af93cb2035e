"""The styles and the numbering of Word files: what is a heading, what is a list item."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

from rag_ft.documents.formats.numerals import numeral

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"

# Word writes the names of its own styles in English, whatever the language of the user; the ids,
# and some other programs' names, are translated.
_HEADING_NAME = re.compile(
    r"(?:heading|berschrift|überschrift|titre|título|titolo|kop|rubrik|overskrift|nagłówek"
    r"|заголовок)\s*(\d)$",
    re.IGNORECASE,
)
_TITLE_NAMES = frozenset(("title", "titel", "book title"))
_LIST_NAME = re.compile(r"list (bullet|number)", re.IGNORECASE)
MAX_STYLES = 50


@dataclass
class Numbering:
    """The numbering of a file, and how far each list has counted."""

    # numId -> (id of the list's definition, level -> own start)
    lists: dict[str, tuple[str, dict[int, int]]] = field(default_factory=dict)
    # definition -> level -> (format, text with %1 for the number of level 1, start)
    levels: dict[str, dict[int, tuple[str, str, int]]] = field(default_factory=dict)
    counts: dict[str, dict[int, int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, tree: ElementTree.Element | None) -> Numbering:
        """Returns the numbering of word/numbering.xml; None: there is none."""
        found = cls()
        for definition in tree.iter(f"{W}abstractNum") if tree is not None else ():
            levels = found.levels.setdefault(definition.get(f"{W}abstractNumId", ""), {})
            for level in definition.iter(f"{W}lvl"):
                start = _value(level, "start") or "1"
                levels[_number(level.get(f"{W}ilvl"))] = (
                    _value(level, "numFmt") or "decimal",
                    _value(level, "lvlText") or "",
                    _number(start),
                )
        for item in tree.iter(f"{W}num") if tree is not None else ():
            starts = {}
            for override in item.iter(f"{W}lvlOverride"):
                if (own := _value(override, "startOverride")) is not None:
                    starts[_number(override.get(f"{W}ilvl"))] = _number(own)
            found.lists[item.get(f"{W}numId", "")] = (_value(item, "abstractNumId") or "", starts)
        return found

    def marker(self, num_id: str, level: int) -> str:
        """Returns the marker of the next item of a list: `- ` or `2. `, and counts it."""
        definition, starts = self.lists.get(num_id, ("", {}))
        levels = self.levels.get(definition, {})
        form, text, start = levels.get(level, ("bullet", "", 1))
        if form in ("bullet", "none") or "%" not in text:
            return "- "
        counts = self.counts.setdefault(definition, {})
        if num_id not in self.seen:
            # A list with a start of its own begins again; others go on where the last one ended.
            self.seen.add(num_id)
            for own, first in starts.items():
                counts[own] = first - 1
        counts[level] = counts.get(level, start - 1) + 1
        for deeper in [n for n in counts if n > level]:
            del counts[deeper]
        # A level that was skipped counts as begun.
        for own, (_, _, first) in levels.items():
            if own < level:
                counts.setdefault(own, first)

        def number(match: re.Match[str]) -> str:
            place = int(match[1]) - 1
            form, _, first = levels.get(place, ("decimal", "", 1))
            return numeral(counts.get(place, first), form)

        return re.sub(r"%(\d)", number, text).strip() + " "


@dataclass(frozen=True)
class Style:
    """What the style of a paragraph says: `heading` is a level from 1 or 0, `num` a list's id and
    level, or None."""

    name: str = ""
    heading: int = 0
    num: tuple[str, int] | None = None


def read_styles(tree: ElementTree.Element | None) -> dict[str, Style]:
    """Returns id -> style of word/styles.xml, with what a style inherits from others."""
    raw = {}
    for style in tree.iter(f"{W}style") if tree is not None else ():
        if style.get(f"{W}type", "paragraph") == "paragraph":
            raw[style.get(f"{W}styleId", "")] = style
    found: dict[str, Style] = {}
    for own_id, style in raw.items():
        chain: list[ElementTree.Element] = [style]
        parent = _value(style, "basedOn")
        while parent in raw and len(chain) < MAX_STYLES:
            chain.append(raw[parent])
            parent = _value(raw[parent], "basedOn")
        name = _value(style, "name") or own_id
        levels = [_heading_level(_value(s, "name") or "", s.find(f"{W}pPr")) for s in chain]
        nums = [num for s in chain if (num := list_of(s.find(f"{W}pPr"))) is not None]
        num = nums[0] if nums else ("", 0) if _LIST_NAME.match(name) else None
        found[own_id] = Style(name, next((n for n in levels if n), 0), num)
    return found


def raised_styles(tree: ElementTree.Element | None) -> dict[str, str]:
    """Returns the id of each style of characters that raises or lowers them -> how."""
    found: dict[str, str] = {}
    for style in tree.iter(f"{W}style") if tree is not None else ():
        properties = style.find(f"{W}rPr")
        if properties is not None and (how := raised_by(properties)):
            found[style.get(f"{W}styleId", "")] = how
    return found


def raised_by(properties: ElementTree.Element) -> str:
    """Returns superscript, subscript or "", by the properties of a run: also small characters that
    are moved up or down."""
    how = _value(properties, "vertAlign") or ""
    moved = _value(properties, "position") or "0"
    if not how and _value(properties, "sz") and moved not in ("0", ""):
        how = "subscript" if moved.startswith("-") else "superscript"
    return how if how in ("superscript", "subscript") else ""


def style_by_id(style_id: str) -> Style:
    """Returns what can be told of a style that styles.xml does not hold."""
    num = ("", 0) if _LIST_NAME.match(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", style_id)) else None
    level = _heading_level(style_id, None)
    if not level and style_id.lower().startswith(("heading", "berschrift", "title")):
        level = 1
    return Style(style_id, level, num)


def list_of(properties: ElementTree.Element | None) -> tuple[str, int] | None:
    """Returns (numId, level) of a paragraph's or a style's properties; None where they say
    nothing. numId 0 means: no list."""
    found = None if properties is None else properties.find(f"{W}numPr")
    if found is None:
        return None
    return _value(found, "numId") or "", _number(_value(found, "ilvl"))


def outline_level(properties: ElementTree.Element | None) -> int:
    """Returns the heading level (from 1) that paragraph properties set; 0: none."""
    value = None if properties is None else _value(properties, "outlineLvl")
    return _number(value) + 1 if value is not None and value.isdecimal() and int(value) < 9 else 0


def _heading_level(name: str, properties: ElementTree.Element | None) -> int:
    match = _HEADING_NAME.match(name.strip())
    if match:
        return min(max(int(match[1]), 1), 6)
    if name.strip().lower() in _TITLE_NAMES:
        return 1
    return min(outline_level(properties), 6)


def _value(parent: ElementTree.Element, name: str) -> str | None:
    found = parent.find(f"{W}{name}")
    return None if found is None else found.get(f"{W}val")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 7 else 0
