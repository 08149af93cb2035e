"""Tuned components that were made elsewhere: evaluated in place of the run's own, which stay as
they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rag_ft.config import Config, EvaluateConfig
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.model_hub import TUNED_MARKS
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.run_dir import RunDir
from rag_ft.storage import ChunkStore


@dataclass(frozen=True)
class GivenRunDir(RunDir):
    """A run folder whose tuned components are those that the section `evaluate` names by path,
    where it does."""

    given: EvaluateConfig

    @property
    def generator(self) -> Path:
        return self.given.adapter or super().generator

    @property
    def retriever(self) -> Path:
        return self.given.encoder or super().retriever

    @property
    def retriever_index(self) -> Path:
        return self.given.advanced.index or (
            self.given_index if self.given.encoder else super().retriever_index
        )


def with_given(config: Config, run_dir: RunDir) -> RunDir:
    """The run folder with the components given by path in place of its own.

    Raises:
        ConfigError: a path holds no such component.
    """
    given = config.evaluate
    if given.advanced.index and not given.encoder:
        raise ConfigError("evaluate.advanced.index is the index of evaluate.encoder: name that too")
    _check(given.adapter, "evaluate.adapter", TUNED_MARKS)
    _check(given.encoder, "evaluate.encoder", ("modules.json",))
    _check(given.advanced.index, "evaluate.advanced.index", ("manifest.json",))
    return GivenRunDir(run_dir.path, given)


def index_given(config: Config, run_dir: RunDir) -> None:
    """Builds the index of `evaluate.encoder`, where there is none of the same encoder and chunks.

    Raises:
        ConfigError: `evaluate.advanced.index` does not fit.
    """
    if not config.evaluate.encoder:
        return
    encoder = load_encoder(config.encoder, run_dir.retriever)
    try:
        open_retriever(run_dir, config.retrieval, encoder, tuned=True)
    except RagFtError as error:
        if config.evaluate.advanced.index:
            why = str(error).rpartition(": ")[0]
            raise ConfigError(
                f"evaluate.advanced.index does not fit: {why}: leave it out, and it is built here"
            ) from error
        chunks = ChunkStore(run_dir.chunks)
        build_index(run_dir.retriever_index, chunks, encoder, config.retrieval, config.run.seed)


def _check(given: Path | None, setting: str, marks: tuple[str, ...]) -> None:
    if given and not any((given / mark).is_file() for mark in marks):
        raise ConfigError(
            f"{setting}: there is no {' or '.join(marks)} in {given}: name the folder that holds it"
        )
