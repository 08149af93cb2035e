"""A language model whose requests workers answer: each worker opens the model, or starts its
server, once.

The requests of a pass become buckets; see work.py. What a bucket brought stands in a file of its
own, and replies are kept as they come, so that a worker or a stage that was killed, and shards on
other machines, ask nothing twice.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from rag_ft.config import EngineConfig, LLMConfig
from rag_ft.engine.shards import run_buckets
from rag_ft.engine.work import (
    bucket_of,
    check_alike,
    number_of_buckets,
    plan_buckets,
    planned_rows,
    result_of,
)
from rag_ft.errors import ConfigError
from rag_ft.llm.factory import language_model_name, open_language_model
from rag_ft.llm.interface import ChatRequest, LanguageModel, Messages, Reply, Stream
from rag_ft.llm.reply_cache import cached_chat, request_key
from rag_ft.storage import JsonlAppender, batched, content_hash, read_rows, write_jsonl

# A model in process answers windows of 256 requests. A server needs more at a time: at the end of a
# bucket it has little to do.
ROWS_PER_BUCKET = {"transformers": 256, "openai": 2048, "vllm": 2048}
UNKNOWN_BUCKETS = 64  # of requests whose number nobody knows before
SCORES, SCORING = "scores", "score chunks with the LM"  # the folder of scores, and what is done
SCORES_AT_ONCE = 256  # a killed worker loses so many at most


@dataclass(frozen=True)
class Opening:
    """What a worker needs to open the model; see open_language_model."""

    llm: LLMConfig
    seed: int
    adapters: dict[str, Path]

    @property
    def name(self) -> str:
        """The name of the model in cache keys.

        Raises:
            ConfigError: there is no such model or adapter.
        """
        return language_model_name(self.llm, self.seed, self.adapters)


def open_shared_model(
    opening: Opening, log_path: Path, engine: EngineConfig, folder: Path
) -> AbstractContextManager[LanguageModel]:
    """The model in this process or, where the engine has workers, one that they open.

    Requests and results of workers stand in `folder` until the stage is done.

    Raises:
        ConfigError: see open_language_model.
    """
    if engine.in_buckets:
        return SharedModel(opening, engine, folder)
    return open_language_model(opening.llm, opening.seed, opening.adapters, log_path)


def prepare(
    model: LanguageModel,
    requests: Iterable[ChatRequest],
    most: int | None,
    cache: Path,
    what: str,
) -> None:
    """Where workers answer the requests, has them do it: `chat` then gives their replies. Other
    models do nothing and draw no request. `most` is an upper bound of the number of requests (None
    where it is unknown); those whose replies the file `cache` holds are not asked.

    Raises:
        RagFtError, ShardDone: see run_buckets.
    """
    if isinstance(model, SharedModel):
        model.prepare(requests, most, cache, what)


def planned_scores(folder: Path) -> list[Path]:
    """The folders of the answers that a training has planned to score, in its folder."""
    return sorted(path.parent for path in folder.rglob(f"{SCORES}/plan"))


def score_planned(opening: Opening, folder: Path, engine: EngineConfig) -> None:
    """Scores what a training in `folder` has planned, as far as it is this shard's.

    Raises:
        ConfigError: it has planned nothing yet.
        RagFtError, ShardDone: see run_buckets.
    """
    if not (places := planned_scores(folder)):
        raise ConfigError(
            "no scores are planned: run --shard 0 first, which trains until it needs them; the "
            "other shards only score"
        )
    for place in places:
        names = sorted(path.stem for path in (place / "plan").glob("[0-9]*.jsonl"))
        run_buckets(ScoreWork(place, opening, opening.name), names, engine, SCORING)


class SharedModel:
    """A LanguageModel (see interface.py) that gives what workers have made."""

    window = 1  # this process reads replies one by one; workers keep windows inside a bucket

    def __init__(self, opening: Opening, engine: EngineConfig, folder: Path) -> None:
        self.name = opening.name
        self._opening, self._engine, self._folder = opening, engine, folder
        self._made: dict[str, tuple[Path, int]] = {}

    def prepare(
        self, requests: Iterable[ChatRequest], most: int | None, cache: Path, what: str
    ) -> None:
        """See the function `prepare`."""
        folder = self._folder / re.sub(r"\W+", "-", what)
        num_buckets = self._num_buckets(most) if most is not None else UNKNOWN_BUCKETS
        known = {row["key"] for row in read_rows(cache)} if cache.exists() else set()
        # A killed run has moved some results to the cache: the buckets must be the same again.
        for path in (folder / "done").glob("[0-9]*"):
            known -= {row["key"] for row in read_rows(path)}

        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            for request in requests:
                key = request_key(self.name, request)
                if key not in known:
                    known.add(key)
                    # Requests of a chunk begin alike and stay together: a server reads that once.
                    group = request.id.rpartition("/")[0] or request.id
                    yield bucket_of(group, num_buckets), {"key": key, **vars(request)}

        names = plan_buckets(folder, rows())
        run_buckets(AskWork(folder, self._opening, self.name), names, self._engine, what)
        self._read(folder, names)

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        """The replies of requests that were prepared; ids are the keys of the cache."""
        for request in requests:
            yield Reply(**(self._row(request.id) | {"id": request.id}))

    def answer_logprobs(self, jobs: Sequence[tuple[Messages, str]]) -> list[np.ndarray]:
        """All jobs at once make buckets."""
        folder = self._folder / SCORES
        num_buckets = self._num_buckets(len(jobs))
        rows: list[dict[str, Any]] = []
        for messages, answer in jobs:
            key = content_hash(self.name, messages, answer)
            rows.append({"key": key, "messages": messages, "answer": answer})
        names = plan_buckets(folder, ((bucket_of(row["key"], num_buckets), row) for row in rows))
        run_buckets(ScoreWork(folder, self._opening, self.name), names, self._engine, SCORING)
        self._read(folder, names)
        return [np.array(self._row(row["key"])["logprobs"], dtype=np.float32) for row in rows]

    def count_tokens(self, messages: Messages) -> int:
        """About: a worker's tokenizer counts exactly, this process opens none."""
        return sum(len(message["content"]) for message in messages) // 4

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[Stream]:
        """Raises NotImplementedError: people do not wait for buckets."""
        raise NotImplementedError("a shared model does not stream")
        yield  # pragma: no cover

    def __enter__(self) -> SharedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.clear()

    def _num_buckets(self, num_rows: int) -> int:
        return number_of_buckets(num_rows, ROWS_PER_BUCKET[self._opening.llm.backend])

    def _read(self, folder: Path, names: Iterable[str]) -> None:
        """Notes where each result begins."""
        for name in names:
            path, place = result_of(folder, name), 0
            with path.open("rb") as lines:
                for line in lines:
                    self._made[json.loads(line)["key"]] = path, place
                    place += len(line)

    def _row(self, key: str) -> dict[str, Any]:
        path, place = self._made[key]
        with path.open("rb") as lines:
            lines.seek(place)
            row: dict[str, Any] = json.loads(lines.readline())
        return {name: value for name, value in row.items() if name != "key"}


