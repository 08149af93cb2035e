"""A question -> retrieved chunks -> prompt -> reply -> answer with citations: the one place that knows the way.

from rag_ft import RagPipeline, load_config

with RagPipeline.from_config(load_config("configs/demo.yaml")) as rag:
    said = rag.answer("When does the ferry leave?")
    print(said.answer, said.citations)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_ft.errors import DataError
from rag_ft.llm.interface import ChatRequest, LanguageModel, Messages
from rag_ft.prompts.answer_prompt import AnswerPrompt, ParsedReply
from rag_ft.schema import Chunk
from rag_ft.storage import ChunkStore

if TYPE_CHECKING:
    from rag_ft.config import Config
    from rag_ft.retrieval.retriever import Searcher


@dataclass(frozen=True)
class RetrievedChunk:
    """`score` is what the retriever ranked by; higher is better."""

    chunk: Chunk
    score: float


@dataclass(frozen=True)
class RagAnswer:
    """`chunks` are those the model was shown, best first; `citations` are the ids of those it cited;
    `seconds` are those of retrieval and reply."""

    answer: str
    chunks: tuple[RetrievedChunk, ...]
    citations: tuple[str, ...]
    abstained: bool
    seconds: float


class RagPipeline:
    """Answers questions from the chunks of a run.

    Used as a context manager. The model is opened with the first answer; leaving frees it.
    """

    def __init__(
        self,
        retriever: Searcher,
        chunks: ChunkStore,
        prompt: AnswerPrompt,
        model: AbstractContextManager[LanguageModel],
        top_k: int,
        max_tokens: int,
        adapter: str | None = None,
    ) -> None:
        """
        Args:
            retriever: of the run.
            chunks: of the run.
            prompt: how questions and chunks are put to the model.
            model: not yet opened.
            top_k: chunks shown to the model.
            max_tokens: of a reply.
            adapter: name of the LoRA adapter that answers; None: the model itself.
        """
        self._retriever, self._chunks, self._prompt = retriever, chunks, prompt
        self._top_k, self._max_tokens, self._adapter = top_k, max_tokens, adapter
        self._unopened, self._open = model, ExitStack()
        self._model: LanguageModel | None = None

    @classmethod
    def from_config(cls, config: Config, tuned: bool = True) -> RagPipeline:
        """The pipeline of a run; `tuned`: with the components that the run tuned and serves, else the base ones.

        Raises:
            DataError: the run has no finished index.
            ConfigError: the index or a model does not fit the configuration.
        """
        from rag_ft.evaluation.external_models import with_external_models
        from rag_ft.llm.factory import open_language_model
        from rag_ft.model_hub import with_tuned
        from rag_ft.run_dir import RunDir
        from rag_ft.session import Session

        session = Session(config, with_external_models(config.evaluate, RunDir(config.run_path)))
        llm, adapters = with_tuned(config.llm, session.tuned_generator if tuned else None)
        return cls(
            session.retriever(tuned and session.serves_tuned_retriever),
            session.chunks,
            session.answer_prompt,
            open_language_model(llm, config.run.seed, adapters),
            config.retrieval.top_k,
            config.evaluate.advanced.max_tokens,
            next(iter(adapters), None),
        )

    def retrieve(self, question: str, k: int | None = None) -> list[RetrievedChunk]:
        """The `k` best chunks (default: retrieval.top_k), best first."""
        [hits] = self._retriever.search([question], k or self._top_k)
        return [RetrievedChunk(self._chunks[chunk_id], score) for chunk_id, score in hits]

    def prompt(self, question: str, chunks: Sequence[RetrievedChunk]) -> Messages:
        """What the model is asked."""
        return self._prompt.messages(question, [found.chunk for found in chunks])

    def parse(self, reply: str, chunks: Sequence[RetrievedChunk]) -> ParsedReply:
        """Answer and citations in the model's reply to `prompt` over the same chunks."""
        return self._prompt.parse(reply, [found.chunk.id for found in chunks])

    def answer(self, question: str) -> RagAnswer:
        """Raises DataError for an empty question, or where the model gives no reply."""
        if not question.strip():
            raise DataError('the question is empty: ask one, such as "Who built the pier?"')
        clock = time.monotonic()
        chunks = self.retrieve(question)
        messages = self.prompt(question, chunks)
        request = ChatRequest("answer", messages, self._max_tokens, adapter=self._adapter)
        [reply] = self._opened_model().chat([request])
        if reply.error:
            raise DataError(f"the model gave no answer: {reply.error}")
        said = self.parse(reply.text, chunks)
        seconds = time.monotonic() - clock
        return RagAnswer(said.answer, tuple(chunks), said.citations, said.abstained, seconds)

    def _opened_model(self) -> LanguageModel:
        if self._model is None:
            self._model = self._open.enter_context(self._unopened)
        return self._model

    def __enter__(self) -> RagPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._chunks.close()
