"""Requests to the model, many in flight; what comes back is put in the order it was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from rag_ft.errors import DataError
from rag_ft.generation.filters import Failure
from rag_ft.generation.statistics import Funnel
from rag_ft.llm.interface import ChatRequest, LanguageModel, Reply
from rag_ft.llm.reply_cache import cached_chat

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


# A server that answers nothing so many times in a row, after all retries, is down: stop, so that a later run can
# continue, rather than write off every chunk that is left.
DOWN_AFTER_ERRORS = 32


MAX_ERROR_SHARE = 0.1


class ErrorWatch:
    """Tells single failures from a server that is down. A request refused for its length is no sign of that."""

    def __init__(self, what: str) -> None:
        self._what, self._num, self._errors, self._refused, self._streak, self._first = (
            what,
            0,
            0,
            0,
            0,
            "",
        )

    def see(self, reply: Reply) -> None:
        """Raises DataError when the model has given nothing but errors for a while."""
        self._num += 1
        if reply.error is None:
            self._streak = 0
            return
        self._first = self._first or reply.error
        self._errors += 1
        if reply.refused:
            self._refused += 1
        else:
            self._streak += 1
        if self._streak >= DOWN_AFTER_ERRORS:
            raise self._failed(f"the last {self._streak} requests")

    def finish(self) -> None:
        """Raises DataError when all requests, or too large a share of them, failed in the end."""
        lost = self._errors - self._refused
        if self._num and (self._errors == self._num or lost > MAX_ERROR_SHARE * self._num):
            raise self._failed(f"{self._errors} of {self._num} requests")

    def _failed(self, which: str) -> DataError:
        return DataError(
            f"the language model failed on {which} for {self._what} ({self._first[:200]}): see that it runs and that "
            f"llm.* fits it, then run the stage again; replies so far are kept"
        )
