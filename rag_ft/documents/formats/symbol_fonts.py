"""What the characters of the fonts Symbol and Wingdings mean."""

from __future__ import annotations

# Adobe's Symbol encoding, from 0x20 and from 0xA1.
_SYMBOL = (
    dict(
        enumerate(
            " !∀#∃%&∍()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_"
            "‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼",
            0x20,
        )
    )
    | dict(
        enumerate(
            "ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪",
            0xA1,
        )
    )
    | dict(enumerate("〉∫⌠⎮⌡⎞⎟⎠⎤⎥⎦⎫⎬⎭", 0xF1))
)
_WINGDINGS = {
    0x21: "✏", 0x22: "✂", 0x28: "☎", 0x29: "✆", 0x2A: "✉", 0x36: "⌛", 0x3A: "💻", 0x3F: "✍",
    0x45: "☜", 0x46: "☞", 0x47: "☝", 0x48: "☟", 0x4A: "☺", 0x4B: "😐", 0x4C: "☹", 0x51: "✈",
    0x52: "☼", 0x54: "❄", 0x6C: "●", 0x6D: "❍", 0x6E: "■", 0x6F: "□", 0x71: "❑", 0x72: "❒",
    0x73: "⬧", 0x74: "⧫", 0x75: "◆", 0x76: "❖", 0x77: "⬥", 0x78: "⌧", 0x9F: "•", 0xA1: "○",
    0xA7: "▪", 0xA8: "□", 0xAB: "★", 0xD5: "⌫", 0xD8: "➢", 0xDC: "➲", 0xDF: "←", 0xE0: "→",
    0xE1: "↑", 0xE2: "↓", 0xE8: "➔", 0xEF: "⇦", 0xF0: "⇨", 0xF1: "⇧", 0xF2: "⇩", 0xFB: "✗",
    0xFC: "✓", 0xFD: "☒", 0xFE: "☑",
}  # fmt: skip
_FONTS = {"symbol": _SYMBOL, "wingdings": _WINGDINGS}
UNKNOWN = "□"


def is_symbol_font(font: str) -> bool:
    """Whether a font shows signs in place of letters, and it is known which."""
    return font.strip().lower() in _FONTS


def symbol(font: str, code: int) -> str:
    """Returns the character that a font shows for a code; `□` where it is not known.

    Office files shift the codes of such fonts into the private area of Unicode.
    """
    if 0xF000 <= code <= 0xF0FF:
        code -= 0xF000
    table = _FONTS.get(font.strip().lower())
    if table is None:
        printable = (
            0x20 < code < 0x110000 and not 0xD800 <= code <= 0xF8FF and chr(code).isprintable()
        )
        return chr(code) if printable else UNKNOWN
    return table.get(code, UNKNOWN)
