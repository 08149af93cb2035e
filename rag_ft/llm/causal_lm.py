"""A causal language model of transformers: loaded, and checked for what would fail later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rag_ft.errors import ConfigError, first_line
from rag_ft.model_loading import (
    POSITION_TABLE,
    check_all_loaded,
    check_quantisation,
    load_errors,
    loading_error,
    position_limit,
    quiet_loading,
)

TRIED_POSITIONS = 1024  # with more of them a trial takes seconds
# Values of generation_config.json that change a reply which is not sampled, and where they do not.
REPLY_SETTINGS: dict[str, Any] = {
    "num_beams": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "exponential_decay_length_penalty": None,
}


def load_causal_lm(
    folder: Path, dtype: str, device: str | None, trust_code: bool = False, **options: Any
) -> Any:
    """A causal model in evaluation mode on `device` (None: where it is loaded), in `dtype`.

    A language model inside one that also reads images is loaded with the whole. The attention is
    the fastest that the model has, unless `options` name one.

    Args:
        folder: of the model.
        dtype: float32, bfloat16, or "auto": the type of the files.
        device: "cpu", "cuda", ...
        trust_code: whether Python code in the model's folder may run.
        options: further arguments of transformers' from_pretrained.

    Raises:
        ConfigError: transformers cannot load it, or its files lack weights.
    """
    check_quantisation(folder, "llm")
    try:
        with quiet_loading():
            model, report = model_class(folder, trust_code).from_pretrained(
                folder,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                trust_remote_code=trust_code,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except load_errors() as error:
        raise loading_error(folder, "llm", error) from error
    check_all_loaded(folder, "llm", report)
    return (model if device is None else model.to(device)).eval()


def model_class(folder: Path, trust_code: bool) -> Any:
    """transformers' class that loads the folder: of text models, or of models that also read
    images."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = AutoConfig.from_pretrained(folder, trust_remote_code=trust_code).model_type
    # Some models of images have a language model of their own, which transformers cannot load again
    # once it is saved alone (Llama 3.2 Vision).
    alone: Any = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ""), None)
    is_lost = alone is None or not is_causal(alone.config_class.model_type)
    if is_lost and kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def is_causal(model_type: str) -> bool:
    """Whether transformers has a language model of this type that reads texts alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


@torch.inference_mode()
def check_language_model(model: Any, folder: Path, max_model_tokens: int) -> None:
    """Makes sure that the model continues texts, and has a position for every token of them.

    Raises:
        ConfigError: it fails, reads texts in both directions, or has fewer positions than
            llm.max_model_tokens.
    """
    shape = model.config.get_text_config()
    positions = position_limit(model.config)
    if positions and max_model_tokens > positions and not _reads_beyond(model, positions):
        raise ConfigError(
            f"{folder} has {positions} positions, and llm.max_model_tokens={max_model_tokens}: set "
            f"it to at most {positions}, or use a model with a longer context"
        )
    # In a causal model no token changes what stands before it.
    first, *_ = probe_prompts(shape.vocab_size)
    texts = torch.tensor([first, [*first[:-1], first[0]]], device=model.device)
    unfit: tuple[type[Exception], ...] = (*load_errors(), IndexError, NotImplementedError)
    try:
        logits = model(input_ids=texts).logits[:, :-1].float()
    except unfit as error:
        raise ConfigError(
            f"{folder} ({shape.model_type}) cannot read a short text ({first_line(error)[:120]}): "
            "set llm.model to another causal language model"
        ) from error
    rounding = 1e-4 if model.dtype == torch.float32 else 0.02
    if (logits[0] - logits[1]).norm() > rounding * logits[0].norm():
        raise ConfigError(
            f"{folder} ({shape.model_type}) reads texts in both directions, so it cannot continue "
            "one: set llm.model to a causal language model"
        )


def unused_settings(model: Any) -> dict[str, Any]:
    """What the model's generation_config.json asks for beyond end tokens and sampling, which would
    change the likeliest reply: {name: value}. No backend of rag-ft applies it."""
    found = {name: getattr(model.generation_config, name, None) for name in REPLY_SETTINGS}
    return {n: v for n, v in found.items() if v is not None and v != REPLY_SETTINGS[n]}


def _reads_beyond(model: Any, positions: int) -> bool:
    """Whether the model reads a text that is longer than its configuration says.

    Those with a table of positions do not. It is known by its name, and in short models by trying.
    """
    names = [name for name, _ in [*model.named_modules(), *model.named_buffers()]]
    if any(POSITION_TABLE.search(name) for name in names):
        return False
    if positions > TRIED_POSITIONS:
        return True
    first, *_ = probe_prompts(model.config.get_text_config().vocab_size)
    text = torch.tensor([(first * (positions // len(first) + 1))[: positions + 1]])
    try:
        model(input_ids=text.to(model.device))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def probe_prompts(vocabulary: int) -> list[list[int]]:
    """Token ids of a few short texts of unequal length, to try a model on: no control tokens, as
    those stand at the beginning or the end of vocabularies."""
    start, width = vocabulary // 3, max(1, vocabulary // 3)
    return [[start + (7 * i * (n + 2)) % width for i in range(12 - 4 * n)] for n in range(3)]
