"""Checkpoints of transformers' trainers: which of them are whole, after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from rag_ft.storage import write_text

FINISHED = "complete"  # in a checkpoint, written last: a checkpoint without it was cut off


class MarkComplete(TrainerCallback):
    """Marks each checkpoint when it is whole, so that a resumed training passes over one that a
    kill cut off."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the trainer after it has written a checkpoint."""
        # Each process writes its own random state into it.
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FINISHED, "")


def last_complete(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`, or None; removes those that a kill cut off."""
    found = list(folder.glob("checkpoint-*"))
    whole = [path for path in found if (path / FINISHED).exists()]
    for path in set(found) - set(whole):
        shutil.rmtree(path, ignore_errors=True)
    return max(map(str, whole), key=step_of, default=None)


def step_of(checkpoint: str) -> int:
    """The number of steps before a checkpoint was written."""
    return int(checkpoint.rpartition("-")[2])
