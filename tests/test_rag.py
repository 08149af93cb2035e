"""From a question to an answer with citations, by the public Python API."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_ft import RagPipeline, rag
from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.stages import index
from rag_ft.storage import write_jsonl

TEXTS = ["the mill at the river", "who painted the tower in 1842?", "the ferry leaves at noon"]
ABSTAIN = "I don't know."
PROMPT = AnswerPrompt(load_prompts("full", ABSTAIN), context="title")


class Model:
    """Says the same to every request, and keeps what it was asked."""

    name, window = "model", 1

    def __init__(self, text: str, error: str | None = None) -> None:
        self.text, self.error, self.asked, self.open = text, error, list[ChatRequest](), 0

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        for request in requests:
            self.asked.append(request)
            yield Reply(request.id, self.text, "stop", 1, 1, 0.1, self.error)

    def __enter__(self) -> Model:
        self.open += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.open -= 1


class Finds:
    def search(
        self, questions: list[str], k: int, mode: str | None = None, filters: Any = None
    ) -> list[list[tuple[str, float]]]:
        return [[("d#2", 0.9), ("d#0", 0.4), ("d#1", 0.1)][:k] for _ in questions]


@pytest.fixture
def chunks(tmp_path: Path) -> ChunkStore:
    rows = [Chunk(f"d#{n}", "d", "Places", t, 0, len(t), 5, "test") for n, t in enumerate(TEXTS)]
    write_jsonl(tmp_path / "chunks.jsonl", rows)
    return ChunkStore(tmp_path / "chunks.jsonl")


def pipeline(chunks: ChunkStore, model: Any) -> RagPipeline:
    return RagPipeline(Finds(), chunks, PROMPT, model, top_k=2, max_tokens=7, adapter="tuned")


def test_an_answer_names_the_chunks_it_was_shown_and_those_it_cites(chunks: ChunkStore) -> None:
    model = Model("At noon [2].")
    with pipeline(chunks, model) as rag:
        said = rag.answer("When does the ferry leave?")
        assert model.open == 1
    assert [(found.chunk.id, found.score) for found in said.chunks] == [("d#2", 0.9), ("d#0", 0.4)]
    assert (said.answer, said.citations, said.abstained) == ("At noon.", ("d#0",), False)
    assert said.seconds > 0 and model.open == 0
    [request] = model.asked
    assert (request.max_tokens, request.adapter) == (7, "tuned")
    content = request.messages[-1]["content"]
    assert content.index("[1] Places\nthe ferry") < content.index("[2] Places\nthe mill")


def test_the_abstain_sentence_is_an_abstention(chunks: ChunkStore) -> None:
    with pipeline(chunks, Model("I don't know!")) as rag:
        assert rag.answer("Who?").abstained


def test_retrieval_and_prompt_need_no_model(chunks: ChunkStore) -> None:
    model = Model("")
    with pipeline(chunks, model) as rag:
        found = rag.retrieve("Who?", k=3)
        assert len(found) == 3 and "Who?" in rag.prompt("Who?", found)[-1]["content"]
        assert rag.parse("Here [3]", found).citations == ("d#1",)
    assert model.asked == []


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question_is_an_error(chunks: ChunkStore, question: str) -> None:
    with pipeline(chunks, Model("x")) as rag, pytest.raises(DataError, match="empty"):
        rag.answer(question)


def test_a_closed_pipeline_says_so(chunks: ChunkStore) -> None:
    with pipeline(chunks, Model("noon")) as rag:
        rag.answer("When does it leave?")
    with pytest.raises(DataError, match="the pipeline is closed"):
        rag.answer("When does it leave?")


def test_a_failed_reply_is_an_error_and_no_answer(chunks: ChunkStore) -> None:
    with pipeline(chunks, Model("", "lost")) as rag, pytest.raises(DataError, match="lost"):
        rag.answer("Who?")


def test_a_run_answers_with_its_own_models(
    make_run: Callable[..., tuple[Config, RunDir]], tiny_lm_dir: Path, chunks: ChunkStore
) -> None:
    config, run_dir = make_run(
        [],
        retrieval__top_k=2,
        llm__model=str(tiny_lm_dir),
        llm__backend="transformers",
        evaluate__advanced__max_tokens=4,
    )
    write_jsonl(run_dir.chunks, chunks)
    index.run(Session(config, run_dir))
    with RagPipeline.from_config(config) as rag:
        hits = Session(config, run_dir).retriever().search(["the ferry at noon"], 2)[0]
        said = rag.answer("the ferry at noon")
    assert [(found.chunk.id, found.score) for found in said.chunks] == hits
    assert set(said.citations) <= {found.chunk.id for found in said.chunks}


def test_the_example_of_the_module_works(
    make_run: Callable[..., tuple[Config, RunDir]],
    tiny_lm_dir: Path,
    tmp_path: Path,
    chunks: ChunkStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, run_dir = make_run(
        [], llm__backend="transformers", evaluate__advanced__max_tokens=4, run__seed=3
    )
    write_jsonl(run_dir.chunks, chunks)
    index.run(Session(config, run_dir))
    file = tmp_path / "demo.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    shown = textwrap.dedent((rag.__doc__ or "").partition("RagPipeline:\n")[2])
    assert "configs/demo.yaml" in shown
    capsys.readouterr()
    exec(shown.replace("configs/demo.yaml", str(file)), {})
    with RagPipeline.from_config(config) as pipe:
        said = pipe.answer("When does the ferry leave?")
    assert capsys.readouterr().out == f"{said.answer} {said.citations}\n"


def test_the_public_names_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, rag_ft; heavy = {'torch', 'numpy', 'pydantic'} & sys.modules.keys();"
        "assert not heavy, heavy;"
        "from rag_ft import RagPipeline, load_config, run_stage;"
        "assert rag_ft.__version__ and RagPipeline.answer;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import rag_ft

    with pytest.raises(AttributeError, match="nothing_like_it"):
        rag_ft.nothing_like_it  # noqa: B018
