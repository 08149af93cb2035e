"""Adapter and base model into one plain model folder: for servers without LoRA, for quantisation,
for shipping."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.publishing import note_copy
from rag_ft.run_dir import RunDir
from rag_ft.storage import temporary_beside
from rag_ft.terminal import say


def merge(config: Config, to: Path) -> Path:
    """Writes the tuned generator of the config's run to the folder `to` as safetensors with
    tokenizer and template, in the base model's dtype. The folder appears by one rename, complete.

    Returns:
        `to`.

    Raises:
        DataError: the run has no tuned generator.
        ConfigError: `to` is there already, or the adapter is of another base model than llm.model.
    """
    run_dir = RunDir(config.run_path)
    tuned = run_dir.generator
    if to.exists():
        raise ConfigError(f"{to} is there already: name a new folder")
    if not tuned.is_dir():
        raise DataError(f"{tuned} does not exist: run train_generator first")
    from rag_ft.training.generator.merging import merge_generator  # loads torch

    temporary = temporary_beside(to)
    try:
        merge_generator(config.llm, tuned, temporary)
        os.replace(temporary, to)
        note_copy(run_dir, "merge", str(to))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return to


def merge_command(args: argparse.Namespace) -> None:
    """`rag-ft merge`."""
    say(str(merge(checked_config_of(args, "train_generator"), args.to)))
