"""A cache of a language model's replies on disk, so that a stopped stage continues where it was."""

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
Arrived = Callable[[int], object]  # called with the number of replies that have come


def cached_chat(
    model: LanguageModel, requests: Iterable[ChatRequest], path: Path, desc: str
) -> Iterator[Reply]:
    """One reply per request, in any order, with a progress bar named `desc`.

    A cached reply comes from the file at `path`. Any other comes from `model` and is appended to
    the file at once, unless it is an error. Equal requests (model, adapter, messages, max_tokens,
    temperature and schema) are sent once. A run that was stopped sends the same windows of requests
    again, so its replies equal those of a run that was not stopped.

    Raises:
        DataError: a line of the file is not a valid reply. (An incomplete last line, which a killed
            run leaves, is cut off instead.)
    """
    total = len(requests) if isinstance(requests, Sized) else None
    with (
        ReplyStore(path) as store,
        tqdm(total=total, desc=desc, unit="reply", smoothing=0.05) as bar,
    ):
        ask = _by_windows if model.window > 1 else _one_by_one
        yield from ask(model, requests, store, bar.update)
        # The stream may hold fewer requests than its length announced.
        bar.total, bar.leave = bar.n, bar.n > 0


def request_key(model_name: str, request: ChatRequest) -> str:
    """The cache key of a request; the caller's id and `about` are no part of it."""
    return content_hash(
        model_name,
        request.adapter,
        request.messages,
        request.max_tokens,
        request.temperature,
        request.schema,
    )


class ReplyStore:
    """The file of replies, one {key, window, of, id, about, text, ...} per line.

    Memory holds only where each line begins. `window` names the requests that were sent together
    and `of` the number of their lines, so that an incomplete window is recognised.

    Raises:
        DataError: a line is not a valid reply.
    """

    def __init__(self, path: Path) -> None:
        self._out = JsonlAppender(path)
        self._in = path.open("rb")
        self._offsets: dict[str, tuple[int, str]] = {}
        self._missing: dict[str, int] = {}
        self._size = 0
        for number, line in enumerate(self._in, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            complete = isinstance(row, dict) and row.keys() >= NEEDED_KEYS
            if not complete or not isinstance(row["text"], str) or not isinstance(row["key"], str):
                raise DataError(
                    f"{path} line {number} is not a valid cached reply: delete the line; the "
                    "request will be sent again"
                )
            self._remember(row, len(line))

    def window_of(self, key: str) -> str | None:
        """The window of the key's reply ("" for an independent one); None: there is no reply."""
        return self._offsets[key][1] if key in self._offsets else None

    def is_whole(self, window: str) -> bool:
        """Whether the file holds every line of the window."""
        return self._missing.get(window) == 0

    def get(self, key: str, request_id: str) -> Reply:
        """The reply of a key that the file holds, with the id of the request."""
        self._in.seek(self._offsets[key][0])
        row = json.loads(self._in.readline())
        tokens = (row.get("prompt_tokens"), row.get("completion_tokens"))
        return Reply(request_id, row["text"], row["finish_reason"], *tokens, row["seconds"])

    def add(self, replies: list[tuple[str, ChatRequest, Reply]], window: str = "") -> None:
        """Appends lines of (key, request, reply) in one write; keys that are there already are left
        out."""
        rows = []
        for key, request, reply in replies:
            if key not in self._offsets:
                of = {"window": window, "of": len(replies), "about": request.about}
                row = {"key": key, **of, **vars(reply), "id": request.id}
                # The caller adds no errors, so these two fields say nothing.
                del row["error"], row["refused"]
                rows.append(row)
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


def _by_windows(
    model: LanguageModel, requests: Iterable[ChatRequest], store: ReplyStore, arrived: Arrived
) -> Iterator[Reply]:
    """Windows of consecutive requests.

    What is not cached of a window is sent together and stored together, in one write.
    """
    stream = iter(requests)
    while window := [
        (request_key(model.name, r), r) for r in itertools.islice(stream, model.window)
    ]:
        # Of a window that a killed run wrote in part, the stored replies are asked for again too:
        # they must come from the same batch as the others.
        name = content_hash([key for key, _ in window])
        again = (None,) if store.is_whole(name) else (None, name)
        asked = {key: request for key, request in window if store.window_of(key) in again}
        arrived(len(window) - len(asked))

        replies: dict[str, Reply] = {}
        if asked:
            for reply in model.chat(dataclasses.replace(r, id=key) for key, r in asked.items()):
                replies[reply.id] = reply
                arrived(1)
        answered = [
            (key, request, replies[key]) for key, request in asked.items() if not replies[key].error
        ]
        store.add(answered, name)

        for key, request in window:
            if key in replies and replies[key].error:
                yield dataclasses.replace(replies[key], id=request.id)
            else:
                yield store.get(key, request.id)


def _one_by_one(
    model: LanguageModel, requests: Iterable[ChatRequest], store: ReplyStore, arrived: Arrived
) -> Iterator[Reply]:
    """Independent replies: cached ones at once, others as they come from the model."""
    known: deque[tuple[str, str]] = deque()
    waiting: dict[str, list[ChatRequest]] = {}

    def unknown() -> Iterator[ChatRequest]:
        """What to send. Equal requests wait for the first one's reply."""
        for request in requests:
            key = request_key(model.name, request)
            if store.window_of(key) is not None:
                known.append((key, request.id))
            elif key in waiting:
                waiting[key].append(request)
            else:
                waiting[key] = [request]
                yield dataclasses.replace(request, id=key)

    def recall() -> Iterator[Reply]:
        """The cached replies of the requests that were drawn so far."""
        while known:
            arrived(1)
            yield store.get(*known.popleft())

    for reply in model.chat(unknown()):
        same = waiting.pop(reply.id)
        if reply.error is None:
            store.add([(reply.id, same[0], reply)])
        arrived(len(same))
        yield from (dataclasses.replace(reply, id=request.id) for request in same)
        yield from recall()
    yield from recall()
