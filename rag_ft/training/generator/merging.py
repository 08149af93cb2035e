"""Adapter and base model -> one plain model folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rag_ft.config import LLMConfig
from rag_ft.errors import ConfigError, first_line
from rag_ft.llm.adapters import check_loaded
from rag_ft.llm.causal_lm import load_causal_lm
from rag_ft.model_hub import check_adapter_base, resolve
from rag_ft.model_loading import quiet_loading
from rag_ft.training.generator.lora import drop_unused_sampling


def merge_generator(llm: LLMConfig, tuned: Path, to: Path) -> None:
    """Writes the generator that was tuned in the folder `tuned` to the new folder `to` as a whole
    model in safetensors, with tokenizer and template, in the base model's dtype.

    Raises:
        ConfigError: the adapter was trained on another model than llm.model.
    """
    if not (tuned / "adapter_config.json").exists():
        shutil.copytree(tuned, to)  # all weights were trained: it is a whole model already
        return
    from transformers import AutoTokenizer

    to.mkdir()  # fails where something has the name: no link is followed
    model = merged_model(llm.required_model, tuned, llm.advanced.trust_remote_code)
    with quiet_loading():
        model.save_pretrained(to)
    # Weights are saved for one user alone, and a server in a container is another one.
    for path in to.glob("*.safetensors"):
        path.chmod((to / "config.json").stat().st_mode)
    AutoTokenizer.from_pretrained(tuned, trust_remote_code=False).save_pretrained(to)


def merged_model(base: str, adapter: Path, trust_code: bool = False) -> Any:
    """The model `base` (llm.model) with the adapter's weights added to its own.

    Raises:
        ConfigError: the adapter was trained on another model, lacks weights, or does not fit.
    """
    from peft import PeftModel

    check_adapter_base(adapter, base)
    model = load_causal_lm(resolve(base, "llm"), "auto", None, trust_code)
    drop_unused_sampling(model)
    try:
        tuned = PeftModel.from_pretrained(model, adapter)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{adapter} does not fit llm.model {base}: {first_line(error)}"
        ) from error
    check_loaded(tuned, "default", adapter)
    return tuned.merge_and_unload()
