"""A question -> retrieved chunks -> prompt -> reply -> answer with citations.

The commands and your own code answer through RagPipeline:

    from pathlib import Path

    from rag_ft import RagPipeline, load_config

    with RagPipeline.from_config(load_config(Path("configs/demo.yaml"))) as rag:
        said = rag.answer("When does the ferry leave?")
        print(said.answer, said.citations)
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag_ft.chunk_store import ChunkStore
from rag_ft.errors import DataError
from rag_ft.llm.interface import ChatRequest, LanguageModel, Messages
from rag_ft.prompts.answer_prompt import AnswerPrompt, ParsedReply
from rag_ft.schema import Chunk
from rag_ft.storage import encodable

if TYPE_CHECKING:
    from rag_ft.config import Config
    from rag_ft.retrieval.metadata_filter import Filters
    from rag_ft.retrieval.retriever import Searcher
    from rag_ft.session import Session


@dataclass(frozen=True)
class RetrievedChunk:
    """A chunk with the score by which the retriever ranked it: higher is better."""

    chunk: Chunk
    score: float


@dataclass(frozen=True)
class RagAnswer:
    """An answer with its sources.

    `chunks` were shown to the model, best first; `citations` are the ids of those that it cites, or
    of the one that contains its answer where it cites none; `abstained`: it says that the chunks do
    not contain an answer; `seconds` of retrieval and reply.
    """

    answer: str
    chunks: tuple[RetrievedChunk, ...]
    citations: tuple[str, ...]
    abstained: bool
    seconds: float


class RagPipeline:
    """Answers questions from the chunks of a run.

    Use it as a context manager: the model is opened for the first answer, and freed at the end.
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
            retriever: Finds chunk ids.
            chunks: The chunks of the same run.
            prompt: How questions and chunks are put to the model.
            model: Opens the model; it is entered for the first answer.
            top_k: Chunks shown to the model.
            max_tokens: Longest reply, in tokens.
            adapter: The name of the LoRA adapter that answers. None: the model itself.
        """
        self._retriever, self._chunks, self._prompt = retriever, chunks, prompt
        self._top_k, self._max_tokens, self._adapter = top_k, max_tokens, adapter
        self._unopened, self._open = model, ExitStack()
        self._model: LanguageModel | None = None
        self._is_closed = False

    @classmethod
    def from_config(cls, config: Config, tuned: bool = True) -> RagPipeline:
        """The pipeline of a run.

        `tuned` takes the components that the run tuned and serves, where there are any.

        Raises:
            DataError: the run has no finished index, or one of its files is missing or has changed.
            ConfigError: the index or a model does not fit the configuration, or a bundle is without
                the base components.
        """
        # Imported here: a retriever and a language model take seconds to import.
        from rag_ft.bundle.manifest import require_base
        from rag_ft.evaluation.external_models import with_external_models
        from rag_ft.freshness import check_files
        from rag_ft.run_dir import RunDir
        from rag_ft.session import Session

        # A lost file would turn tuned components into base ones without a word.
        settings = config.evaluate
        own = {
            "train_retriever": settings.encoder,
            "train_reranker": None,
            "train_generator": settings.adapter,
        }
        trained = [stage for stage, external in own.items() if tuned and not external]
        check_files(RunDir(config.run_path), ["ingest", "index", *trained], trained)
        if not tuned:
            require_base(RunDir(config.run_path))
        session = Session(config, with_external_models(config.evaluate, RunDir(config.run_path)))
        return cls.from_session(session, session.tuned_components if tuned else ())

    @classmethod
    def from_session(cls, session: Session, tuned: Collection[str]) -> RagPipeline:
        """The pipeline of an opened run with these tuned components, base ones in place of the
        others.

        Raises:
            DataError, ConfigError: as from_config, but files of the run are not checked.
        """
        from rag_ft.llm.factory import open_language_model
        from rag_ft.model_hub import with_tuned

        config = session.config
        # A tuned generator is an adapter of the configured model, or a model in its place.
        folder = session.tuned_generator if "generator" in tuned else None
        llm, adapters = with_tuned(config.llm, folder)
        return cls(
            session.retriever(tuned),
            session.chunks,
            session.answer_prompt,
            open_language_model(llm, config.run.seed, adapters),
            config.retrieval.num_shown,
            config.evaluate.advanced.max_tokens,
            adapter=next(iter(adapters), None),
        )

    def retrieve(
        self, question: str, k: int | None = None, filters: Filters | None = None
    ) -> list[RetrievedChunk]:
        """The `k` best chunks (default: as many as answers are made from), best first.

        `filters` leave out the chunks of other documents before the ranking:
        {field: value, list of values, or "prefix*"}, where a field is one of the documents'
        metadata, `id` or `source`, and every field must match.

        Raises:
            DataError: the filters are malformed.
        """
        [found] = self.retrieve_many([question], k, [filters or {}])
        return found

    def retrieve_many(
        self, questions: Sequence[str], k: int | None, filters: Sequence[Filters]
    ) -> list[list[RetrievedChunk]]:
        """What `retrieve` returns for each question, with its filters; encoded in one batch.

        Raises:
            DataError: the filters are malformed, or the pipeline is closed.
        """
        if self._is_closed:
            raise DataError("the pipeline is closed: open it again by RagPipeline.from_config")
        hits = self._retriever.search(questions, k or self._top_k, filters=filters)
        return [[RetrievedChunk(self._chunks[id], score) for id, score in one] for one in hits]

    def prompt(self, question: str, chunks: Sequence[RetrievedChunk]) -> Messages:
        """The messages that ask the model to answer `question` from `chunks`."""
        return self._prompt.messages(question, [found.chunk for found in chunks])

    def parse(self, reply: str, chunks: Sequence[RetrievedChunk]) -> ParsedReply:
        """Answer and citations of the model's reply to the prompt over the same `chunks`."""
        return self._prompt.parse(reply, [found.chunk for found in chunks])

    def answer(self, question: str, filters: Filters | None = None) -> RagAnswer:
        """Retrieves chunks that `filters` allow (see `retrieve`) and answers from them. Where they
        allow none, the answer is the abstain sentence, and the model is not asked.

        Raises:
            DataError: the question is empty, the filters are malformed, or the model gave no reply.
        """
        question = checked_question(question)
        clock = time.monotonic()
        chunks = self.retrieve(question, filters=filters)
        # A tuned model may know by heart what the filters exclude.
        if filters and not chunks:
            return RagAnswer(self._prompt.prompts.abstain, (), (), True, time.monotonic() - clock)
        messages = self.prompt(question, chunks)
        request = ChatRequest("answer", messages, self._max_tokens, adapter=self._adapter)
        # The model is opened late, so that `retrieve` and `prompt` work without it.
        if self._model is None:
            self._model = self._open.enter_context(self._unopened)
        [reply] = self._model.chat([request])
        if reply.error:
            raise DataError(f"the model gave no answer: {reply.error}")
        said = self.parse(reply.text, chunks)
        seconds = time.monotonic() - clock
        return RagAnswer(said.answer, tuple(chunks), said.citations, said.abstained, seconds)

    def __enter__(self) -> RagPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._open.close()
        self._chunks.close()


def checked_question(question: str) -> str:
    """The question without the bytes of a command line that are no UTF-8.

    Raises:
        DataError: it is empty.
    """
    if not question.strip():
        raise DataError('the question is empty: ask one, such as "Who built the pier?"')
    return encodable(question)
