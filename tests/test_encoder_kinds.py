"""Encoders that are built otherwise than most: equal to sentence-transformers, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LSTM, Pooling, Transformer
from test_encoder_families import FAMILIES, TEXTS, encoder_of, make_encoder
from tiny_models import SHAPE, STATE, chat_tokenizer

from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError
from rag_ft.retrieval.encoder import load_sentence_transformer
from rag_ft.retrieval.padding_probe import ignores_padding
from rag_ft.retrieval.reranker import load_cross_encoder
from rag_ft.training.model_shape import shape_from_files
from rag_ft.training.retriever.trainable_encoder import make_trainable

OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # Pools over positions, padding included.
    "funnel": (
        "FunnelModel",
        "FunnelConfig",
        {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 1]}
        | {"vocab_size": 260},
    ),
    # Names -1 as its number of positions, which means none.
    "xlnet": (
        "XLNetModel",
        "XLNetConfig",
        {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48, "vocab_size": 260},
    ),
    "mamba": ("MambaModel", "MambaConfig", STATE),
    # Needs texts whose length is a multiple of its landmarks.
    "nystromformer": (
        "NystromformerModel",
        "NystromformerConfig",
        SHAPE | {"max_position_embeddings": 258, "segment_means_seq_len": 256, "num_landmarks": 8},
    ),
}


@pytest.fixture(autouse=True)
def _others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, family in OTHERS.items():
        monkeypatch.setitem(FAMILIES, name, family)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["funnel", "xlnet", "mamba"])
def test_vectors_stay_those_of_sentence_transformers_after_training(
    family: str, tmp_path: Path
) -> None:
    folder = make_encoder(family, tmp_path / "encoder")
    encoder = encoder_of(folder)
    assert ignores_padding(encoder.sentence_transformer) == (family != "funnel")
    plain = SentenceTransformer(str(folder), device="cpu")
    wanted = plain.encode_document(TEXTS, normalize_embeddings=True)
    assert np.abs(encoder.encode_chunks(TEXTS) - wanted).max() < 1e-5

    settings = make_config({"encoder": {"model": str(folder)}}).encoder
    trainable = make_trainable(load_sentence_transformer(settings), "lora", 2, 0)
    inputs = trainable.model.tokenize(TEXTS)
    trainable.model(inputs)["sentence_embedding"].sum().backward()
    with torch.no_grad():
        for name, weight in trainable.model.named_parameters():
            if "lora_B" in name:
                assert weight.grad is not None and weight.grad.any(), name
                weight += 0.1
    trainable.save(tmp_path / "tuned")
    tuned = encoder_of(tmp_path / "tuned").encode_chunks(TEXTS)
    alone = SentenceTransformer(str(tmp_path / "tuned"), device="cpu").encode_document(TEXTS)
    assert np.abs(tuned - alone).max() < 1e-5 < np.abs(tuned - wanted).max()


def test_an_encoder_that_cannot_encode_is_one_line(tmp_path: Path) -> None:
    folder = make_encoder("nystromformer", tmp_path / "encoder")
    with pytest.raises(ConfigError, match=r"cannot encode a short text .* set encoder\.model"):
        encoder_of(folder)
    plain = make_encoder("bert", tmp_path / "bert").with_name("plain")
    modules = [Transformer(str(plain)), LSTM(32, 16), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "lstm"))
    with pytest.raises(ConfigError, match=r"cannot encode a short text .* set encoder\.model"):
        encoder_of(tmp_path / "lstm")


def test_a_tokenizer_that_does_not_fit_the_encoder_is_refused(tmp_path: Path) -> None:
    folder = make_encoder("bert", tmp_path / "encoder")
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens(["ferry"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"1 tokens beyond the 260 rows .*'ferry'"):
        encoder_of(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match="knows no words, as its files are missing"):
        encoder_of(folder)


def test_the_shape_of_an_encoder_with_other_names_is_known(tmp_path: Path) -> None:
    make_encoder("t5", tmp_path / "encoder")
    model = transformers.T5EncoderModel.from_pretrained(tmp_path / "plain")
    assert shape_from_files(tmp_path / "plain").parameters == model.num_parameters()


def test_a_reranker_without_its_last_layer_is_refused_and_positions_limit_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "reranker"
    settings = SHAPE | {"max_position_embeddings": 40, "num_labels": 1}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**settings))
    model.save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    assert load_cross_encoder(folder, 512, "float32", "cpu").max_seq_length == 40
    model.bert.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"lack 2 weights .*classifier.* set reranker\.model"):
        load_cross_encoder(folder, 512, "float32", "cpu")
    load_cross_encoder(folder, 512, "float32", "cpu", whole=False)  # to be trained
