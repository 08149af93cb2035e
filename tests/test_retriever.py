"""Search over a real index, and the checks before it is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_texts import TEXTS

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config, EncoderConfig
from rag_ft.config_advanced import EncoderAdvanced
from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval.encoder import Encoder, load_encoder, load_sentence_transformer
from rag_ft.retrieval.index_builder import adopt_index, build_index
from rag_ft.retrieval.retriever import open_retriever, served_tuned
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.storage import write_jsonl

MakeRun = Callable[..., tuple[Config, RunDir]]


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
    build_index(run_dir.index, chunks_of(TEXTS), encoder, config.retrieval, config.run.seed)
    return config, run_dir, encoder


def test_every_mode_finds_the_chunk_that_is_asked_for(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    retriever = open_retriever(run_dir, config.retrieval, encoder)
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
    first = open_retriever(run_dir, config.retrieval, config.encoder).search(questions, 5)
    assert open_retriever(run_dir, config.retrieval, config.encoder).search(questions, 5) == first


def test_vectors_and_ids_are_in_chunk_order_and_memory_mapped(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    retriever = open_retriever(run_dir, config.retrieval, encoder)
    assert retriever.chunk_ids == [f"d#{n}" for n in range(5)] and retriever.row_of["d#3"] == 3
    assert retriever.vectors.shape == (5, 32)
    np.testing.assert_allclose(retriever.vectors, encoder.encode_chunks(TEXTS), atol=1e-6)


def test_an_index_of_another_encoder_is_refused(indexed: tuple[Config, RunDir, Encoder]) -> None:
    config, run_dir, _ = indexed
    other = config.model_copy(update={"encoder": with_query_prefix(config.encoder)})
    with pytest.raises(
        ConfigError, match="made by another encoder: run `rag-ft index CONFIG --force`"
    ):
        open_retriever(run_dir, other.retrieval, other.encoder)


def test_an_index_of_other_titles_or_chunks_is_refused(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    other = make_config({**config.model_dump(), "retrieval": {"context": "none"}})
    with pytest.raises(ConfigError, match=r"retrieval\.context=title"):
        open_retriever(run_dir, other.retrieval, encoder)
    write_jsonl(run_dir.chunks, chunks_of([*TEXTS[:-1], "the tower fell"]))
    with pytest.raises(ConfigError, match="other chunks"):
        open_retriever(run_dir, config.retrieval, encoder)


def test_no_index_and_no_tuned_retriever_are_said_so(make_run: MakeRun) -> None:
    config, run_dir = make_run([])
    with pytest.raises(DataError, match="rag-ft index"):
        open_retriever(run_dir, config.retrieval, config.encoder)
    assert not served_tuned(run_dir)
    with pytest.raises(DataError, match="run train_retriever"):
        open_retriever(run_dir, config.retrieval, config.encoder, tuned=True)


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
    retriever = open_retriever(run_dir, config.retrieval, config.encoder, tuned=True)
    assert retriever.encoder.query_prefix == "query: "
    assert retriever.search(["the mill at the river"], 1, "lexical")[0][0][0] == "d#0"
    with pytest.raises(
        ConfigError, match=r"another encoder: run `rag-ft train_retriever CONFIG --force`"
    ):
        open_retriever(run_dir, config.retrieval, encoder, tuned=True)


def test_ids_that_do_not_fit_the_manifest_are_refused(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    (run_dir.index / "chunk_ids.json").write_text(json.dumps(["d#0"]))
    with pytest.raises(DataError, match="inconsistent"):
        open_retriever(run_dir, config.retrieval, encoder)


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


def test_importing_the_retrieval_modules_loads_no_torch() -> None:
    code = (
        "import sys, rag_ft.retrieval.retriever, rag_ft.stages.index;"
        "sys.exit('torch' in sys.modules or 'faiss' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _recall_at_5(config: Config, run_dir: RunDir, questions: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    chunks = list(ChunkStore(run_dir.chunks))
    retriever = open_retriever(run_dir, config.retrieval, config.encoder)
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


def test_a_mode_that_is_asked_for_twice_gives_each_question_one_ranking(
    indexed: tuple[Config, RunDir, Encoder],
) -> None:
    config, run_dir, encoder = indexed
    retriever = open_retriever(run_dir, config.retrieval, encoder)
    found = retriever.search_modes(["the mill", "the pier"], 2, ["dense", "dense", "lexical"])
    assert {mode: len(hits) for mode, hits in found.items()} == {"dense": 2, "lexical": 2}
