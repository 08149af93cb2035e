"""Where a model lies, what it is (its content hash), and how it is computed: folder, fingerprint, dtype, device."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError
from rag_ft.records import content_hash

SMALL_BYTES = 2 * 2**30  # up to this size weights are hashed whole (about a second a GiB)
EDGE_BYTES = 2**20
TUNED_MARKS = (
    "adapter_config.json",
    "config.json",
)  # of a tuned generator's folder: an adapter, or a whole model
FLOAT_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
}  # of safetensors' types those that loading converts
KEYED_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt"}


def resolve_model_folder(model: str) -> Path:
    """The local folder of `model`: itself, or what the hub client finds for a hub id (downloaded where it may).

    Raises:
        ConfigError: neither a folder with a config.json nor a hub id that can be had.
    """
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise ConfigError(
            f"llm.model {model} is a folder without config.json: name a folder saved by save_pretrained"
        )
    return _from_hub(model)


def context_tokens(folder: Path, wanted: int) -> int:
    """Longest prompt plus reply: `wanted`, or less where the model itself takes less."""
    found = read_json(folder / "config.json")
    limit = found.get("max_position_embeddings") or found.get("text_config", {}).get(
        "max_position_embeddings"
    )
    return min(wanted, limit) if limit else wanted


def folder_fingerprint(folder: Path) -> str:
    """16 hex digits over the names and contents of a model's or an adapter's files.

    Weights over 2 GiB in all count by size and by the first and last MiB of each file.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in KEYED_SUFFIXES)
    whole = sum(p.stat().st_size for p in files) <= SMALL_BYTES
    return content_hash(
        *((p.name, _hash_file(p, whole)) for p in files if p.name != "training_args.json")
    )


def check_adapter(name: str, folder: Path) -> dict[str, Any]:
    """The adapter_config.json of a PEFT folder. Raises ConfigError where there is none."""
    try:
        return read_json(Path(folder) / "adapter_config.json")
    except ConfigError as error:
        raise ConfigError(
            f"adapter '{name}': {folder} is no PEFT adapter folder ({error}); train one first"
        ) from error


def with_tuned(llm: Any, tuned: Path | None) -> tuple[Any, dict[str, Path]]:
    """(LLMConfig, adapters) that open the generator tuned in the folder `tuned`: the base model with an adapter "tuned"
    beside it, or, where all weights were tuned, that folder as a model of its own without adapters."""
    if tuned is None:
        return llm, {}
    if (tuned / "adapter_config.json").exists():
        return llm, {"tuned": tuned}
    return llm.model_copy(update={"model": str(tuned)}), {}


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def weights_gb(folder: Path, dtype: str) -> float:
    """GiB that the weights take in memory computed in `dtype`. Raises ConfigError where a weight file is not whole."""
    return sum(_bytes_in_memory(path, dtype) for path in _weight_files(folder)) / 2**30


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads; others may lie beside them. None where there are no safetensors."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.exists() or not index.exists():
        return [single] if single.exists() else []
    return [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]


def _bytes_in_memory(path: Path, dtype: str) -> int:
    """Floating-point tensors are converted to `dtype`; quantised ones stay as they are."""
    in_memory = 0
    for stored, num_bytes in _tensors(path):
        size = FLOAT_BYTES.get(stored)
        in_memory += num_bytes * (4 if dtype == "float32" else 2) // size if size else num_bytes
    return in_memory


def _tensors(path: Path) -> list[tuple[str, int]]:
    """(dtype, bytes) of each tensor, from the file's header."""
    try:
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(length)) if length <= path.stat().st_size else {}
        header.pop("__metadata__", None)
        tensors = [(t["dtype"], t["data_offsets"]) for t in header.values()]
        is_whole = bool(tensors) and path.stat().st_size >= 8 + length + max(
            end for _, (_, end) in tensors
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"cannot read the weights {path} ({error}): copy or download the model again"
        ) from error
    if not is_whole:
        raise ConfigError(f"the weights {path} are not whole: copy or download the model again")
    return [(dtype, end - start) for dtype, (start, end) in tensors]


def choose_dtype(wanted: str, device: str) -> str:
    """ "auto" is bfloat16 where the device computes it natively, else float32."""
    if wanted != "auto":
        return wanted
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except HFValidationError as error:
        raise ConfigError(f"llm.model {model}: no such folder (and not a hub id)") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"llm.model {model} is no folder here, and the hub did not give it ({type(error).__name__}): "
            f"check the path, or download it on a machine with a network"
        ) from error


def _hash_file(path: Path, whole: bool) -> str:
    with path.open("rb") as raw:
        if whole or path.stat().st_size <= 2 * EDGE_BYTES:
            return hashlib.file_digest(raw, "sha256").hexdigest()
        digest = hashlib.sha256(raw.read(EDGE_BYTES))
        raw.seek(-EDGE_BYTES, 2)
        digest.update(raw.read(EDGE_BYTES))
        return f"{path.stat().st_size}:{digest.hexdigest()}"
