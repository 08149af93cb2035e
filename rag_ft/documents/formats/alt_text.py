"""What the authors of a document say in words about its pictures."""

from __future__ import annotations

import re

from rag_ft.text import UNSPACED

_FILE_NAME = re.compile(
    r"\.(?:png|jpe?g|gif|bmp|tiff?|svg|webp|emf|wmf|heic)$|^https?://\S+$", re.IGNORECASE
)
# What Office guesses about a picture ends with a notice in the language of the user.
_GUESSED = re.compile(
    r"(?:automatically generated|automatisch generierte beschreibung|générée automatiquement"
    r"|generada automáticamente|generata automaticamente|gerada automaticamente"
    r"|automatisch gegenereerde beschrijving|ai-generated content|ki-generierte inhalte"
    r"|généré par l.ia|generado por ia|generato dall.ia|gerado por ia|door ai gegenereerde)",
    re.IGNORECASE,
)
_FOUR_LETTERS = re.compile(f"{UNSPACED}{{4}}")  # in scripts without blanks between words


def alt_text(text: str | None, min_words: int = 2) -> str:
    """Returns the alternative text of a picture in one line; "" where it tells nothing: the name of
    a file, fewer than `min_words` words, or what a program guessed, which may be wrong."""
    said = " ".join((text or "").split())
    if _FILE_NAME.search(said) or _GUESSED.search(said):
        return ""
    enough = len(re.findall(r"\w+", said)) >= min_words or _FOUR_LETTERS.search(said)
    return said if enough else ""
