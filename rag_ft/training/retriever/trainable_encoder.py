"""The encoder, or a reranker, while it is trained: which weights change, how they are kept, scaled
and shipped."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rag_ft.errors import ConfigError, first_line
from rag_ft.model_loading import quiet_loading
from rag_ft.training.adapted_layers import unfit_layers

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

State = dict[str, Tensor]


@dataclass
class TrainableEncoder:
    """An encoder or a reranker in training.

    `model` is in float32. `base` are the weights before training, which an interpolation needs
    where `method` is "full"; empty for "lora", and for a reranker, which is shipped whole.
    """

    model: Any  # SentenceTransformer or CrossEncoder
    method: Literal["lora", "full"]
    base: State

    def state(self) -> State:
        """The weights that training changes, by name, copied to the CPU."""
        parameters = self.model.named_parameters()
        return {n: p.detach().cpu().clone() for n, p in parameters if p.requires_grad}

    def load(self, state: State) -> None:
        """Puts back the weights of an earlier `state()`.

        Raises:
            ValueError: they are the weights of another encoder.
        """
        parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if parameters.keys() != state.keys():
            different = sorted(parameters.keys() ^ state.keys())[:3]
            raise ValueError(f"weights of another encoder: {different}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def state_of(self, tuned: Path) -> State:
        """The weights of an encoder that `save` wrote, as `state()` gives them. This one's stay.

        Raises:
            ConfigError: it is of another base, method or rank.
        """
        own = self.state()
        try:
            if self.method == "lora":
                from safetensors.torch import load_file

                stored = load_file(tuned / "adapter" / "adapter_model.safetensors")
                plain = {name.removeprefix("base_model.model."): w for name, w in stored.items()}
                found = {}
                for name in own:
                    inner = name.partition("model.")[2].replace(".default.", ".")
                    found[name] = plain[inner]
            else:
                from sentence_transformers import SentenceTransformer

                model = SentenceTransformer(str(tuned), device="cpu")
                weights = dict(model.named_parameters())
                found = {name: weights[name].detach().float() for name in own}
            self.load(found)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"train_retriever.advanced.start: {tuned} does not fit ({error}): it must be an "
                "encoder tuned from the same base, with the same method and rank"
            ) from error
        self.load(own)
        return found

    def merged(self, interpolation: float = 1.0) -> Any:
        """A plain model on the CPU with the weights base + interpolation x (tuned - base).

        Args:
            interpolation: 0 (the base) to 1 (the tuned encoder), as in WiSE-FT (Wortsman 2022).
        """
        twin = copy.deepcopy(self.model).cpu().eval()
        if self.method == "lora":
            from peft.tuners.lora import LoraLayer

            # Each LoRA layer is replaced by its base layer, which has taken in the scaled update.
            for name, layer in list(twin.named_modules()):
                if isinstance(layer, LoraLayer):
                    layer.scale_layer(interpolation)
                    layer.merge(safe_merge=True)
                    parent, _, child = name.rpartition(".")
                    setattr(twin.get_submodule(parent), child, layer.get_base_layer())
            # The merged model must load without PEFT.
            transformer: Any = twin.transformers_model
            transformer._hf_peft_config_loaded = False
            del transformer.peft_config
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                parameter.requires_grad_(True)
                if name in self.base:
                    base = self.base[name]
                    parameter.copy_(base + interpolation * (parameter - base))
        return twin

    def save(self, folder: Path, interpolation: float = 1.0) -> None:
        """Writes the merged encoder, which SentenceTransformer loads alone, and for LoRA adapter/
        beside it. `interpolation` is that of `merged`."""
        write_model(self.merged(interpolation), folder)
        if self.method == "full":
            return
        from safetensors.torch import load_file, save_file

        adapter = folder / "adapter"
        transformer: Any = self.model.transformers_model
        with quiet_loading():
            transformer.save_pretrained(str(adapter))

        # The update is B x A: scaling B scales it.
        path = adapter / "adapter_model.safetensors"
        weights = load_file(path)
        for name in weights:
            if "lora_B" in name:
                weights[name] = weights[name] * interpolation
        save_file(weights, path, metadata={"format": "pt"})

        # The adapter is for use, not for further training. PEFT writes a set in any order.
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        config["inference_mode"] = True
        config["target_modules"] = sorted(config["target_modules"])
        text = json.dumps(config, indent=2, sort_keys=True)
        (adapter / "adapter_config.json").write_text(text, encoding="utf-8")


def write_model(model: SentenceTransformer | CrossEncoder, folder: Path) -> None:
    """Writes a model that its library loads alone."""
    # A tokenizer keeps how it last cut and padded a batch, which its files shall not.
    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if fast is not None:
        fast.no_truncation()
        fast.no_padding()
    with quiet_loading():
        model.save_pretrained(str(folder), create_model_card=False)


def make_trainable(
    model: SentenceTransformer, method: Literal["lora", "full"], rank: int, seed: int
) -> TrainableEncoder:
    """Prepares a float32 encoder for training.

    Args:
        model: the encoder; it is changed.
        method: "lora" adds LoRA matrices to all linear layers, "full" trains all weights.
        rank: of the LoRA matrices; alpha is twice the rank.
        seed: of the LoRA matrices.

    Raises:
        ConfigError: the encoder's architecture takes no LoRA.
    """
    from transformers import set_seed

    # Before the adapter is added: its matrices are random.
    set_seed(seed)
    model.train()
    if method == "lora":
        # The encoder may be one of an encoder-decoder model.
        unfit = unfit_layers(model.transformers_model, lambda: model.encode(["A text."]))
        model.train()
        excluded = "|".join([".*pooler.*", *unfit])
        add_lora(model, rank, "FEATURE_EXTRACTION", "train_retriever", exclude=excluded)
    # Nothing reads BERT's pooler: it gets no gradient, and DDP stops at weights without one.
    for name, parameter in model.named_parameters():
        if "pooler." in name:
            parameter.requires_grad_(False)
    encoder = TrainableEncoder(model, method, {})
    if method == "full":
        encoder.base = encoder.state()
    return encoder


def add_lora(
    model: SentenceTransformer | CrossEncoder,
    rank: int,
    task: str,
    section: str,
    exclude: str | None = None,
) -> None:
    """Adds LoRA matrices to all linear layers but those that match `exclude`. `task` is PEFT's name
    of it.

    Raises:
        ConfigError: the architecture takes no LoRA; names the setting of `section`.
    """
    from peft import LoraConfig

    config = LoraConfig(
        task_type=task,
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=exclude,
    )
    try:
        model.add_adapter(config)
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"this model takes no LoRA adapter ({first_line(error)[:120]}): set "
            f"{section}.advanced.method=full"
        ) from error
