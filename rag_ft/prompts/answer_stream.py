"""A reply piece by piece -> the answer as it is shown, with its citation marks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# Text between these tags at the beginning of a reply is no part of the answer.
_PREAMBLES = (("<think>", "</think>"), ("<quote>", "</quote>"))
_MARK = re.compile(r"\[\s*(\d{1,3}(?:\s*,\s*\d{1,3})*)\s*\]")
_UNFINISHED_MARK = re.compile(r"\[[\d\s,]{0,40}\Z")


@dataclass(frozen=True)
class Mark:
    """`text[start:end]` of the answer cites the chunk shown as number `number`, from 1."""

    start: int
    end: int
    number: int


class AnswerStream:
    """Takes the pieces of one reply and gives the pieces of the answer.

    The answer has no white space around it, no reasoning and no quote before it, and citation marks
    only of chunks that were shown. An abstention has none. The pieces joined are `text`, however
    the reply was cut.
    """

    def __init__(self, num_shown: int | None, abstains: Callable[[str], bool]) -> None:
        """
        Args:
            num_shown: Chunks in the prompt. None: marks are text like any other.
            abstains: Whether an answer is an abstention.
        """
        self.marks: list[Mark] = []
        self._num_shown, self._abstains = num_shown, abstains
        self._shown: list[str] = []
        self._length = 0
        self._held = ""

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._shown)

    @property
    def abstained(self) -> bool:
        """Whether the answer so far says that the chunks do not contain one."""
        return self._abstains(self.text)

    def feed(self, piece: str) -> str:
        """What can be shown after `piece` of the reply; the rest is held back."""
        # Nearly every piece: a word with a space before it.
        plain = self._length and not self._held and piece and not piece[-1].isspace()
        if plain and "[" not in piece:
            return self._show(piece)
        self._held += piece
        return self._release(is_last=False)

    def finish(self) -> str:
        """What is left to show when the reply has ended."""
        return self._release(is_last=True)

    def cite(self, number: int) -> str:
        """Appends a mark to the finished answer; returns what is to be shown."""
        return self._show(" " if self._length else "") + self._show_mark([number])

    def _release(self, is_last: bool) -> str:
        if not self._length and not self._begin(is_last):
            return ""
        released = ""
        while True:
            at = -1 if self._num_shown is None else self._held.find("[")
            plain = self._held if at < 0 else self._held[:at]
            word = plain.rstrip()
            released += self._show(word)
            # White space is shown with what comes after it.
            space, rest = plain[len(word) :], "" if at < 0 else self._held[at:]
            self._held = space + rest
            if not rest:
                return released
            if mark := _MARK.match(rest):
                released += self._mark(space, mark)
                self._held = rest[mark.end() :]
                # A removed mark at the beginning leaves no white space.
                self._held = self._held if self._length else self._held.lstrip()
            elif _UNFINISHED_MARK.match(rest) and not is_last:
                return released
            else:
                released += self._show(space + "[")
                self._held = rest[1:]

    def _begin(self, is_last: bool) -> bool:
        """Removes what stands before the answer. False: more of the reply is needed first."""
        self._held = self._held.lstrip()
        for opening, closing in _PREAMBLES:
            if self._held.startswith(opening):
                _, closed, after = self._held.partition(closing)
                # Cut off inside: there is no answer.
                if closed or is_last:
                    self._held = after
                    return self._begin(is_last)
                return False
            if opening.startswith(self._held) and not is_last:
                return False
        # A mark before any text: only the end shows whether the reply abstains.
        return is_last or self._num_shown is None or not self._held.startswith("[")

    def _mark(self, space: str, mark: re.Match[str]) -> str:
        """Shows the numbers of a mark that stand for a chunk, with the white space before them."""
        numbers = [int(n) for n in mark[1].split(",")]
        known = [n for n in dict.fromkeys(numbers) if 1 <= n <= (self._num_shown or 0)]
        # A mark may stand before an abstention, or after it.
        said = self.text or _MARK.sub("", self._held).strip()
        if not known or self._abstains(said):
            return ""
        return self._show(space if self._length else "") + self._show_mark(known)

    def _show_mark(self, numbers: list[int]) -> str:
        start = self._length
        shown = self._show(f"[{', '.join(map(str, numbers))}]")
        self.marks += [Mark(start, self._length, number) for number in numbers]
        return shown

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
            self._length += len(text)
        return text
