"""Sends the requests of one pass to the language model and returns the replies in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rag_ft.engine.language_model import prepare
from rag_ft.errors import DataError
from rag_ft.generation.filters import Failure
from rag_ft.llm.interface import ChatRequest, LanguageModel, Reply
from rag_ft.llm.reply_cache import cached_chat

Item = TypeVar("Item")

# After so many errors in a row the server counts as down, and the stage ends. Otherwise every
# chunk that is left would be rejected, although a later run could ask about it.
DOWN_AFTER_ERRORS = 32
# A larger share of failed requests at the end of a pass is an error.
MAX_ERROR_SHARE = 0.1


class PassItem(NamedTuple):
    """What a pass decides on: with a failure it is rejected, without a request it is kept, else the
    reply to the request decides."""

    item: Any
    failure: Failure | None = None
    request: ChatRequest | None = None


class AnsweredItem(NamedTuple):
    """A PassItem after the pass: with the reply if it had a request."""

    item: Any
    failure: Failure | None
    reply: Reply | None


def ask_in_order(
    model: LanguageModel,
    make_items: Callable[[], Iterable[PassItem]],
    replies: Path,
    count_tokens: Callable[[Reply], None],
    what: str,
    at_most: int | None = None,
) -> Iterator[AnsweredItem]:
    """Every item with its reply, in their order; many requests are in flight at a time.

    Args:
        model: opened.
        make_items: called twice where workers answer the requests (see `prepare`), else once. Items
            are drawn lazily; only those in flight are held. Request ids must differ.
        replies: the file where replies are cached.
        count_tokens: called once for every reply.
        what: the name of the pass in the progress bar and in errors.
        at_most: upper bound of the number of requests, for the progress bar; None if unknown.

    Raises:
        DataError: the model is down, or failed on too many requests.
    """
    asked = (item.request for item in make_items() if item.request)
    prepare(model, asked, at_most, replies, what)
    watch = ErrorWatch(what)
    waiting: dict[str, tuple[int, PassItem]] = {}
    ready: dict[int, AnsweredItem] = {}
    next_number = 0

    def requests() -> Iterator[ChatRequest]:
        for number, item in enumerate(make_items()):
            if item.request is None:
                ready[number] = AnsweredItem(item.item, item.failure, None)
            else:
                waiting[item.request.id] = (number, item)
                yield item.request

    requested = requests() if at_most is None else _Sized(requests(), at_most)
    for reply in cached_chat(model, requested, replies, what):
        watch.see(reply)
        count_tokens(reply)
        number, item = waiting.pop(reply.id)
        ready[number] = AnsweredItem(item.item, item.failure, reply)
        # Replies come in any order: an item waits until all items before it are ready.
        while next_number in ready:
            yield ready.pop(next_number)
            next_number += 1
    # Items without a request may follow the last reply.
    for number in sorted(ready):
        yield ready[number]
    watch.finish()


class _Sized(Generic[Item]):
    """An iterator with an upper bound of its length, which the progress bar shows."""

    def __init__(self, items: Iterator[Item], at_most: int) -> None:
        self._items, self._at_most = items, at_most

    def __iter__(self) -> Iterator[Item]:
        return self._items

    def __len__(self) -> int:
        return self._at_most


class ErrorWatch:
    """Distinguishes single failed requests from a server that is down.

    A request that the model rejects for its length is no sign of a server that is down.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._num_replies = self._num_errors = self._num_too_long = self._num_in_a_row = 0
        self._first_error = ""

    def see(self, reply: Reply) -> None:
        """Takes the next reply. Raises DataError after DOWN_AFTER_ERRORS errors in a row."""
        self._num_replies += 1
        if reply.error is None:
            self._num_in_a_row = 0
            return
        self._first_error = self._first_error or reply.error
        self._num_errors += 1
        if reply.refused:
            self._num_too_long += 1
        else:
            self._num_in_a_row += 1
        if self._num_in_a_row >= DOWN_AFTER_ERRORS:
            raise self._error(f"the last {self._num_in_a_row} requests")

    def finish(self) -> None:
        """Raises DataError if all requests failed, or more than MAX_ERROR_SHARE of them failed for
        other reasons than their length."""
        num_failed = self._num_errors - self._num_too_long
        all_failed = 0 < self._num_replies == self._num_errors
        if all_failed or num_failed > MAX_ERROR_SHARE * self._num_replies:
            raise self._error(f"{self._num_errors} of {self._num_replies} requests")

    def _error(self, which: str) -> DataError:
        return DataError(
            f"the language model failed on {which} for {self._what} ({self._first_error[:200]}): "
            "check that it runs and that llm.* fits it, then run the stage again; the replies so "
            "far are kept"
        )
