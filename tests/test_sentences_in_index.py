"""Sentences in the index: a chunk is as close as it is on average with its closest sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import retriever_run

from rag_ft.config import Config, RetrievalConfig
from rag_ft.config_advanced import RetrievalAdvanced
from rag_ft.documents.sentences import split_sentences
from rag_ft.errors import ConfigError
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.index_builder import adopt_index, build_index
from rag_ft.retrieval.index_files import SENTENCES, read_ids, read_manifest
from rag_ft.retrieval.retriever import Retriever, open_retriever
from rag_ft.retrieval.sentences import sentences_of
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.stages import train_retriever
from rag_ft.storage import write_jsonl

MakeRun = Callable[..., tuple[Config, RunDir]]
WITH = RetrievalConfig(context="none", advanced=RetrievalAdvanced(sentences=True))
PLAIN = RetrievalConfig(context="none")
TEXTS = [
    "The red boat lies at the pier. Nobody knows who owns it now. It was sold in the spring.",
    "One sentence of a whole chunk stands alone",
    "The clock tower is tall and grey. Its keeper winds the clock each day. Yes.",
]
CHUNKS = [
    Chunk(f"d{n}#0", f"d{n}", "", text, 0, len(text), 20, "train") for n, text in enumerate(TEXTS)
]
QUESTION = "Its keeper winds the clock each day."


@pytest.fixture
def encoder(make_run: MakeRun) -> Encoder:
    config, _ = make_run([])
    return load_encoder(config.encoder)


def opened(folder: Path, encoder: Encoder, settings: RetrievalConfig) -> Retriever:
    build_index(folder, CHUNKS, encoder, settings, 0)
    return Retriever(folder, read_manifest(folder), encoder, settings)


def cosines(encoder: Encoder, texts: list[str]) -> Any:
    return encoder.encode_chunks(texts) @ encoder.encode_queries([QUESTION])[0]


def test_long_sentences_of_chunks_with_more_than_one_are_listed() -> None:
    found = list(sentences_of(CHUNKS))
    assert [one.id for one in found] == ["d0#0/0", "d0#0/1", "d0#0/2", "d2#0/0", "d2#0/1"]
    for one in found:
        assert one.text == TEXTS[int(one.document_id[1:])][one.start : one.end]


def test_a_chunk_counts_as_close_as_on_average_with_its_closest_sentence(
    encoder: Encoder, tmp_path: Path
) -> None:
    retriever = opened(tmp_path / "with", encoder, WITH)
    [hits] = retriever.search([QUESTION], 3, "dense")
    own = cosines(encoder, TEXTS)
    for chunk_id, score in hits:
        number = int(chunk_id[1])
        sentences = [TEXTS[number][s:e] for s, e in split_sentences(TEXTS[number])[:2]]
        best = own[number] if number == 1 else max(cosines(encoder, sentences))
        if number == 0:
            best = max(best, cosines(encoder, ["It was sold in the spring."])[0])
        assert score == pytest.approx((own[number] + best) / 2, abs=1e-5)
    assert hits[0][0] == "d2#0" and [s for _, s in hits] == sorted([s for _, s in hits])[::-1]
    # The feature ranker sees the same closeness.
    vectors, [found] = retriever.candidates([QUESTION], [{}])
    rows, columns = retriever.features(QUESTION, vectors[0], found)
    assert np.allclose(dict(zip(*found.dense, strict=True))[rows[0]], columns[0, 0], atol=1e-5)


def test_without_the_setting_the_index_holds_none(encoder: Encoder, tmp_path: Path) -> None:
    retriever = opened(tmp_path, encoder, PLAIN)
    [hits] = retriever.search([QUESTION], 3, "dense")
    own = cosines(encoder, TEXTS)
    assert all(score == pytest.approx(own[int(i[1])], abs=1e-5) for i, score in hits)
    assert not (tmp_path / SENTENCES).exists()


def test_sentences_go_with_an_index_that_is_adopted(encoder: Encoder, tmp_path: Path) -> None:
    retriever = opened(tmp_path / "base", encoder, WITH)
    adopt_index(tmp_path / "base", tmp_path / "tuned", encoder)
    twin = Retriever(tmp_path / "tuned", read_manifest(tmp_path / "tuned"), encoder, WITH)
    assert twin.search([QUESTION], 3) == retriever.search([QUESTION], 3)


def test_a_corpus_of_single_sentences_needs_none(encoder: Encoder, tmp_path: Path) -> None:
    build_index(tmp_path, CHUNKS, encoder, WITH, 0)
    names = read_ids(tmp_path / SENTENCES, read_manifest(tmp_path / SENTENCES))
    assert len(names) == 5
    build_index(tmp_path, CHUNKS[1:2], encoder, WITH, 0)
    assert not read_manifest(tmp_path).sentences and not (tmp_path / SENTENCES).exists()


def test_an_index_with_sentences_is_not_served_without(make_run: MakeRun) -> None:
    config, run_dir = make_run([])
    write_jsonl(run_dir.chunks, CHUNKS)
    build_index(run_dir.index, CHUNKS, load_encoder(config.encoder), WITH, 0)
    assert open_retriever(run_dir, WITH, config.encoder).search([QUESTION], 1)
    with pytest.raises(ConfigError, match="holds sentences: run `rag-ft index CONFIG --force`"):
        open_retriever(run_dir, PLAIN, config.encoder)


@pytest.mark.slow
def test_a_tuned_encoder_is_served_with_sentences_too(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {**row, "text": f"{row['text']} It stands near the old wall."}
        for row in retriever_run.documents()
    ]
    monkeypatch.setattr(retriever_run, "documents", lambda: rows)
    asked = {"advanced__sentences": True}
    config, run_dir = retriever_run.prepare(
        make_run, crossfit="always", epochs=1, num_negatives=0, retrieval=asked
    )
    counts = train_retriever.run(Session(config, run_dir))
    assert counts["shipped"] == 1 and counts["num_dev_pairs"] == 0
    assert read_manifest(run_dir.retriever_index).sentences
    [hits] = Session(config, run_dir).retriever({"retriever"}).search(["where is box 3"], 3)
    assert len(hits) == 3
