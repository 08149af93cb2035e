"""What loading a model by another library can go wrong with, and the line that says so.

Used for language models and encoders; imports neither transformers nor torch before it has to.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, first_line
from rag_ft.model_files import read_json

MANY_NAMES = 3  # of missing weights that a message shows
# Tables of positions in a model: a token beyond the last row cannot be read.
POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?)$")


def position_limit(config: Any) -> int | None:
    """The positions that a model's configuration (transformers' PretrainedConfig) names; None where
    it names none, or says by a number below 1 that there is no limit."""
    shape = config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len"):
        limit = getattr(shape, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def load_errors() -> tuple[type[Exception], ...]:
    """What loading a model raises for files or packages that do not fit."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    python = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError)
    return (*python, SafetensorError, StrictDataclassError)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bar and its report of weights, which we check ourselves; for
    saving too."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def loading_error(folder: Path, section: str, error: BaseException) -> ConfigError:
    """One line for what loading a model or its tokenizer raised; `section` is that of the model."""
    if "trust_remote_code" in str(error):
        return _needs_code(folder, section)
    if "ignore_mismatched_sizes" in str(error):
        return ConfigError(
            f"the weights of {folder} have other shapes than its config.json says: copy or "
            f"download the model again, or set {section}.model to another"
        )
    settings = folder / "config.json"
    quantised = read_json(settings).get("quantization_config") if settings.exists() else None
    if isinstance(error, ImportError | RuntimeError | ValueError) and isinstance(quantised, dict):
        method = quantised.get("quant_method", "unknown")
        return ConfigError(
            f"{folder} has quantised weights ({method}) and cannot be loaded here: install the "
            f"package that reads {method}, or set {section}.model to the model in full precision "
            f"({first_line(error)[:120]})"
        )
    kind = {"llm": "a causal language model", "encoder": "an encoder"}.get(section, f"a {section}")
    return ConfigError(
        f"{folder} does not load as {kind} "
        f"({first_line(error)[:200]}): copy or download it again, or set {section}.model to another"
    )


def _needs_code(folder: Path, section: str) -> ConfigError:
    setting = f"read that code and set {section}.advanced.trust_remote_code=true, or "
    return ConfigError(
        f"{folder} needs Python code of its own (auto_map), which does not run by default: "
        f"{'' if section == 'reranker' else setting}choose a model that transformers knows"
    )


def check_tokenizer_code(folder: Path, section: str, trust_code: bool) -> None:
    """Makes sure that the tokenizer is of a class that transformers has: in place of one with code
    of its own transformers takes that of the model's type, without a word.

    Raises:
        ConfigError: it has code of its own, and `trust_code` is false.
    """
    import transformers

    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    named = settings.get("auto_map")
    own = isinstance(named, dict) and "AutoTokenizer" in named
    if own and not trust_code and not hasattr(transformers, str(settings.get("tokenizer_class"))):
        raise _needs_code(folder, section)


def check_quantisation(folder: Path, section: str) -> None:
    """Makes sure that transformers knows how the weights were quantised: what it does not know it
    leaves out, with a warning.

    Raises:
        ConfigError: it does not.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    path = folder / "config.json"
    settings = read_json(path).get("quantization_config") if path.exists() else None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise ConfigError(
            f"{folder} has quantised weights ({method}), which transformers does not read: set "
            f"{section}.model to the model in full precision"
        )


def check_stored(folder: Path, section: str, model: Any) -> None:
    """check_all_loaded of a model that sentence-transformers has loaded from the folder: loads it
    once more, without reading a weight."""
    _, report = type(model).from_pretrained(
        folder, config=model.config, device_map="meta", output_loading_info=True
    )
    check_all_loaded(folder, section, report)


def check_all_loaded(folder: Path, section: str, report: dict[str, Any]) -> None:
    """Makes sure that every weight came from the files: transformers fills the rest with random
    numbers. `report` is what it returns with output_loading_info.

    Raises:
        ConfigError: weights are missing; names them.
    """
    mismatched = {str(entry[0]) for entry in report.get("mismatched_keys", ())}
    # Nothing reads the pooler of BERT, which many encoders are published without.
    missing = {*report["missing_keys"], *mismatched}
    missing = {name for name in missing if not re.search(r"(^|\.)pooler\.", name)}
    if missing:
        names = sorted(missing)[:MANY_NAMES]
        more = ", ..." if len(missing) > MANY_NAMES else ""
        raise ConfigError(
            f"the files of {folder} lack {len(missing)} weights of its architecture "
            f"({', '.join(names)}{more}), which would be random: copy or download the model again, "
            f"or set {section}.model to another"
        )


def check_tokenizer(folder: Path, tokenizer: Any, rows: int, used: set[int]) -> None:
    """Makes sure that the tokenizer knows words, and that the model has one of its `rows` for every
    token that a text can become and for those `used` by a sample. Special tokens beyond the rows
    are harmless where nothing writes them: texts are escaped.

    Raises:
        ConfigError: it does not; names tokens.
    """
    marked = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = marked | set(tokenizer.all_special_ids)
    if len(tokenizer) <= len(special):
        raise ConfigError(
            f"the tokenizer of {folder} knows no words, as its files are missing: copy the model's "
            "tokenizer files (tokenizer.json) beside its weights"
        )
    beyond = {id for id in used if id >= rows}
    if len(tokenizer) > rows:
        beyond |= {id for id in tokenizer.get_vocab().values() if id >= rows} - special
    if beyond:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(beyond)[:MANY_NAMES])))
        raise ConfigError(
            f"the tokenizer of {folder} has {len(beyond)} tokens beyond the {rows} rows of the "
            f"model's vocabulary ({names}): use the tokenizer that the model was trained with, or "
            "resize the model (resize_token_embeddings), train and save it"
        )
