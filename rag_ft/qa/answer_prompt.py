"""Question + chunks -> prompt, and reply -> answer with citations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rag_ft.llm.interface import Messages
from rag_ft.qa.prompts import Prompts, is_abstention, parse_answer
from rag_ft.records import Chunk
from rag_ft.retrieval.build import chunk_text


@dataclass(frozen=True)
class ParsedReply:
    """`citations` are chunk ids, each once, in the order the reply cites them."""

    answer: str
    citations: tuple[str, ...]
    abstained: bool


@dataclass(frozen=True)
class AnswerPrompt:
    """How a question and chunks become a prompt, and its reply an answer: the same in training,
    evaluation, export and serving."""

    prompts: Prompts
    with_title: bool

    def text(self, chunk: Chunk) -> str:
        """A chunk as the generator reads it."""
        return chunk_text(chunk, self.with_title)

    def messages(self, question: str, chunks: Iterable[Chunk]) -> Messages:
        """Asks `question` over `chunks` in this order, numbered from [1]."""
        return self.prompts.answer(question, [self.text(chunk) for chunk in chunks])

    def parse(self, reply: str, chunk_ids: Sequence[str]) -> ParsedReply:
        """`chunk_ids` are those of the prompt, in its order."""
        answer, numbers = parse_answer(reply, len(chunk_ids))
        return ParsedReply(answer, tuple(chunk_ids[n - 1] for n in numbers), self.abstains(answer))

    def abstains(self, answer: str) -> bool:
        """Whether an answer says that the documents do not contain one."""
        return is_abstention(answer, self.prompts.abstain)
