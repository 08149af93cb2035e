"""A running server follows its runs: it answers from a new index when `index --update` has
finished, and from another version when that is promoted. Requests in flight end on the old one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from rag_ft.document_store import DocumentStore
from rag_ft.errors import RagFtError, first_line
from rag_ft.llm.interface import LanguageModel
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.run_dir import RunDir
from rag_ft.serving.collections import (
    Collection,
    ServedModel,
    language_models,
    open_models,
    pipeline_of,
)
from rag_ft.serving.state import ServerState
from rag_ft.session import Session
from rag_ft.versions import promoted

logger = logging.getLogger(__name__)
SECONDS = 5.0  # between two looks at the runs


@asynccontextmanager
async def following(state: ServerState) -> AsyncIterator[None]:
    """Follows the runs inside the context."""
    async with AsyncExitStack() as opened, anyio.create_task_group() as tasks:
        tasks.start_soon(follow, state, tasks, opened)
        yield
        tasks.cancel_scope.cancel()


async def follow(state: ServerState, tasks: TaskGroup, opened: AsyncExitStack) -> None:
    """Looks at the runs for ever, and puts models over a new index, or of another version, in the
    place of the old ones. Where these cannot be opened, the old ones stay and the log says why.

    Args:
        state: of the server.
        tasks: where old language models wait until no request needs them.
        opened: holds new language models until the server ends.
    """
    seen = {collection.name: _mark(collection) for collection in state.collections}
    while True:
        await anyio.sleep(SECONDS)
        for collection in state.collections:
            mark = _mark(collection)
            if mark is None or mark == seen[collection.name]:
                continue
            seen[collection.name] = mark
            models = [m for m in state.models.values() if m.collection.name == collection.name]
            is_version = mark[0] != collection.session.run_dir.path and collection.reopen
            what = "version" if is_version else "index"
            try:
                if is_version:
                    await switch(state, collection, opened)
                    tasks.start_soon(close_unused, state, language_models(models))
                else:
                    state.models.update(await to_thread.run_sync(reopened, models))
            # Whatever it is, such as too little memory for both, the old one can still answer.
            except Exception as error:
                traceback = None if isinstance(error, RagFtError) else error
                text = "%s: the old %s is served on: %s"
                logger.warning(text, collection.name, what, first_line(error), exc_info=traceback)
            else:
                logger.warning("%s: a new %s is served", collection.name, what)


async def switch(state: ServerState, old: Collection, opened: AsyncExitStack) -> None:
    """Opens the promoted version with language models of its own, and then serves it in place of
    the old one under the same ids.

    Raises:
        DataError, ConfigError: it cannot be opened, such as for want of memory beside the old one.
    """
    models, closing = await to_thread.run_sync(open_version, old)
    opened.enter_context(closing)
    for llm in language_models(models):
        state.answerer.streams[id(llm)] = await opened.enter_async_context(llm.streaming())
    state.models.update({model.id: model for model in models})


def open_version(old: Collection) -> tuple[list[ServedModel], ExitStack]:
    """(models of the version that is promoted now, what closes them)."""
    assert old.reopen is not None
    with ExitStack() as opened:
        models = opened.enter_context(open_models([old.reopen()]))
        for model in models:
            model.pipeline.retrieve("which", k=1)  # opens the files before the first question
        return models, opened.pop_all()


async def close_unused(state: ServerState, old: Sequence[LanguageModel]) -> None:
    """Frees the language models of a version when the requests that were open at the switch have
    ended: later ones have other models."""
    begun = set(state.open_requests)
    while begun & state.open_requests:
        await anyio.sleep(SECONDS)
    for llm in old:
        if llm not in language_models(state.models.values()):
            state.answerer.streams.pop(id(llm), None)
            try:
                await to_thread.run_sync(llm.__exit__, None, None, None)
            except Exception as error:  # a task that fails would end the server
                text = "a language model that is no longer served cannot be closed: %s"
                logger.warning(text, first_line(error), exc_info=error)


def reopened(models: Sequence[ServedModel]) -> dict[str, ServedModel]:
    """{id: model} of the models of one collection over its index as it is now. Language models and
    encoders stay loaded.

    Raises:
        DataError, ConfigError: an index is missing or does not fit.
    """
    old = models[0].collection
    config, run_dir = old.session.config, old.session.run_dir
    collection = replace(
        old, session=Session(config, run_dir), documents=DocumentStore(run_dir.documents)
    )
    base = models[-1].retriever
    fresh: dict[str, ServedModel] = {}
    opened = {}
    for model in models:
        if id(model.retriever) not in opened:
            tuned = collection.tuned if model.retriever is not base else frozenset()
            encoder = model.retriever.encoder
            retriever = open_retriever(
                run_dir, config.retrieval, encoder, tuned="retriever" in tuned
            )
            retriever.reranker = collection.session.reranker
            if "reranker" in tuned:
                retriever = collection.session.reranked(retriever)
            retriever.search(["which"], 1)  # opens the files before the first question
            opened[id(model.retriever)] = retriever
        retriever = opened[id(model.retriever)]
        fresh[model.id] = replace(
            model,
            collection=collection,
            retriever=retriever,
            pipeline=pipeline_of(collection, retriever, model.llm, model.adapter),
        )
    return fresh


def _mark(collection: Collection) -> tuple[Path, int, int] | None:
    """The folder of the version that is promoted, and when its index was finished; None while that
    is being made, or where promoted.json cannot be read."""
    run_dir = collection.session.run_dir
    with suppress(OSError, RagFtError):
        served = promoted(run_dir.path)
        if served.resolve() == run_dir.path.resolve():
            served = run_dir.path
        found = RunDir(served).done("index").stat()
        return served, found.st_mtime_ns, found.st_ino
    return None
