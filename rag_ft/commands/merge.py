"""Adapter and base model into one plain model folder: for servers without LoRA, for quantisation, for shipping."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.run_dir import RunDir


def merge(config: Config, to: Path) -> Path:
    """Writes the tuned generator of the config's run to the folder `to` as safetensors with tokenizer and template, in
    the base model's dtype. The folder appears by one rename, complete.

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
    temporary = to.with_name(to.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if (adapter / "adapter_config.json").exists():
        _merged(config, adapter).save_pretrained(temporary)
        _copy_tokenizer(adapter, temporary)
    else:  # all weights were trained: it is a whole model already
        shutil.copytree(adapter, temporary)
    os.replace(temporary, to)
    return to


def _merged(config: Config, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from rag_ft.model_hub import resolve
    from rag_ft.training.generator.lora import drop_unused_sampling

    _check_base(config, adapter)
    base = AutoModelForCausalLM.from_pretrained(
        resolve(config.llm.required_model, "llm"), dtype="auto"
    )
    drop_unused_sampling(base)
    try:
        return PeftModel.from_pretrained(base, adapter).merge_and_unload()
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"{adapter} does not fit llm.model {config.llm.model}: {first}"
        ) from error


def _check_base(config: Config, adapter: Path) -> None:
    """An adapter fits every model of the same shape, but makes sense on its own base alone."""
    from rag_ft.model_hub import read_json

    path, wanted = adapter / "adapter_config.json", config.llm.required_model
    trained = read_json(path).get("base_model_name_or_path")
    if trained in (None, wanted):
        return
    folder = _local_folder(trained)
    if folder is None or folder != _local_folder(wanted):
        raise ConfigError(
            f"{adapter} was trained on {trained}, and llm.model is {wanted}: set llm.model={trained}, or, if that "
            f"model was moved, base_model_name_or_path in {path}"
        )


def _local_folder(model: str) -> Path | None:
    """Where a model lies, itself or in the hub's cache; None where it is not on this machine."""
    from huggingface_hub import snapshot_download

    if (folder := Path(model).expanduser()).is_dir():
        return folder.resolve()
    try:
        return Path(snapshot_download(model, local_files_only=True)).resolve()
    except (OSError, ValueError):  # not in the cache, or no hub id
        return None


def _copy_tokenizer(adapter: Path, to: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(adapter).save_pretrained(to)


def merge_command(args: argparse.Namespace) -> None:
    """`rag-ft merge`."""
    print(merge(checked_config_of(args, "train_generator"), args.to))
