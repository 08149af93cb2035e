"""A cache of a language model's replies on disk, which makes stages resumable."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rag_ft.errors import DataError
from rag_ft.llm.interface import ChatRequest, LanguageModel, Reply
from rag_ft.storage import JsonlAppender, content_hash

NEEDED_KEYS = {"key", "text", "finish_reason", "seconds"}
Arrived = Callable[[int], object]  # told how many more replies there are


def cached_chat(
    model: LanguageModel, requests: Iterable[ChatRequest], path: Path, desc: str
) -> Iterator[Reply]:
    """One reply per request, in any order: from the file at `path` where it is cached, else from
    `model`, appended to the file as soon as it arrives. Replies with an error are not cached.

    Equal requests (model, adapter, messages, max_tokens, temperature and schema) are sent once. An
    interrupted run sends the same windows of requests again, so its replies equal those of a run
    that was not interrupted.

    Raises:
        DataError: a line of the file is not a valid reply (an incomplete last line is cut off
            instead).
    """
    total = len(requests) if isinstance(requests, Sized) else None
    with (
        ReplyStore(path) as store,
        tqdm(total=total, desc=desc, unit="reply", smoothing=0.05) as bar,
    ):
        ask = _by_windows if model.window > 1 else _one_by_one
        yield from ask(model, requests, store, bar.update)
        bar.total, bar.leave = bar.n, bar.n > 0  # fewer than announced is also all


def request_key(model_name: str, request: ChatRequest) -> str:
    """The cache key of a request; the caller's id is not part of it."""
    return content_hash(
        model_name,
        request.adapter,
        request.messages,
        request.max_tokens,
        request.temperature,
        request.schema,
    )


class ReplyStore:
    """The file of replies, one {key, window, of, id, text, ...} per line; memory holds only the
    offsets.

    `window` names the requests that were sent together and `of` the number of their lines, so that
    an incomplete window is recognised.
    """

    def __init__(self, path: Path) -> None:
        self._out = JsonlAppender(path)
        self._in = path.open("rb")
        self._offsets: dict[str, tuple[int, str]] = {}
        self._missing: dict[str, int] = {}
        self._size = 0
        for number, line in enumerate(self._in, 1):
            self._remember(_stored(line, path, number), len(line))

    def window_of(self, key: str) -> str | None:
        """The window of the key's reply ("" for an independent one); None where there is no
        reply."""
        return self._offsets[key][1] if key in self._offsets else None

    def is_whole(self, window: str) -> bool:
        """Whether every line the window wrote is there."""
        return self._missing.get(window) == 0

    def get(self, key: str, request_id: str) -> Reply:
        self._in.seek(self._offsets[key][0])
        row = json.loads(self._in.readline())
        # null where the server counted none
        tokens = (row.get("prompt_tokens") or 0, row.get("completion_tokens") or 0)
        return Reply(request_id, row["text"], row["finish_reason"], *tokens, row["seconds"])

    def add(self, replies: list[tuple[str, Reply]], window: str = "") -> None:
        """Appends (key, reply) lines in one write; keys that are there already are left out."""
        rows = [
            _row(key, reply, window, len(replies))
            for key, reply in replies
            if key not in self._offsets
        ]
        for row, num_bytes in zip(rows, self._out.write(*rows), strict=True):
            self._remember(row, num_bytes)

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.__exit__()
        self._in.close()

    def _remember(self, row: dict[str, Any], num_bytes: int) -> None:
        window = row.get("window", "")
        self._offsets.setdefault(row["key"], (self._size, window))
        self._missing[window] = self._missing.get(window, row.get("of", 1)) - 1
        self._size += num_bytes


def _stored(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """The line's row; DataError where it is none."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if (
        not isinstance(row, dict)
        or not row.keys() >= NEEDED_KEYS
        or not isinstance(row["text"], str)
    ):
        raise DataError(
            f"{path} line {number} is not a valid cached reply: delete the line; the request will "
            "be sent again"
        )
    return row


def _row(key: str, reply: Reply, window: str, of: int) -> dict[str, Any]:
    row = {"key": key, "window": window, "of": of, **vars(reply)}
    del row["error"], row["refused"]  # errors are not kept
    return row


def _by_windows(
    model: LanguageModel, requests: Iterable[ChatRequest], store: ReplyStore, arrived: Arrived
) -> Iterator[Reply]:
    """Windows of consecutive requests: what is not cached of a window is sent and stored
    together."""
    stream = iter(requests)
    while window := [
        (request_key(model.name, r), r) for r in itertools.islice(stream, model.window)
    ]:
        name = content_hash([key for key, _ in window])
        again = (None,) if store.is_whole(name) else (None, name)
        asked = {key: request for key, request in window if store.window_of(key) in again}
        arrived(len(window) - len(asked))
        errors = _ask_together(model, asked, store, name, arrived) if asked else {}
        for key, request in window:
            yield (
                dataclasses.replace(errors[key], id=request.id)
                if key in errors
                else store.get(key, request.id)
            )


def _ask_together(
    model: LanguageModel,
    asked: dict[str, ChatRequest],
    store: ReplyStore,
    window: str,
    arrived: Arrived,
) -> dict[str, Reply]:
    """Stores the replies in one write at the end and returns the errors, both by key."""
    by_id = {key: dataclasses.replace(request, id=key) for key, request in asked.items()}
    replies = {}
    for reply in model.chat(by_id.values()):
        replies[reply.id] = reply
        arrived(1)
    answered = [
        (key, dataclasses.replace(replies[key], id=asked[key].id))
        for key in asked
        if not replies[key].error
    ]
    store.add(answered, window)
    return {key: reply for key, reply in replies.items() if reply.error}


def _one_by_one(
    model: LanguageModel, requests: Iterable[ChatRequest], store: ReplyStore, arrived: Arrived
) -> Iterator[Reply]:
    """Independent replies: cached ones at once, others as they come; equal requests share a
    reply."""
    known: deque[tuple[str, str]] = deque()
    waiting: dict[str, list[str]] = {}

    def unknown() -> Iterator[ChatRequest]:
        for request in requests:
            key = request_key(model.name, request)
            if store.window_of(key) is not None:
                known.append((key, request.id))
            elif key in waiting:
                waiting[key].append(request.id)
            else:
                waiting[key] = [request.id]
                yield dataclasses.replace(request, id=key)

    def recall() -> Iterator[Reply]:
        while known:
            arrived(1)
            yield store.get(*known.popleft())

    for reply in model.chat(unknown()):
        names = waiting.pop(reply.id)
        if reply.error is None:
            store.add([(reply.id, dataclasses.replace(reply, id=names[0]))])
        arrived(len(names))
        yield from (dataclasses.replace(reply, id=name) for name in names)
        yield from recall()
    yield from recall()
