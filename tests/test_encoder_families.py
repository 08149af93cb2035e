"""Encoders of several families: our vectors are those of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tiny_models import SHAPE, chat_tokenizer, edit_json

from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError
from rag_ft.retrieval.encoder import Encoder, load_encoder, load_sentence_transformer
from rag_ft.training.retriever.trainable_encoder import make_trainable

TEXTS = ["The ferry leaves at noon.", "No.", "A much longer text about boats in winter. " * 12]
NARROW = {k: v for k, v in SHAPE.items() if k != "num_hidden_layers"} | {"num_hidden_layers": 1}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": (
        "T5EncoderModel",
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 260},
    ),
    # 66 rows of positions, of which the padding token's and those before it are not used.
    "roberta": (
        "RobertaModel",
        "RobertaConfig",
        NARROW | {"max_position_embeddings": 66, "pad_token_id": 1},
    ),
    "bert": ("BertModel", "BertConfig", NARROW | {"max_position_embeddings": 256}),
}


def make_encoder(family: str, folder: Path, pad: bool = True, **options: Any) -> Path:
    model_name, config_name, settings = FAMILIES[family]
    torch.manual_seed(0)
    plain = folder.with_name("plain")
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**settings))
    model.save_pretrained(plain)
    tokenizer = chat_tokenizer()
    if not pad:
        tokenizer.pad_token = None
    tokenizer.save_pretrained(plain)
    first = Transformer(str(plain))
    modules = [first, Pooling(32, "mean"), Dense(32, 32, bias=False)]
    SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder))
    return folder


def encoder_of(folder: Path) -> Encoder:
    settings = {"run": {"dtype": "float32"}, "encoder": {"model": str(folder)}}
    return load_encoder(make_config(settings).encoder)


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_sentence_transformers(family: str, pad: bool, tmp_path: Path) -> None:
    folder = make_encoder(family, tmp_path / "encoder", pad)
    encoder = encoder_of(folder)
    assert family != "roberta" or encoder.max_tokens == 64
    plain = SentenceTransformer(str(folder), device="cpu")
    plain.max_seq_length = encoder.max_tokens
    plain.tokenizer.pad_token = "<pad>"
    wanted = plain.encode_document(TEXTS, normalize_embeddings=True)
    assert np.abs(encoder.encode_chunks(TEXTS) - wanted).max() < 1e-5


@pytest.mark.parametrize("name", ["document", "passage"])
def test_the_filled_prompt_of_documents_is_used_whatever_its_name(
    name: str, tmp_path: Path
) -> None:
    prompts = {"query": "query: ", "document": "", name: "text: "}
    folder = make_encoder("bert", tmp_path / "encoder", prompts=prompts)
    plain = SentenceTransformer(str(folder), device="cpu")
    wanted = plain.encode_document(TEXTS, prompt_name=name, normalize_embeddings=True)
    without = plain.encode(TEXTS, prompt="", normalize_embeddings=True)
    found = encoder_of(folder).encode_chunks(TEXTS)
    assert np.abs(found - wanted).max() < 1e-5 < np.abs(found - without).max()


def test_truncated_vectors_stay_truncated_in_training_and_in_the_saved_model(
    tmp_path: Path,
) -> None:
    folder = make_encoder("bert", tmp_path / "encoder", truncate_dim=8)
    encoder = encoder_of(folder)
    plain = SentenceTransformer(str(folder), device="cpu")
    wanted = plain.encode_document(TEXTS)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert encoder.dim == 8 and np.abs(encoder.encode_chunks(TEXTS) - wanted).max() < 1e-5
    settings = make_config({"encoder": {"model": str(folder)}}).encoder
    trainable = make_trainable(load_sentence_transformer(settings), "lora", 2, 0)
    trainable.save(tmp_path / "tuned")
    saved = SentenceTransformer(str(tmp_path / "tuned"), device="cpu").encode_document(TEXTS)
    assert np.abs(saved - wanted).max() < 1e-5


def test_a_saved_tokenizer_does_not_keep_how_it_cut_the_last_batch(tmp_path: Path) -> None:
    folder = make_encoder("bert", tmp_path / "encoder")
    settings = make_config({"encoder": {"model": str(folder)}}).encoder
    model = load_sentence_transformer(settings)
    trainable = make_trainable(model, "lora", 2, 0)
    trainable.save(tmp_path / "before")
    model.tokenizer(TEXTS, truncation=True, max_length=16, padding="max_length")
    trainable.save(tmp_path / "after")
    texts = [(tmp_path / name / "tokenizer.json").read_text() for name in ("before", "after")]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["truncation"] is None and json.loads(texts[0])["padding"] is None


def test_missing_weights_and_own_code_are_refused(tmp_path: Path) -> None:
    folder = make_encoder("bert", tmp_path / "encoder")
    lost = Path(shutil.copytree(folder, tmp_path / "lost"))
    weights = load_file(lost / "model.safetensors")
    kept = {n: w for n, w in weights.items() if "attention.output.dense" not in n}
    save_file(kept, lost / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 2 weights .*attention\.output\.dense"):
        encoder_of(lost)
    pooler = {n: w for n, w in weights.items() if "pooler" not in n}
    save_file(pooler, lost / "model.safetensors", metadata={"format": "pt"})
    encoder_of(lost)  # nothing reads the pooler
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import BertConfig as OwnConfig\n"
    (folder / "own_code.py").write_text(code, encoding="utf-8")
    classes = {"AutoConfig": "own_code.OwnConfig"}
    edit_json(folder / "config.json", model_type="own", auto_map=classes)
    with pytest.raises(ConfigError, match=r"encoder\.advanced\.trust_remote_code=true"):
        encoder_of(folder)
    assert not mark.exists()
