"""Work for workers on Ray that needs no model."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from rag_ft.engine.work import planned_rows, result_of
from rag_ft.errors import ConfigError
from rag_ft.storage import write_jsonl


@dataclass
class Doubling:
    """Work that takes a while: writes each row with its number doubled, and who did it. Rows may
    be poison."""

    folder: Path
    seconds: float = 0.2
    opened: int = 0
    has_processes: bool = False

    def do(self, name: str) -> None:
        self.opened += 1
        tries = self.folder / "tries"
        tries.mkdir(exist_ok=True)
        (tries / f"{name}-{os.getpid()}-{time.monotonic_ns()}").touch()
        rows = list(planned_rows(self.folder, name))
        if any(row.get("poison") == "kills" for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(row.get("poison") == "raises" for row in rows):
            raise ValueError("a row that nobody can read")
        if any(row.get("poison") == "user" for row in rows):
            raise ConfigError("there is no such model")
        time.sleep(self.seconds)
        write_jsonl(result_of(self.folder, name), ({"n": 2 * row["n"]} for row in rows))

    def close(self) -> None:
        self.opened = 0


def fail(error: Exception) -> None:
    """Work that raises an error."""
    raise error
