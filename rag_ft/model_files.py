"""What the files of a model's folder say, before anything is loaded: whether it is a model of the
wanted kind, and whether its weights are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rag_ft.errors import ConfigError

ModelKind = Literal["llm", "encoder", "reranker"]  # also the section that names the model

COPY_AGAIN = "copy or download the model again"
LFS_POINTER = b"version https://git-lfs"
# Weights of other libraries, and those that run code when they are loaded.
GGUF, PICKLED = ("*.gguf",), ("*.bin", "*.pt", "*.pth", "*.ckpt")
NO_WEIGHTS = ("training_args.bin",)  # a pickle beside the weights, which nobody loads
# Architectures that transformers would fill up with random weights to a language model.
NO_LANGUAGE_MODEL = re.compile(
    r"\w*For(SequenceClassification|TokenClassification|QuestionAnswering|MaskedLM|MultipleChoice"
    r"|NextSentencePrediction|FeatureExtraction|RewardModel\w*)"
)
CLASSIFIER = re.compile(r"\w*ForSequenceClassification")
# What else an encoder's folder may hold, and what to do about it.
OTHER_MODULES = {
    "StaticEmbedding": "a static model without a transformer",
    "WordEmbeddings": "a static model without a transformer",
    "BoW": "a bag of words (BoW) without a transformer",
    "Router": "an asymmetric model (Router) with one encoder for questions and one for documents",
    "Asym": "an asymmetric model (Asym) with one encoder for questions and one for documents",
    "SpladePooling": "a SparseEncoder (SpladePooling)",
    "MLMTransformer": "a SparseEncoder (MLMTransformer)",
    "SparseAutoEncoder": "a SparseEncoder (SparseAutoEncoder)",
    "SparseStaticEmbedding": "a SparseEncoder (SparseStaticEmbedding)",
    "LogitScore": "a CrossEncoder, a reranker",
    "MultiVectorMask": "a multi-vector model (MultiVectorEncoder)",
    "CLIPModel": "a model of images and texts (CLIPModel)",
}
OTHER_TYPES = {
    "CrossEncoder": "a CrossEncoder, a reranker",
    "SparseEncoder": "a SparseEncoder",
    "MultiVectorEncoder": "a multi-vector model (MultiVectorEncoder)",
    "ColBERT": "a multi-vector model (ColBERT)",
}
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # safetensors types that loading converts
USE_ENCODER = "set encoder.model to a SentenceTransformer with a transformer and a pooling"


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file; `dtype` is safetensors' name, such as BF16."""

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int

    @classmethod
    def of(cls, header: dict[str, Any]) -> StoredTensor:
        """By the tensor's part of a file's header."""
        begin, end = header["data_offsets"]
        return cls(header["dtype"], tuple(header["shape"]), end - begin)


def check_model(folder: Path, kind: ModelKind) -> None:
    """Makes sure that the folder holds a model of this kind with complete weights.

    Raises:
        ConfigError: it does not; says what it holds and what to use instead.
    """
    if kind == "llm":
        _check_llm(folder)
        check_weights(folder, kind)
        return
    if kind == "encoder":
        _check_encoder(folder)
        for module in module_folders(folder):
            read_weight_headers(module)
    check_weights(transformer_folder(folder), kind)


def check_weights(folder: Path, kind: ModelKind) -> None:
    """Makes sure that the folder's weights are complete safetensors. A folder without weights of
    any sort passes: whatever loads it says so.

    Raises:
        ConfigError: they are a git-lfs pointer, a cut download, a pickle or a GGUF file.
    """
    if weight_files(folder, "model"):
        read_weight_headers(folder)
        return
    for patterns, what, remedy in (
        (GGUF, "a GGUF file", "a folder in safetensors, the format before it was converted"),
        (PICKLED, "pickled weights", "a folder in safetensors: load it and save_pretrained"),
    ):
        found = [path for pattern in patterns for path in folder.glob(pattern)]
        names = sorted(path.name for path in found if path.name not in NO_WEIGHTS)
        if names:
            raise ConfigError(
                f"{folder} holds {what} ({names[0]}) and no model.safetensors: set {kind}.model "
                f"to {remedy}"
            )


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files that are loaded from a folder: one, or those that an index names.

    Raises:
        ConfigError: the index cannot be read.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        return []
    names = read_json(index).get("weight_map", {}).values()
    return [folder / name for name in sorted(set(names))]


def read_weight_headers(folder: Path, stem: str = "model") -> dict[str, StoredTensor]:
    """{name: tensor} of all the weights in a folder, by the headers of the files that begin with
    `stem`.

    Raises:
        ConfigError: a file of weights is missing, cut off, or none.
    """
    found: dict[str, StoredTensor] = {}
    for path in weight_files(folder, stem):
        # A safetensors file begins with the length of a JSON header, which lists its tensors.
        try:
            size = path.stat().st_size
            with path.open("rb") as raw:
                start = raw.read(len(LFS_POINTER))
                if start == LFS_POINTER:
                    raise ConfigError(
                        f"the weights {path} are a git-lfs pointer, not weights: run `git lfs "
                        f"pull` there, or {COPY_AGAIN}"
                    )
                length = int.from_bytes(start[:8], "little")
                raw.seek(8)
                header = json.loads(raw.read(length)) if length <= size else {}
            header.pop("__metadata__", None)
            ends = [tensor["data_offsets"][1] for tensor in header.values()]
            found |= {name: StoredTensor.of(tensor) for name, tensor in header.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"cannot read the weights {path} ({error}): {COPY_AGAIN}") from error
        if not ends or size < 8 + length + max(ends):
            raise ConfigError(f"the weights {path} are incomplete: {COPY_AGAIN}")
    return found


