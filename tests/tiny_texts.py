"""Short texts for the search, and the settings of a tiny encoder that embeds them."""

from __future__ import annotations

from pathlib import Path

from rag_ft.config import EncoderConfig

TEXTS = [
    "the mill at the river",
    "a",
    "who painted the tower in 1842 and for whom was it painted?",
    "on",
    "the tower",
]


def tiny(folder: Path, **settings: object) -> EncoderConfig:
    return EncoderConfig(model=str(folder), dtype="float32", advanced=settings)  # type: ignore[arg-type]
