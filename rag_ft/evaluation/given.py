"""Tuned halves that were made elsewhere: linked into the run folder, where every stage and command looks for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from rag_ft.config import Config
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.paths import RunDir
from rag_ft.records import Chunk, read_jsonl
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.search import build_index, open_retriever


def link_given(config: Config, run_dir: RunDir) -> None:
    """generator/, retriever/ and retriever_index/ become links to the paths of the section `evaluate`; links to paths
    that are no longer given go. An index that is not given is built here, once for the same encoder and chunks.

    Raises:
        ConfigError: a path holds no such thing, the run has tuned that half itself, or the index does not fit.
    """
    given = config.evaluate
    if given.index and not given.encoder:
        raise ConfigError("evaluate.index is the index of evaluate.encoder: name that too")
    _link(given.adapter, run_dir.generator, "evaluate.adapter", ("adapter_config.json", "config.json"))
    _link(given.encoder, run_dir.retriever, "evaluate.encoder", ("modules.json",))
    if given.encoder:
        _place_index(config, run_dir)


def _link(given: Path | None, place: Path, knob: str, marks: tuple[str, ...]) -> None:
    if place.is_symlink():
        place.unlink()
    if given is None:
        return
    if place.exists():
        raise ConfigError(f"{place} was tuned in this run: name another run.dir, or leave {knob} out")
    if not any((given / mark).is_file() for mark in marks):
        raise ConfigError(f"{knob}: there is no {' or '.join(marks)} in {given}: name the folder that holds it")
    place.symlink_to(given.resolve(), target_is_directory=True)


def _place_index(config: Config, run_dir: RunDir) -> None:
    place = run_dir.retriever_index
    if config.evaluate.index and place.exists() and not place.is_symlink():
        shutil.rmtree(place)  # built here before: the retriever is a link, so it is none that training made
    if config.evaluate.index or place.is_symlink():
        _link(config.evaluate.index, place, "evaluate.index", ("manifest.json",))
    encoder = load_encoder(config.encoder, run_dir.retriever)
    try:
        open_retriever(config, run_dir, tuned=True, encoder=encoder)
    except RagFtError as error:
        if config.evaluate.index:
            why = str(error).rpartition(": ")[0]
            raise ConfigError(f"evaluate.index does not fit: {why}: leave it out, and it is built here") from error
        build_index(config, place, read_jsonl(run_dir.chunks, Chunk), encoder)
