"""The encoder while it is being trained: which of its weights move, and how they are kept, scaled and shipped."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rag_ft.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

State = dict[str, Tensor]


@dataclass
class Student:
    """`model` is trained in float32; `base` are the trainable weights before training (method "full"), or empty."""

    model: SentenceTransformer
    method: Literal["lora", "full"]
    base: State

    def state(self) -> State:
        """The weights that training moves, by name, copied to the CPU."""
        return {
            n: p.detach().cpu().clone() for n, p in self.model.named_parameters() if p.requires_grad
        }

    def load(self, state: State) -> None:
        """Puts back what `state()` gave. Raises ValueError when the names differ."""
        parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if parameters.keys() != state.keys():
            raise ValueError(
                f"weights of another encoder: {sorted(parameters.keys() ^ state.keys())[:3]}"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def merged(self, alpha: float = 1.0) -> SentenceTransformer:
        """A plain encoder on the CPU with base + alpha x (tuned - base): alpha 1 is the tuned one, 0 the base."""
        twin = copy.deepcopy(self.model).cpu().eval()
        if self.method == "lora":
            _merge_lora(twin, alpha)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                parameter.requires_grad_(True)
                if name in self.base:
                    parameter.copy_(self.base[name] + alpha * (parameter - self.base[name]))
        return twin

    def save(self, folder: Path, alpha: float = 1.0) -> None:
        """Writes the merged encoder (loadable by SentenceTransformer alone) and, for LoRA, adapter/ beside it."""
        self.merged(alpha).save_pretrained(str(folder), create_model_card=False)
        if self.method == "lora":
            _save_adapter(self.model, folder / "adapter", alpha)


def make_student(
    model: SentenceTransformer, method: Literal["lora", "full"], rank: int, seed: int
) -> Student:
    """Prepares a float32 encoder for training: new LoRA matrices on all linear layers, or all weights.

    Raises:
        ConfigError: the encoder's architecture takes no LoRA.
    """
    from transformers import set_seed

    set_seed(seed)  # before the adapter: its matrices are random
    model.train()
    if method == "lora":
        _add_lora(model, rank)
    for name, parameter in model.named_parameters():
        if (
            "pooler." in name
        ):  # BERT's, which no pooling of ours reads: without a gradient, DDP would stop
            parameter.requires_grad_(False)
    trained = {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}
    return Student(model, method, trained if method == "full" else {})


def _add_lora(model: SentenceTransformer, rank: int) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=".*pooler.*",
    )
    try:
        model.add_adapter(config)
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"this encoder takes no LoRA adapter ({error}): set train_retriever.advanced.method=full"
        ) from error


def _merge_lora(model: SentenceTransformer, alpha: float) -> None:
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.scale_layer(alpha)
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    transformer: Any = model.transformers_model
    transformer._hf_peft_config_loaded = False
    del transformer.peft_config


def _save_adapter(model: SentenceTransformer, folder: Path, alpha: float) -> None:
    from safetensors.torch import load_file, save_file

    transformer: Any = model.transformers_model
    transformer.save_pretrained(str(folder))
    weights = folder / "adapter_model.safetensors"
    scaled = {n: w * alpha if "lora_B" in n else w for n, w in load_file(weights).items()}
    save_file(scaled, weights, metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["inference_mode"] = True
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True), encoding="utf-8"
    )
