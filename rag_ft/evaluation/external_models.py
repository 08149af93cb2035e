"""Tuned components from elsewhere, named by path in the section `evaluate`. They take the place of
the run's own, which are left alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config, EvaluateConfig
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.model_hub import TUNED_MARKS
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.run_dir import RunDir


@dataclass(frozen=True)
class RunDirWithExternalModels(RunDir):
    """A run folder whose tuned components are those that `external` names by path; where it names
    none, the run's own."""

    external: EvaluateConfig

    @property
    def generator(self) -> Path:
        """The folder of the tuned generator."""
        return self.external.adapter or super().generator

    @property
    def retriever(self) -> Path:
        """The folder of the tuned encoder."""
        return self.external.encoder or super().retriever

    @property
    def retriever_index(self) -> Path:
        """The tuned encoder's index: an external encoder's is named by path too, or built here."""
        if self.external.advanced.index:
            return self.external.advanced.index
        return self.given_index if self.external.encoder else super().retriever_index


def with_external_models(settings: EvaluateConfig, run_dir: RunDir) -> RunDir:
    """The run folder with the components that `settings` names by path in place of its own.

    Raises:
        ConfigError: a path contains no such component.
    """
    index = settings.advanced.index
    if index and not settings.encoder:
        raise ConfigError("evaluate.advanced.index is the index of evaluate.encoder: name that too")
    # One of these files shows that a folder contains the component.
    for setting, folder, marks in (
        ("evaluate.adapter", settings.adapter, TUNED_MARKS),
        ("evaluate.encoder", settings.encoder, ("modules.json",)),
        ("evaluate.advanced.index", index, ("manifest.json",)),
    ):
        if folder and not any((folder / mark).is_file() for mark in marks):
            raise ConfigError(
                f"{setting}: there is no {' or '.join(marks)} in {folder}: "
                "name the folder that contains it"
            )
    return RunDirWithExternalModels(run_dir.path, settings)


def index_external_encoder(config: Config, run_dir: RunDir) -> None:
    """Builds the index of `evaluate.encoder`, unless there is one of the same encoder and chunks.

    Raises:
        ConfigError: `evaluate.advanced.index` does not fit the encoder or the chunks.
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
