"""What is trained: the base model as it is loaded for training, and the adapter put on it."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from typing import Any

import torch

from rag_ft.config import Dtype, LLMConfig, TrainGeneratorConfig
from rag_ft.errors import ConfigError, first_line
from rag_ft.hardware import choose_dtype
from rag_ft.llm.causal_lm import check_language_model, load_causal_lm, probe_prompts
from rag_ft.model_hub import resolve
from rag_ft.training.adapted_layers import unfit_layers
from rag_ft.training.distributed import sharded

FLASH = "flash_attention_2"
SAMPLING_FLAGS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)


def check_method(settings: TrainGeneratorConfig, llm: LLMConfig) -> None:
    """Raises a ConfigError, before any work, for what cannot be trained or served afterwards."""
    # One process uses one GPU: more of them need a launcher.
    method, folds = settings.method, settings.advanced.cross_validation_folds
    num_gpus = torch.cuda.device_count()
    if num_gpus > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"{num_gpus} GPUs are visible and one process was started: use `accelerate launch "
            "--config_file configs/accelerate/ddp.yaml -m rag_ft train_generator CONFIG`, "
            "or show one GPU by CUDA_VISIBLE_DEVICES=0"
        )
    if llm.backend == "openai":
        raise ConfigError(
            f"llm.backend=openai names a served model ('{llm.model}'), which cannot be trained: "
            "set llm.model to its folder or hub id and llm.backend to vllm or transformers, "
            "or train_generator.enabled=false"
        )
    if folds == 1:
        raise ConfigError(
            "train_generator.advanced.cross_validation_folds=1 leaves nothing to train on: "
            "set 0, or 2 and more"
        )
    if folds and settings.advanced.start:
        raise ConfigError(
            "what train_generator.advanced.start was trained on is no held-out document: set "
            "train_generator.advanced.cross_validation_folds=0, or start from the base"
        )
    for tracker in settings.advanced.report_to:
        if find_spec(tracker) is None:
            raise ConfigError(
                f"train_generator.advanced.report_to={tracker}, which is not installed: "
                f"pip install {tracker}"
            )
    if sharded() and (settings.advanced.select_by == "f1" or folds):
        raise ConfigError(
            "with FSDP no process holds the whole model to answer questions: "
            "set train_generator.advanced.select_by=loss and "
            "train_generator.advanced.cross_validation_folds=0, "
            "or launch with configs/accelerate/ddp.yaml"
        )
    # Methods that another library, or this machine, cannot run.
    if method == "dora" and llm.backend == "vllm":
        raise ConfigError(
            "vLLM does not serve DoRA adapters: set train_generator.method to lora or rslora"
        )
    if method == "qlora" and not torch.cuda.is_available():
        raise ConfigError(
            "train_generator.method=qlora needs a CUDA GPU, and none is visible: set it to lora"
        )
    if method == "qlora" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "train_generator.method=qlora needs bitsandbytes: "
            "pip install 'rag-ft[qlora]', or set lora"
        )


def load_base(llm: LLMConfig, settings: TrainGeneratorConfig) -> Any:
    """The base model for training, on this process's device. Frozen weights have the dtype they are
    computed in, trained weights are float32.

    Raises:
        ConfigError: there is no such model, or it does not load.
    """
    from transformers import BitsAndBytesConfig

    # All weights are trained in float32: bfloat16 is too coarse for small steps.
    folder = resolve(llm.required_model, "llm")
    gpu, method = torch.cuda.is_available(), settings.method
    if method == "full":
        folder = settings.advanced.start or folder
    dtype = choose_dtype(llm.dtype, "cuda" if gpu else "cpu")
    dtype = "float32" if method == "full" else dtype
    options: dict[str, Any] = {}
    if attention(settings.advanced.packing, llm.dtype) == FLASH:
        options["attn_implementation"] = FLASH
    # QLoRA (Dettmers et al. 2023): frozen weights in 4-bit NormalFloat, quantised twice.
    if method == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
        options["device_map"] = {"": torch.cuda.current_device()}
    trust_code = llm.advanced.trust_remote_code
    model = load_causal_lm(folder, dtype, None, trust_code, **options)
    drop_unused_sampling(model)
    # FSDP places sharded weights itself, and a device_map has placed 4-bit weights already.
    if gpu and not sharded() and "device_map" not in options:
        model = model.to("cuda")
    if not sharded():
        check_language_model(model, folder, llm.max_model_tokens)
    return model


def drop_unused_sampling(model: Any) -> None:
    """Removes sampling values from the generation settings of a model that does not sample: some
    models come with them, and transformers reads such settings but raises when it writes them."""
    settings = model.generation_config
    if settings is not None and settings.do_sample is not True:
        for name in SAMPLING_FLAGS:
            setattr(settings, name, None)


def adapter_config(settings: TrainGeneratorConfig, model: Any) -> Any | None:
    """PEFT's settings (a LoraConfig) for `model`; None where all weights are trained."""
    from peft import LoraConfig

    if settings.method == "full":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.advanced.rank,
        lora_alpha=2 * settings.advanced.rank,
        lora_dropout=settings.advanced.dropout,
        target_modules="all-linear",
        exclude_modules=without_adapter(model),
        use_dora=settings.method == "dora",
        use_rslora=settings.method == "rslora",
    )


def start_adapter(model: Any, settings: TrainGeneratorConfig) -> None:
    """Gives the adapter of `model` the weights of the one that the training starts from, if the
    settings name one.

    Raises:
        ConfigError: they are of another shape, some are missing, or the folder holds no adapter.
    """
    adapter = settings.advanced.start
    if adapter is None or settings.method == "full":
        return
    from peft import load_peft_weights, set_peft_model_state_dict

    try:
        weights = load_peft_weights(str(adapter), device="cpu")
        found: Any = set_peft_model_state_dict(model, weights)
        # What an adapter lacks would start from random numbers.
        missing = [name for name in found.missing_keys if "lora_" in name]
        unknown = [*found.unexpected_keys, *missing]
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        unknown = [first_line(error)]
    if unknown:
        raise ConfigError(
            f"train_generator.advanced.start: {adapter} does not fit ({unknown[0]}): it must be an "
            "adapter of the same base model, method and rank"
        )


def without_adapter(model: Any) -> str | None:
    """A regular expression of the linear layers that get no adapter (see unfit_layers); None where
    all of them do."""
    first, *_ = probe_prompts(model.config.get_text_config().vocab_size)
    text = torch.tensor([first], device=model.device)
    # Weights that are sharded are not here to be tried.
    read = None if sharded() or model.device.type == "meta" else lambda: model(input_ids=text)
    head = next((n for n, m in model.named_modules() if m is model.get_output_embeddings()), "")
    parts = [part for part in unfit_layers(model, read) if not re.fullmatch(part, head)]
    # Outside of the decoder are layers of images or sounds.
    decoder = model.get_decoder()
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    if prefix and read is None:
        parts.append(rf"(?!{re.escape(prefix)}\.).*")
    return "|".join(parts) or None


def attention(packing: bool, dtype: Dtype) -> str:
    """transformers' name of the attention that training uses; "" for the model's own.

    Flash attention computes in bfloat16 alone, and is chosen only where examples are to be packed:
    it separates packed examples at no cost. Without it a packed row is one dense, masked attention,
    slower than padding on CPUs, so examples are batched by length instead.
    """
    wanted = packing and torch.cuda.is_available()
    possible = wanted and find_spec("flash_attn") is not None
    if possible and choose_dtype(dtype, "cuda") == "bfloat16":
        return FLASH
    return ""
