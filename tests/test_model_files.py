"""What a folder holds is said before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import edit_json

from rag_ft.errors import ConfigError
from rag_ft.model_files import check_model
from rag_ft.model_hub import resolve


def refused(folder: Path, kind: Any, match: str) -> None:
    for check in (lambda: check_model(folder, kind), lambda: resolve(str(folder), kind)):
        with pytest.raises(ConfigError, match=match) as error:
            check()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["llm", "encoder"])
def test_weights_that_are_none_are_refused(
    kind: Any, tiny_lm_dir: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    source = tiny_lm_dir if kind == "llm" else tiny_encoder_dir
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(folder, kind, "are incomplete: copy or download")
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    refused(folder, kind, "git-lfs pointer.* copy or download")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    weights.rename(folder / "old")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, kind, "cannot read the weights .*model-00001-of-00002")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(whole)
    refused(folder, kind, rf"pickled weights \(pytorch_model\.bin\).* set {kind}\.model")
    (folder / "pytorch_model.bin").rename(folder / "model.gguf")
    refused(folder, kind, "a GGUF file")


def test_a_gguf_file_is_called_what_it_is() -> None:
    with pytest.raises(ConfigError, match=r"is a GGUF file.* set llm\.model to a folder"):
        resolve("/models/llama-q4.gguf", "llm")


def test_a_pointer_in_place_of_a_later_modules_weights_is_refused(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "model"))
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.x.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    (folder / "3_Dense").mkdir()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / "3_Dense" / "model.safetensors").write_text(pointer)
    refused(folder, "encoder", r"3_Dense.model\.safetensors are a git-lfs pointer")


def test_an_encoder_given_as_language_model_is_refused(tiny_encoder_dir: Path) -> None:
    refused(tiny_encoder_dir, "llm", "an encoder or a reranker .*not a language model")


def test_other_kinds_of_language_models_are_refused(tiny_lm_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_lm_dir, tmp_path / "model"))
    edit_json(folder / "config.json", architectures=["LlamaForSequenceClassification"])
    refused(folder, "llm", r"saved as LlamaForSequenceClassification, without .*lm_head")
    edit_json(folder / "config.json", architectures=["T5Model"], is_encoder_decoder=True)
    refused(folder, "llm", "encoder-decoder model.* set llm.model")
    (folder / "config.json").unlink()
    adapter = {"base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    refused(folder, "llm", "holds a LoRA adapter.* set llm.model to org/base, and evaluate.adapter")
    (folder / "adapter_config.json").write_text("[]")
    refused(folder, "llm", "holds no JSON object")


@pytest.mark.parametrize(
    ("model_type", "match"),
    [
        ("CrossEncoder", "a CrossEncoder, a reranker"),
        ("SparseEncoder", "a SparseEncoder"),
        ("MultiVectorEncoder", "a multi-vector model"),
    ],
)
def test_other_models_of_sentence_transformers_are_named(
    model_type: str, match: str, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "model"))
    edit_json(folder / "config_sentence_transformers.json", model_type=model_type)
    refused(folder, "encoder", f"{match}.* set encoder.model")


@pytest.mark.parametrize("name", ["StaticEmbedding", "Router", "SpladePooling", "LogitScore"])
def test_other_modules_than_a_dense_encoders_are_named(
    name: str, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "model"))
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.x.{name}"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "encoder", "set encoder.model to a SentenceTransformer")


def test_a_reranker_without_modules_is_refused(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "model"))
    (folder / "modules.json").unlink()
    edit_json(folder / "config.json", architectures=["BertForSequenceClassification"])
    refused(folder, "encoder", r"a classifier or a CrossEncoder \(a reranker\)")


def test_vectors_for_another_similarity_are_refused_unless_they_are_normalised(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "model"))
    edit_json(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
    check_model(folder, "encoder")  # of unit vectors the dot product is the cosine
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=8)
    refused(folder, "encoder", "trained for the dot similarity")  # cut after the normalisation
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=None)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:-1]))
    refused(folder, "encoder", "trained for the dot similarity.* set encoder.model")


def test_an_encoder_saved_as_an_adapter_names_its_base(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "model"))
    (folder / "config.json").unlink()
    adapter = {"base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    refused(folder, "encoder", "holds a LoRA adapter on org/base.* merge it into its base")
