"""Requests to the model, many in flight; what comes back is put in the order it was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from rag_ft.llm.interface import ChatRequest, LanguageModel, Reply
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.qa.checks import Failure
from rag_ft.qa.funnel import ErrorWatch, Funnel

Job = tuple[Any, Failure | None, ChatRequest | None]
Done = tuple[Any, Failure | None, Reply | None]
Item = TypeVar("Item")


def ask_in_order(
    model: LanguageModel,
    jobs: Iterable[Job],
    replies: Path,
    funnel: Funnel,
    what: str,
    most: int | None = None,
) -> Iterator[Done]:
    """(item, failure, reply) for each job (item, failure, request), in the order of `jobs`; without a request there
    is no reply.

    Args:
        model: opened.
        jobs: drawn lazily; only those in flight are held. Request ids must differ.
        replies: the file where replies are kept, and found again.
        funnel: counts tokens.
        what: what the progress bar and errors say.
        most: how many requests there are at most, for the progress bar; None: not known beforehand.

    Raises:
        DataError: the model is down, or failed on too many requests.
    """
    watch = ErrorWatch(what)
    waiting: dict[str, tuple[int, Any, Failure | None]] = {}
    ready: dict[int, Done] = {}
    following = 0

    def requests() -> Iterator[ChatRequest]:
        for number, (item, failure, request) in enumerate(jobs):
            if request is None:
                ready[number] = (item, failure, None)
            else:
                waiting[request.id] = (number, item, failure)
                yield request

    asked = requests() if most is None else _Sized(requests(), most)
    for reply in cached_chat(model, asked, replies, what):
        watch.see(reply)
        funnel.take(reply)
        number, item, failure = waiting.pop(reply.id)
        ready[number] = (item, failure, reply)
        while following in ready:
            yield ready.pop(following)
            following += 1
    for number in sorted(ready):
        yield ready[number]
    watch.finish()


class _Sized(Generic[Item]):
    """An iterator that knows how long it is at most, for the progress bar."""

    def __init__(self, items: Iterator[Item], most: int) -> None:
        self._items, self._most = items, most

    def __iter__(self) -> Iterator[Item]:
        return self._items

    def __len__(self) -> int:
        return self._most
