"""The marks of Markdown dialects that the parser does not know: Pandoc, kramdown, MkDocs, MDX, Hugo
and GitBook."""

from __future__ import annotations

import re

# One attribute of a heading, a link or a paragraph: `#id`, `.class` or `key=value`.
_ONE = r"""(?:[#.][A-Za-z][\w-]{0,60}|[A-Za-z][\w-]{0,60}=(?:"[^"\n]{0,200}"|[^\s"{}]{1,200}))"""
_BRACED = rf"\{{:?[ \t]*{_ONE}(?:[ \t]+{_ONE}){{0,20}}[ \t]*\}}"
# Attributes stand right after a link or a span, at the end of a line, or alone in one.
_ATTRIBUTES = re.compile(rf"(?:^|[ \t]){_BRACED}[ \t]*$", re.MULTILINE)
_SPAN = re.compile(rf"\[([^\[\]\n]{{1,500}})\]{_BRACED}")
_AT_START = re.compile(_BRACED)
_WIKI_LINK = re.compile(
    r"(?<!\w)\[\[(?:[^\s\[\]|][^\[\]|\n]{0,200}\|)?([^\s\[\]|][^\[\]|\n]{0,200})\]\]"
)
_HIGHLIGHTED = re.compile(r"(?<![=\w])==([^\s=](?:[^=\n]{0,500}[^\s=])?)==(?![=\w])")
_ALERT = re.compile(r"^\[!([A-Za-z]{3,12})\][-+]?(?=\s|$)")
# A line that begins or ends a box, a tab or a part that can be folded, with its kind and its title.
BOX = (
    r"^[ ]{0,3}(?P<box>:{3,}|!!!|\?\?\?\+?|===(?=[ ]\"))[ \t]*"
    r"(?P<kind>[A-Za-z][\w-]{0,40}(?=[ \t\n\[\"]|\Z)|\{[^{}\n]{0,200}\})?[ \t]*"
    r"(?P<title>\"[^\"\n]{0,200}\"|\[[^\]\n]{0,200}\]|[^\s\"\[][^\n]{0,200})?[ \t]*$"
)
# What stands in MDX beside Markdown: imports, exports, comments and the tags of components.
MDX = (
    r"^(?P<code_lines>(?:import|export)[ {*][^\n]*(?:\n[^\n]+)*)|\{/\*.{0,1000}?\*/\}"
    r"|</?[A-Z][\w.]{0,60}(?:[^<>{}\"']|\"[^\"]{0,500}\"|'[^']{0,500}'|\{[^{}]{0,500}\}){0,60}+>"
)
# A line of Hugo (`{{< note >}}`) or GitBook (`{% hint %}`) that begins or ends a part, or is one.
SHORTCODE = (
    r"^[ \t]{0,8}(?:\{\{[<%][ \t]*/?[ \t]*[A-Za-z][^\n{}]{0,300}[>%]\}\}"
    r"|\{%-?[ \t]*[A-Za-z][^\n{}]{0,300}%\})[ \t]*$"
)


def box_title(match: re.Match[str]) -> str:
    """Returns what a line of `BOX` says: its title, or the kind of the box."""
    kind, title = match["kind"] or "", (match["title"] or "").strip('"[]')
    if not match["box"].startswith(":") and (match["title"] or '"')[0] != '"':
        # `!!! Mind the gap` is a sentence: MkDocs writes titles in quotes.
        return f"\n{kind} {match['title']}\n"
    said = title or ("" if kind.startswith("{") else kind.capitalize())
    return f"\n{said}\n" if said else "\n"


def after_link(text: str) -> str:
    """Returns the text after a link without the link's attributes."""
    return _AT_START.sub("", text, count=1) if _AT_START.match(text) else text


def plain_marks(text: str) -> str:
    """Returns the text of a block without the marks of dialects."""
    if "{" in text:
        text = _ATTRIBUTES.sub("", _SPAN.sub(r"\1", text))
    if "[" in text:
        text = _ALERT.sub(lambda match: match[1].capitalize(), _WIKI_LINK.sub(r"\1", text))
    return _HIGHLIGHTED.sub(r"\1", text) if "==" in text else text
