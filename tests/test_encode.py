"""Encoding in batches of equal length: the vectors of the library, every text once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_texts import TEXTS, tiny

from rag_ft.fast.encode import can_encode, encode, pad, token_batches, tokenize, tokenize_ahead
from rag_ft.retrieval.encoder import load_encoder, load_sentence_transformer


@pytest.mark.parametrize("batch_tokens", [0, 1, 64])
def test_the_vectors_are_those_of_the_library(tiny_encoder_dir: Path, batch_tokens: int) -> None:
    model = load_sentence_transformer(tiny(tiny_encoder_dir))
    assert can_encode(model)
    found = encode([model], TEXTS * 4, batch_tokens)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model.encode(TEXTS * 4), atol=1e-5)
    assert encode([model], []).shape == (0, found.shape[1])


def test_batches_hold_every_row_once_longest_first_within_the_budget() -> None:
    lengths = np.array([3, 50, 7, 7, 200, 1, 40])
    batches = list(token_batches(lengths, 100))
    assert sorted(np.concatenate(batches)) == list(range(7))
    assert [list(lengths[b]) for b in batches] == [[200], [50, 40], [7, 7, 3, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_as_the_tokenizer_pads_them(tiny_encoder_dir: Path, side: str) -> None:
    model = load_encoder(tiny(tiny_encoder_dir)).sentence_transformer
    model.tokenizer.padding_side = side
    features = tokenize(model, TEXTS)
    features["token_type_ids"] = [np.ones_like(row) for row in features["input_ids"]]
    rows = np.array([3, 0, 2])
    longest = max(len(features["input_ids"][row]) for row in rows)
    ours = pad(model.tokenizer, features, rows, longest)
    picked = {name: [values[row].tolist() for row in rows] for name, values in features.items()}
    theirs = model.tokenizer.pad(picked, return_tensors="pt")
    assert ours.keys() == theirs.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert len({len(row) for row in picked["input_ids"]}) > 1
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name].numpy(), tensor.numpy())


def test_blocks_of_texts_are_tokenised_ahead_in_their_order(tiny_encoder_dir: Path) -> None:
    model, texts = load_encoder(tiny(tiny_encoder_dir)).sentence_transformer, TEXTS * 3
    whole = tokenize(model, texts)["input_ids"]
    for block in (1, 4, len(texts) - 1, len(texts), 100):
        parts = list(tokenize_ahead(model, texts, block))
        assert [start for start, _ in parts] == list(range(0, len(texts), block))
        assert [list(row) for _, part in parts for row in part["input_ids"]] == [
            list(row) for row in whole
        ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_questions_of_all_lengths_have_few_widths(tiny_encoder_dir: Path, dtype: str) -> None:
    # Each width takes memory for good.
    settings = tiny(tiny_encoder_dir).model_copy(update={"dtype": dtype})
    model = load_encoder(settings).sentence_transformer
    questions = ["how long is it " * n for n in range(1, 12)]
    widths = set[int]()
    hook = model[0].register_forward_pre_hook(
        lambda _, args: widths.add(args[0]["input_ids"].shape[1])
    )
    alone = np.vstack([encode([model], [question]) for question in questions])
    hook.remove()
    assert 1 < len(widths) <= 6 and widths <= {*range(16, 2048, 16), model.max_seq_length}
    together = encode([model], questions, 64)
    np.testing.assert_allclose(alone, together, atol=1e-5 if dtype == "float32" else 2e-2)