@dataclass
class ModelWork:
    """What asks a model bucket by bucket; see work.Work."""

    folder: Path
    opening: Opening
    name: str
    has_processes: bool = False
    _model: LanguageModel | None = None
    _contexts: ExitStack = field(default_factory=ExitStack)

    def model(self) -> LanguageModel:
        """The model, opened for the first bucket.

        Raises:
            ConfigError: it cannot be opened here, or is another one than where it was planned.
        """
        if self._model is None:
            check_alike(self.opening.name, self.name, "language model")
            log = self.folder / f"model-{platform.node()}-{os.getpid()}.log"
            opening = self.opening
            context = open_language_model(opening.llm, opening.seed, opening.adapters, log)
            self._model = self._contexts.enter_context(context)
        return self._model

    def close(self) -> None:
        """Frees the model, or stops its server."""
        self._model = None
        self._contexts.close()

    @contextmanager
    def kept(self, name: str) -> Iterator[Path]:
        """The file of what a bucket has brought so far: it stays where its worker is killed, and
        goes with the result. A second worker, which a cluster starts for one that it cannot reach,
        waits until the first one has ended."""
        path = self.folder / "kept" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            yield path
            if result_of(self.folder, name).exists():
                path.unlink(missing_ok=True)


class AskWork(ModelWork):
    """Answers the requests of a bucket."""

    def do(self, name: str) -> None:
        """Writes a {key, text, finish_reason, ..., error} a line."""
        requests = []
        for row in planned_rows(self.folder, name):
            row["id"] = row.pop("key")
            requests.append(ChatRequest(**{**row, "messages": tuple(row["messages"])}))
        model = self.model()
        with self.kept(name) as kept:
            if result_of(self.folder, name).exists():
                return
            replies = {r.id: r for r in cached_chat(model, requests, kept, name)}
            rows = ({"key": request.id, **vars(replies[request.id])} for request in requests)
            write_jsonl(result_of(self.folder, name), rows)


class ScoreWork(ModelWork):
    """Scores the answers of a bucket."""

    def do(self, name: str) -> None:
        """Writes a {key, logprobs} a line."""
        model = self.model()
        with self.kept(name) as kept:
            if result_of(self.folder, name).exists():
                return
            with JsonlAppender(kept) as out:
                known = {row["key"]: row for row in read_rows(kept)}
                for rows in batched(planned_rows(self.folder, name), SCORES_AT_ONCE):
                    if all(row["key"] in known for row in rows):
                        continue
                    jobs = [(tuple(row["messages"]), row["answer"]) for row in rows]
                    for row, values in zip(rows, model.answer_logprobs(jobs), strict=True):
                        scores = [float(value) for value in values]
                        known[row["key"]] = {"key": row["key"], "logprobs": scores}
                    out.write(*(known[row["key"]] for row in rows))
            planned = planned_rows(self.folder, name)
            write_jsonl(result_of(self.folder, name), (known[row["key"]] for row in planned))
