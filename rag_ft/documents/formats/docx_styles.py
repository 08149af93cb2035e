"""The styles and the numbering of Word files: what is a heading, what is a list item."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

from rag_ft.documents.formats.numerals import numeral

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"

# Word writes the names of its own styles in English, whatever the language of the user; the ids,
# and some other programs' names, are translated. Other names of a style may follow after a comma.
_HEADING_NAME = re.compile(
    r"(?:heading|berschrift|überschrift|titre|título|titolo|kop|rubrik|overskrift|nagłówek"
    r"|заголовок|otsikko|nadpis|naslov|címsor|titlu|başlık|antraštė|virsraksts|pealkiri|tiêu đề"
    r"|επικεφαλίδα|标题|標題|見出し|제목)\s*(\d)(?=$|[,;+])",
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
    # What a list defines for itself; levels of definitions that have Arabic numbers alone.
    own_levels: dict[str, dict[int, tuple[str, str, int]]] = field(default_factory=dict)
    legal: set[tuple[str, int]] = field(default_factory=set)
    counts: dict[str, dict[int, int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, tree: ElementTree.Element | None) -> Numbering:
        """Returns the numbering of word/numbering.xml; None: there is none."""
        found = cls()
        for definition in tree.iter(f"{W}abstractNum") if tree is not None else ():
            own_id = definition.get(f"{W}abstractNumId", "")
            found.levels[own_id] = dict(map(_level, definition.iter(f"{W}lvl")))
            for level in definition.iter(f"{W}lvl"):
                if level.find(f"{W}isLgl") is not None:
                    found.legal.add((own_id, _number(level.get(f"{W}ilvl"))))
        for item in tree.iter(f"{W}num") if tree is not None else ():
            starts = {}
            for override in item.iter(f"{W}lvlOverride"):
                if (own := _value(override, "startOverride")) is not None:
                    starts[_number(override.get(f"{W}ilvl"))] = _number(own)
            own_levels = dict(map(_level, item.iterfind(f"{W}lvlOverride/{W}lvl")))
            starts |= {n: start for n, (_, _, start) in own_levels.items() if n not in starts}
            found.own_levels[item.get(f"{W}numId", "")] = own_levels
            found.lists[item.get(f"{W}numId", "")] = (_value(item, "abstractNumId") or "", starts)
        return found

    def marker(self, num_id: str, level: int) -> str:
        """Returns the marker of the next item of a list: `- ` or `2. `, and counts it."""
        definition, starts = self.lists.get(num_id, ("", {}))
        levels = self.levels.get(definition, {}) | self.own_levels.get(num_id, {})
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
            form = "decimal" if (definition, level) in self.legal else form
            return numeral(counts.get(place, first), form)

        return re.sub(r"%(\d)", number, text).strip() + " "


def _level(level: ElementTree.Element) -> tuple[int, tuple[str, str, int]]:
    """Returns the number of a level of a list, and its format, text and start."""
    own = _value(level, "numFmt") or "decimal", _value(level, "lvlText") or ""
    return _number(level.get(f"{W}ilvl")), (*own, _number(_value(level, "start") or "1"))


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
        # The outline level 9 says of text in a style made from a heading that it is none.
        own_level = next((v for s in chain if (v := _value(s.find(f"{W}pPr"), "outlineLvl"))), "")
        if own_level == "9" and not _HEADING_NAME.match(name):
            levels = []
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


def style_fonts(tree: ElementTree.Element | None) -> dict[str, str]:
    """Returns the id of each style that names a font -> the font."""
    found: dict[str, str] = {}
    for style in tree.iter(f"{W}style") if tree is not None else ():
        if font := font_of(style.find(f"{W}rPr")):
            found[style.get(f"{W}styleId", "")] = font
    return found


def font_of(properties: ElementTree.Element | None) -> str:
    """Returns the font of letters in the properties of a run; "" where they name none."""
    fonts = None if properties is None else properties.find(f"{W}rFonts")
    return "" if fonts is None else fonts.get(f"{W}ascii", "") or fonts.get(f"{W}hAnsi", "")


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
    value = _value(properties, "outlineLvl")
    return _number(value) + 1 if value is not None and value.isdecimal() and int(value) < 9 else 0


def is_body_text(properties: ElementTree.Element | None) -> bool:
    """Whether the properties of a paragraph say that it is text, whatever its style is."""
    return _value(properties, "outlineLvl") == "9"


def _heading_level(name: str, properties: ElementTree.Element | None) -> int:
    match = _HEADING_NAME.match(name.strip())
    if match:
        return min(max(int(match[1]), 1), 6)
    if name.strip().lower() in _TITLE_NAMES:
        return 1
    return min(outline_level(properties), 6)


def _value(parent: ElementTree.Element | None, name: str) -> str | None:
    found = None if parent is None else parent.find(f"{W}{name}")
    return None if found is None else found.get(f"{W}val")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 7 else 0
