"""The session opens each thing once, and only when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rag_ft.config import Config, RetrievalConfig
from rag_ft.llm.interface import ChatRequest
from rag_ft.retrieval import retriever as search
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.storage import write_jsonl


def test_a_new_session_reads_nothing(tmp_path: Path) -> None:
    session = Session(Config(), RunDir(tmp_path / "none"))
    assert session.tuned_generator is None and not session.serves_tuned_retriever
    assert not (tmp_path / "none").exists()


def test_prompts_and_chunks_are_opened_once(tmp_path: Path) -> None:
    session = Session(Config(), RunDir(tmp_path))
    write_jsonl(session.run_dir.chunks, [Chunk("d#0", "d", "t", "x", 0, 1, 1, "train")])
    assert session.prompts is session.prompts
    assert session.answer_prompt.prompts is session.prompts
    assert session.chunks is session.chunks and session.chunks["d#0"].text == "x"


def test_a_retriever_is_opened_once_until_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []

    def open_retriever(
        run_dir: RunDir, retrieval: RetrievalConfig, encoder: Any, tuned: bool
    ) -> Any:
        assert (run_dir.path, retrieval) == (tmp_path, config.retrieval)
        assert encoder == (config.encoder if tuned else "base encoder")
        opened.append(tuned)
        return object()

    monkeypatch.setattr(search, "open_retriever", open_retriever)
    monkeypatch.setattr("rag_ft.retrieval.encoder.load_encoder", lambda section: "base encoder")
    config = Config.model_validate({"encoder": {"model": "e"}, "retrieval": {"top_k": 7}})
    session = Session(config, RunDir(tmp_path))
    assert session.retriever() is session.retriever()
    assert session.retriever({"retriever"}) is not session.retriever()
    assert opened == [False, True]
    session.close_retrievers()
    session.retriever()
    assert opened == [False, True, False]


def test_the_base_encoder_is_loaded_once_until_it_is_closed(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"encoder": {"model": str(tiny_encoder_dir)}})
    session = Session(config, RunDir(tmp_path))
    used: list[Any] = []

    def open_retriever(_: RunDir, __: RetrievalConfig, encoder: Any, chosen: bool) -> None:
        used.append(encoder)

    monkeypatch.setattr(search, "open_retriever", open_retriever)
    encoder = session.base_encoder
    session.plain_retriever()
    assert used == [encoder] and session.base_encoder is encoder
    session.close_retrievers()
    assert session.base_encoder is not encoder


def test_the_model_of_a_session_is_that_of_its_configuration(
    tiny_lm_dir: Path, tmp_path: Path
) -> None:
    config = Config.model_validate({"llm": {"model": str(tiny_lm_dir), "backend": "transformers"}})
    session = Session(config, RunDir(tmp_path))
    with session.language_model("generate") as model:
        [reply] = model.chat([ChatRequest("q", session.prompts.closed_book("Who?"), 4)])
    assert reply.id == "q" and reply.error is None


@pytest.mark.parametrize("mark", ["adapter_config.json", "config.json"])
def test_a_tuned_generator_is_found_by_its_files(tmp_path: Path, mark: str) -> None:
    session = Session(Config(), RunDir(tmp_path))
    session.run_dir.generator.mkdir()
    assert session.tuned_generator is None
    (session.run_dir.generator / mark).write_text("{}")
    assert session.tuned_generator == session.run_dir.generator