def transformer_folder(folder: Path) -> Path:
    """The folder of a sentence encoder's config and tokenizer.

    It is the folder of the encoder's first module, or `folder` itself.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return folder / modules[0]["path"]
    except (OSError, ValueError, LookupError, TypeError):
        return folder


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a model's file.

    Raises:
        ConfigError: the file is missing or holds no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path} ({error}): {COPY_AGAIN}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no JSON object: {COPY_AGAIN}")
    return found


def _check_llm(folder: Path) -> None:
    if not (folder / "config.json").exists():
        adapter = folder / "adapter_config.json"
        if adapter.exists():
            base = read_json(adapter).get("base_model_name_or_path") or "its base model"
            raise ConfigError(
                f"{folder} holds a LoRA adapter, not a whole model: set llm.model to {base}, and "
                "evaluate.adapter to this folder"
            )
        check_weights(folder, "llm")
        raise ConfigError(
            f"{folder} holds no llm: it is a folder without config.json; set llm.model to a folder "
            "saved by save_pretrained"
        )
    # An encoder or a reranker of a causal family has all the weights, and answers nothing.
    if (folder / "modules.json").exists():
        raise ConfigError(
            f"{folder} is an encoder or a reranker of sentence-transformers, not a language model: "
            "set llm.model to a causal language model"
        )
    config = read_json(folder / "config.json")
    if config.get("is_encoder_decoder"):
        raise ConfigError(
            f"{folder} is an encoder-decoder model ({config.get('model_type')}): set llm.model to "
            "a decoder, a causal language model"
        )
    for name in config.get("architectures") or []:
        if NO_LANGUAGE_MODEL.fullmatch(str(name)):
            raise ConfigError(
                f"{folder} was saved as {name}, without the output layer (lm_head) of a language "
                "model: set llm.model to a causal language model"
            )


def _check_encoder(folder: Path) -> None:
    inner = transformer_folder(folder)
    for place in (folder, inner):
        if (place / "adapter_config.json").exists() and not (place / "config.json").exists():
            base = read_json(place / "adapter_config.json").get("base_model_name_or_path")
            raise ConfigError(
                f"{folder} holds a LoRA adapter on {base or 'another model'}, not a whole encoder: "
                "merge it into its base (merge_and_unload), save that, and set encoder.model to it"
            )
    settings_path = folder / "config_sentence_transformers.json"
    settings = read_json(settings_path) if settings_path.exists() else {}
    if what := OTHER_TYPES.get(str(settings.get("model_type"))):
        raise ConfigError(f"{folder} is {what}, not an encoder: {USE_ENCODER}")
    modules = module_names(folder)
    for name in modules:
        if name in OTHER_MODULES:
            raise ConfigError(f"{folder} is {OTHER_MODULES[name]}: {USE_ENCODER}")
    if not modules and (folder / "config.json").exists():
        for name in read_json(folder / "config.json").get("architectures") or []:
            if CLASSIFIER.fullmatch(str(name)):
                raise ConfigError(
                    f"{folder} was saved as {name}: it is a classifier or a CrossEncoder (a "
                    f"reranker), not an encoder: {USE_ENCODER}"
                )

    # Vectors are made unit length and ranked by their inner product, which is the cosine.
    # Cut after they were normalised (truncate_dim), they have no unit length.
    similarity = settings.get("similarity_fn_name")
    is_unit = modules[-1:] == ["Normalize"] and not settings.get("truncate_dim")
    alike = ("cosine", "dot", "euclidean") if is_unit else ("cosine",)
    if similarity and similarity not in alike:
        raise ConfigError(
            f"{folder} was trained for the {similarity} similarity of vectors that are not "
            "normalised, and rag-ft ranks by cosine: set encoder.model to an encoder for cosine"
        )


def module_names(folder: Path) -> list[str]:
    """The class names of a sentence encoder's modules, in order; empty without modules.json.

    Raises:
        ConfigError: modules.json cannot be read.
    """
    return [name.rpartition(".")[2] for name, _ in _modules(folder)]


def module_folders(folder: Path) -> list[Path]:
    """The folders of a sentence encoder's modules, in order; empty without modules.json.

    Raises:
        ConfigError: modules.json cannot be read.
    """
    return [folder / path for _, path in _modules(folder)]


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(class, path) of each module."""
    path = folder / "modules.json"
    if not path.exists():
        return []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        return [(str(module["type"]), str(module["path"])) for module in modules]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"cannot read {path} ({error}): {COPY_AGAIN}") from error
