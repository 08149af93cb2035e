"""What a stage or a command works with: the configuration, the run folder, and what it opens
there."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rag_ft.bundle.manifest import is_bundle
from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config, LLMConfig
from rag_ft.config_loader import load_config
from rag_ft.engine.language_model import Opening, open_shared_model
from rag_ft.llm.interface import LanguageModel
from rag_ft.model_hub import TUNED_MARKS
from rag_ft.prompts.answer_prompt import AnswerPrompt, chunk_text
from rag_ft.prompts.prompt_set import Prompts, load_prompts
from rag_ft.run_dir import RunDir

if TYPE_CHECKING:
    from rag_ft.retrieval.encoder import Encoder
    from rag_ft.retrieval.reranker import Reranker
    from rag_ft.retrieval.retriever import Retriever


@dataclass(frozen=True)
class Session:
    """Prompts, chunks and retrievers are opened when they are first used, and then kept."""

    config: Config
    run_dir: RunDir
    _retrievers: dict[frozenset[str], Retriever] = field(
        default_factory=dict, init=False, repr=False
    )

    @classmethod
    def of(cls, config: Config | str | Path) -> Session:
        """The session of the run folder that the configuration, or a file with one, names."""
        found = config if isinstance(config, Config) else load_config(Path(config))
        return cls(found, RunDir(found.run_path))

    @cached_property
    def prompts(self) -> Prompts:
        """The prompt set `llm.prompts`, without few-shot examples."""
        return load_prompts(self.config.llm.prompts, self.config.llm.advanced.abstain)

    @cached_property
    def answer_prompt(self) -> AnswerPrompt:
        """How questions and chunks are put to the generator."""
        retrieval = self.config.retrieval
        neighbours = self.chunks if retrieval.advanced.expand == "neighbours" else None
        return AnswerPrompt(self.prompts, retrieval.context, neighbours)

    @cached_property
    def chunks(self) -> ChunkStore:
        """The chunks of the run."""
        return ChunkStore(self.run_dir.chunks)

    @cached_property
    def base_encoder(self) -> Encoder:
        """The encoder of the configuration."""
        from rag_ft.retrieval.encoder import load_encoder

        return load_encoder(self.config.encoder)

    @property
    def serves_tuned_retriever(self) -> bool:
        """Whether train_retriever kept a tuned encoder: it and its index are complete."""
        from rag_ft.retrieval.retriever import served_tuned

        return served_tuned(self.run_dir)

    @property
    def tuned_generator(self) -> Path | None:
        """The folder of the tuned generator (an adapter or a whole model), if there is one. The
        whole generator of a bundle is llm.model itself where a server has it."""
        folder = self.run_dir.generator
        whole = (folder / "config.json").exists()
        if whole and self.config.llm.backend == "openai" and is_bundle(self.run_dir.path):
            return None
        return folder if any((folder / mark).exists() for mark in TUNED_MARKS) else None

    @property
    def tuned_components(self) -> set[str]:
        """The components of which a tuned one is there."""
        tuned = {
            "retriever": self.serves_tuned_retriever,
            "reranker": self.tuned_reranker is not None,
            "generator": self.tuned_generator is not None,
        }
        return {name for name, is_tuned in tuned.items() if is_tuned}

    def retriever(self, tuned: Collection[str] = ()) -> Retriever:
        """What finds chunks, with the tuned components that `tuned` names of those that take part:
        retriever and reranker. Opened once and kept.

        Raises:
            DataError, ConfigError: see retrieval.retriever.open_retriever.
        """
        # The import takes a while, and most commands search nothing.
        from rag_ft.retrieval import retriever as search

        key = frozenset(tuned) & {"retriever", "reranker"}
        if key in self._retrievers:
            return self._retrievers[key]
        if "reranker" not in key:
            is_tuned = "retriever" in key
            encoder = self.config.encoder if is_tuned else self.base_encoder
            found = search.open_retriever(
                self.run_dir, self.config.retrieval, encoder, tuned=is_tuned
            )
            if self.reranker:
                found.reranker = self.reranker
        else:
            found = self.reranked(self.retriever(key - {"reranker"}))
        self._retrievers[key] = found
        return found

    def reranked(self, retriever: Retriever) -> Retriever:
        """The retriever with the tuned reranker, where dev questions showed that it helps."""
        from rag_ft.retrieval.fusion import read_choice

        encoder = retriever.encoder.fingerprint
        row = read_choice(self.run_dir.reranking, encoder, "weight", "train_reranker")
        if not row or not row["weight"]:
            return retriever
        return retriever.reranked_by(self.tuned_reranker, row["weight"], row["depth"])

    @cached_property
    def reranker(self) -> Reranker | None:
        """The reranker of the configuration, if it names one that can rank untuned; loaded for its
        first question."""
        return self.open_reranker() if self.config.reranker.untuned else None

    @cached_property
    def tuned_reranker(self) -> Reranker | None:
        """The reranker that train_reranker tuned and kept, if there is one."""
        folder = self.run_dir.reranker
        there = any((folder / mark).exists() for mark in ("modules.json", "config.json"))
        return self.open_reranker(folder) if there and self.config.reranker.model else None

    def open_reranker(self, folder: Path | None = None) -> Reranker:
        """The reranker of the configuration, or the tuned one in `folder`."""
        from rag_ft.retrieval.reranker import Reranker

        config, context = self.config.reranker, self.config.retrieval.context

        def text_of(chunk_id: str) -> str:
            return chunk_text(self.chunks[chunk_id], context)

        return Reranker(config, text_of, folder)

    def plain_retriever(self) -> Retriever:
        """The base retriever with the mixture that holds before train_retriever chooses one. The
        stages up to train_retriever search with it, so that their results do not depend on later
        ones.

        Raises:
            DataError, ConfigError: see retrieval.retriever.open_retriever.
        """
        from rag_ft.retrieval import retriever as search

        retrieval = self.config.retrieval
        return search.open_retriever(self.run_dir, retrieval, self.base_encoder, chosen=False)

    def close_retrievers(self) -> None:
        """Frees the encoders' memory, for the language model that comes next."""
        self._retrievers.clear()
        self.__dict__.pop("base_encoder", None)

    def language_model(
        self, stage: str, llm: LLMConfig | None = None, adapters: dict[str, Path] | None = None
    ) -> AbstractContextManager[LanguageModel]:
        """Opens `llm` (default: that of the configuration) for a stage, with LoRA adapters {name:
        folder}.

        Returns a context manager that gives the model; leaving it frees the model's memory. Where
        the engine has workers, they answer what is asked; see engine/language_model.py.
        """
        opening = Opening(llm or self.config.llm, self.config.run.seed, adapters or {})
        folder = self.run_dir.checkpoints(stage) / "buckets"
        return open_shared_model(opening, self.run_dir.vllm_log, self.config.engine, folder)
