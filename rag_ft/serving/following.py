"""A running server follows its runs: when `index --update` has finished, it answers from the new
index. Requests in flight end with the old one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
from anyio import to_thread

from rag_ft.document_store import DocumentStore
from rag_ft.errors import RagFtError
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.serving.collections import Collection, ServedModel, pipeline_of
from rag_ft.serving.state import ServerState
from rag_ft.session import Session

logger = logging.getLogger(__name__)
SECONDS = 5.0  # between two looks at the runs


@asynccontextmanager
async def following(state: ServerState) -> AsyncIterator[None]:
    """Follows the runs inside the context."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, state)
        yield
        tasks.cancel_scope.cancel()


async def follow(state: ServerState) -> None:
    """Looks at the runs for ever, and puts models over a new index in the place of the old ones.
    Where a new index cannot be opened, the old one stays and the log says why."""
    seen = {collection.name: _mark(collection) for collection in state.collections}
    while True:
        await anyio.sleep(SECONDS)
        for collection in state.collections:
            mark = _mark(collection)
            if mark is None or mark == seen[collection.name]:
                continue
            seen[collection.name] = mark
            models = [m for m in state.models.values() if m.collection.name == collection.name]
            try:
                state.models.update(await to_thread.run_sync(reopened, models))
            except RagFtError as error:
                logger.warning("%s: the old index is served on: %s", collection.name, error)
            else:
                logger.warning("%s: a new index is served", collection.name)


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


def _mark(collection: Collection) -> tuple[int, int] | None:
    """Another one when an index has been finished; None while one is being made."""
    try:
        found = collection.session.run_dir.done("index").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
