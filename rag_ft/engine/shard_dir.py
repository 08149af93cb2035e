"""The folder of a run, as one of several shards sees it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rag_ft.run_dir import RunDir


@dataclass(frozen=True)
class ShardDir(RunDir):
    """The folder of a run, for one of several shards ("I/N") that work there at the same time."""

    shard: str

    def replies(self, stage: str) -> Path:
        """A file of its own: two processes cannot append to one."""
        return self.checkpoints(stage) / f"replies-{self.shard.replace('/', '-of-')}.jsonl"

    def copy_replies(self, stage: str) -> None:
        """The file begins with the replies that the run has."""
        kept, own = super().replies(stage), self.replies(stage)
        if kept.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept, own)
