"""Adapters beside a language model, loaded by PEFT and checked for what would be wrong silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError
from rag_ft.model_files import read_weight_headers
from rag_ft.model_loading import MANY_NAMES, load_errors


def open_adapters(model: Any, adapters: Mapping[str, Path]) -> Any:
    """PEFT's model of `model` with adapters {name: folder}, in evaluation mode; None without any.

    They keep the model's type: they are not raised to float32 as for training.

    Raises:
        ConfigError: an adapter lacks weights, does not fit the model, or is of another kind.
    """
    from peft import PeftModel

    found: Any = None
    for name, folder in adapters.items():
        options: dict[str, Any] = {"adapter_name": name, "autocast_adapter_dtype": False}
        try:
            if found is None:
                found = PeftModel.from_pretrained(model, str(folder), **options)
            else:
                found.load_adapter(str(folder), **options)
        except load_errors() as error:
            raise ConfigError(
                f"adapter '{name}' ({folder}) does not fit llm.model "
                f"({' '.join(str(error).split())[:160]}): use an adapter that was trained on it"
            ) from error
        check_loaded(found, name, folder)
    return found.eval() if found is not None else None


def check_loaded(model: Any, name: str, folder: Path) -> None:
    """Checks the adapter `name` that PEFT's `model` read from `folder`.

    Raises:
        ConfigError: the files lack weights, or it is no LoRA adapter.
    """
    from peft import get_peft_model_state_dict

    kind = model.peft_config[name]
    if kind.is_prompt_learning:
        raise ConfigError(
            f"adapter '{name}' ({folder}) puts learned tokens before the prompt ("
            f"{kind.peft_type.value}), which is not supported: use a LoRA adapter"
        )
    # PEFT leaves a layer as it is whose matrices are not in the file.
    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    stored = read_weight_headers(folder, "adapter_model")
    missing = sorted(weight for weight in wanted if "lora_" in weight and weight not in stored)
    if missing:
        raise ConfigError(
            f"the files of adapter '{name}' ({folder}) lack {len(missing)} of its weights "
            f"({', '.join(missing[:MANY_NAMES])}): copy or download it again"
        )
