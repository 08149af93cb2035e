"""The licence that a model's files state."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

UNSTATED = "not stated in its files"
# The first lines of licence files of models, and the short name of each.
KNOWN = (
    (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"MIT License|Permission is hereby granted, free of charge", "mit"),
    (r"Gemma Terms of Use", "gemma"),
    (r"LLAMA [\d.]+ COMMUNITY LICENSE", "llama"),
    (r"Tongyi Qianwen|Qwen LICENSE", "qwen"),
)


def licence_of(folder: Path) -> str:
    """The licence in the front matter of the folder's README.md, else by the words of its licence
    file, else UNSTATED."""
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        matter = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            stated = (yaml.safe_load(matter[1]) if matter else None) or {}
        except yaml.YAMLError:
            stated = {}
        if isinstance(stated, dict) and stated.get("license"):
            name = stated.get("license_name") if stated["license"] == "other" else None
            return str(name or stated["license"])[:100]
    for path in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
        begin = path.read_text(encoding="utf-8", errors="replace")[:2000]
        for words, name in KNOWN:
            if re.search(words, begin, re.IGNORECASE):
                return name
        return f"see {path.name}"
    return UNSTATED
