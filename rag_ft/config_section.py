"""What all sections of the configuration have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator


class Section(BaseModel):
    """Settings that stand together. Numbers are finite; `~` and `$HOME` in paths are expanded;
    texts can be written to a file and be part of a path."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _writable(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and ("\0" in text or not _encodes(text)):
                raise ValueError("must have no NUL and no half of a character")
        return value

    @field_validator("*")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [_expanded(item) for item in value]
        return _expanded(value)


def _expanded(value: Any) -> Any:
    return Path(os.path.expandvars(value)).expanduser() if isinstance(value, Path) else value


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
