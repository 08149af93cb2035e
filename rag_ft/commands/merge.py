"""Adapter and base model into one plain model folder: for servers without LoRA, for quantisation,
for shipping."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError, first_line
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
    adapter = RunDir(config.run_path).generator
    if to.exists():
        raise ConfigError(f"{to} is there already: name a new folder")
    if not adapter.is_dir():
        raise DataError(f"{adapter} does not exist: run train_generator first")
    temporary = temporary_beside(to)
    try:
        if (adapter / "adapter_config.json").exists():
            temporary.mkdir()  # fails where something has the name: no link is followed
            model = merged_model(
                config.llm.required_model, adapter, config.llm.advanced.trust_remote_code
            )
            model.save_pretrained(temporary)
            from transformers import AutoTokenizer

            AutoTokenizer.from_pretrained(adapter, trust_remote_code=False).save_pretrained(
                temporary
            )
        else:  # all weights were trained: it is a whole model already
            shutil.copytree(adapter, temporary)
        os.replace(temporary, to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return to


def merged_model(base: str, adapter: Path, trust_code: bool = False) -> Any:
    """The model `base` (llm.model) with the adapter's weights added to its own.

    Raises:
        ConfigError: the adapter was trained on another model, or does not fit this one.
    """
    from peft import PeftModel

    from rag_ft.llm.causal_lm import load_causal_lm
    from rag_ft.model_hub import check_adapter_base, resolve
    from rag_ft.training.generator.lora import drop_unused_sampling

    check_adapter_base(adapter, base)
    model = load_causal_lm(resolve(base, "llm"), "auto", None, trust_code)
    drop_unused_sampling(model)
    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{adapter} does not fit llm.model {base}: {first_line(error)}"
        ) from error


def merge_command(args: argparse.Namespace) -> None:
    """`rag-ft merge`."""
    say(str(merge(checked_config_of(args, "train_generator"), args.to)))
