"""Superscripts and subscripts in plain text: `10^6`, `m²`, a note mark apart from its word."""

from __future__ import annotations

import re

# A reader puts these around raised and lowered text, and `plain_scripts` takes them out.
SUP, SUB, END = "\ue000", "\ue001", "\ue002"

_MARKED = re.compile(f"([{SUP}{SUB}])([^{SUP}{SUB}{END}]*){END}")
_RAISED = str.maketrans("0123456789+-−()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾")
_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20)\d\d$")
# "1st", "2nd", "3rd", "4th", "1er", "2e", "n°", "1º".
_ORDINAL = re.compile(r"(?:st|nd|rd|th|er|re|e|è?me|de|os?|as?|[°ºª])$", re.IGNORECASE)
# 1a and 21o are ordinals; what is raised after 4500 is a note.
_LONG_NUMBER = re.compile(r"\d{3}$")
# One raised text in several elements: `<sup>a</sup><sup>,</sup><sup>b</sup>`.
_PIECES = re.compile(f"(?<=[,;+−–-]){END}{SUP}|{END}{SUP}(?=[,;–])")
_NUMBER = re.compile(r"[+\-−]?\d+$")
_WORD = re.compile(r"[^\W\d_]+$")


def plain_scripts(text: str) -> str:
    """Returns the text without the marks SUP, SUB and END.

    What is raised after a digit becomes an exponent, or a note mark in brackets after a year.
    """
    text = _PIECES.sub("", text)
    while SUP in text or SUB in text:
        replaced = _MARKED.sub(_plain, text)
        if replaced == text:
            break
        text = replaced
    return re.sub(f"[{SUP}{SUB}{END}]", "", text)


def power(base: str, exponent: str, sign: str = "^") -> str:
    """Returns `base^exponent`, with brackets around an exponent of several parts."""
    exponent = exponent.strip()
    alone = re.fullmatch(r"[+−-]?[\w.]+", exponent)
    return f"{base}{sign}{exponent}" if alone else f"{base}{sign}({exponent})"


def _plain(match: re.Match[str]) -> str:
    inner = match[2].strip()
    before = match.string[max(0, match.start() - 40) : match.start()]
    last = before[-1:]
    if inner and last and last in ".,;:!?…" and _NUMBER.match(inner) and match[1] == SUP:
        return f" [{inner}]"
    if not inner or not (last.isalnum() or (last and last in ")]}’'”\"")):
        return inner
    if match[1] == SUB:
        # H2O, CO2, x1 are read as they stand; a digit would be another number.
        return power("", inner, "_") if last.isdigit() and inner[0].isdigit() else inner
    if inner[0] in "[(*†‡§":
        return inner
    if last.isdigit():
        if _YEAR.search(before) and re.fullmatch(r"\d{1,3}|[a-z](?:,\s?[a-z])*", inner):
            return f" [{inner}]"
        note = inner.lower() in ("a", "o") and _LONG_NUMBER.search(before)
        return inner if _ORDINAL.match(inner) and not note else power("", inner)
    if _NUMBER.match(inner):
        # A unit or a variable has a power, and a word has a note; no note has a sign.
        word = _WORD.search(before)
        if word is not None and (len(word[0]) <= 3 or inner[0] in "+-−"):
            return inner.translate(_RAISED)
        return f" [{inner}]" if word is not None else power("", inner)
    return inner if len(inner) < 3 and inner.isalpha() else power("", inner)
