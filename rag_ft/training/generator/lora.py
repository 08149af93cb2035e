"""What is trained: the base model as it is loaded for training, and the adapter put on it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch

from rag_ft.config import Config
from rag_ft.errors import ConfigError, first_line
from rag_ft.hardware import choose_dtype
from rag_ft.model_hub import resolve

SAMPLING_FLAGS = (
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
)  # fmt: skip


def check_method(config: Config) -> None:
    """Refuses, before any work, what cannot be trained or could not be served afterwards."""
    knobs, llm = config.train_generator, config.llm
    if torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"{torch.cuda.device_count()} GPUs are visible and one process was started: use `accelerate launch "
            "--config_file configs/accelerate/ddp.yaml -m rag_ft train_generator CONFIG`, or show one GPU by "
            "CUDA_VISIBLE_DEVICES=0"
        )
    if llm.backend == "openai":
        raise ConfigError(
            f"llm.backend=openai names a served model ('{llm.model}'), which cannot be trained: set llm.model to its "
            "folder or hub id and llm.backend to vllm or transformers, or train_generator.enabled=false"
        )
    if knobs.advanced.cross_validation_folds == 1:
        raise ConfigError(
            "train_generator.advanced.cross_validation_folds=1 leaves nothing to train on: set 0, or 2 and more"
        )
    for tracker in knobs.advanced.report_to:
        if find_spec(tracker) is None:
            raise ConfigError(
                f"train_generator.advanced.report_to={tracker}, which is not installed: pip install {tracker}"
            )
    if sharded() and (knobs.advanced.select_by == "f1" or knobs.advanced.cross_validation_folds):
        raise ConfigError(
            "with FSDP no process holds the whole model to answer questions: set train_generator.advanced.select_by=loss and "
            "train_generator.advanced.cross_validation_folds=0, or launch with configs/accelerate/ddp.yaml"
        )
    if knobs.method == "dora" and llm.backend == "vllm":
        raise ConfigError(
            "vLLM does not serve DoRA adapters: set train_generator.method to lora or rslora"
        )
    if knobs.method == "qlora" and not torch.cuda.is_available():
        raise ConfigError(
            "train_generator.method=qlora needs a CUDA GPU, and none is visible: set it to lora"
        )
    if knobs.method == "qlora" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "train_generator.method=qlora needs bitsandbytes: pip install 'rag-ft[qlora]', or set lora"
        )


def load_base(config: Config) -> Any:
    """The base model for training, on this process's device: frozen weights in the dtype they are computed in, float32
    where they are trained.

    Raises:
        ConfigError: it does not load.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    folder = resolve(config.llm.required_model, "llm")
    gpu = torch.cuda.is_available()
    dtype = choose_dtype(config.llm.dtype, "cuda" if gpu else "cpu")
    if config.train_generator.method == "full":
        dtype = "float32"
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "attn_implementation": attention(config),
    }
    if config.train_generator.method == "qlora":
        options["quantization_config"] = _four_bits()
        options["device_map"] = {"": torch.cuda.current_device()}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = first_line(error)
        raise ConfigError(f"{folder} does not load as a causal language model: {reason}") from error
    drop_unused_sampling(model)
    return model.to("cuda") if gpu and not (sharded() or "device_map" in options) else model


def drop_unused_sampling(model: Any) -> None:
    """Takes sampling values out of the generation settings of a model that does not sample. Some models come with them;
    transformers reads such settings, but refuses to write them."""
    settings = model.generation_config
    if settings is not None and settings.do_sample is not True:
        for name in SAMPLING_FLAGS:
            setattr(settings, name, None)


def sharded() -> bool:
    """Whether the launcher spreads the weights over processes: no process then holds a whole model."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def adapter_config(config: Config) -> Any | None:
    """PEFT's settings; None where all weights are trained."""
    from peft import LoraConfig

    knobs = config.train_generator
    if knobs.method == "full":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=knobs.advanced.rank,
        lora_alpha=2 * knobs.advanced.rank,
        lora_dropout=knobs.advanced.dropout,
        target_modules="all-linear",
        use_dora=knobs.method == "dora",
        use_rslora=knobs.method == "rslora",
    )


def attention(config: Config) -> str:
    """Flash attention where it is installed, examples are to be packed and products run in bfloat16 (it takes no
    float32), else PyTorch's own."""
    wanted = (
        config.train_generator.advanced.packing
        and torch.cuda.is_available()
        and find_spec("flash_attn") is not None
    )
    return (
        "flash_attention_2"
        if wanted and choose_dtype(config.llm.dtype, "cuda") == "bfloat16"
        else "sdpa"
    )


def can_pack(config: Config) -> bool:
    """Whether packed examples are kept apart at no cost. Without flash attention a packed row is one dense, masked
    attention (slower than padding on CPUs), so examples are then batched by length instead."""
    return attention(config) == "flash_attention_2"


def _four_bits() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
