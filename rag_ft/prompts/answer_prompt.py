"""From a question and chunks to a prompt, and from a reply to an answer with citations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rag_ft.chunk_store import ChunkStore
from rag_ft.llm.interface import Messages
from rag_ft.prompts.prompt_set import Prompts, is_abstention, parse_answer
from rag_ft.relevance import chunk_with_answer
from rag_ft.schema import Chunk, ChunkContext


@dataclass(frozen=True)
class ParsedReply:
    """`citations` are the ids of the cited chunks, each once, in the order of the reply.
    `inferred`: the reply cites nothing, and the chunk that contains its answer is cited instead."""

    answer: str
    citations: tuple[str, ...]
    abstained: bool
    inferred: bool = False


@dataclass(frozen=True)
class AnswerPrompt:
    """Makes prompts of questions and chunks, and answers of replies: the same in training,
    evaluation, export and serving.

    `context` stands before each chunk, see `chunk_text`. `neighbours` are the chunks of the run
    where each chunk is shown together with the one before and the one after it.
    """

    prompts: Prompts
    context: ChunkContext
    neighbours: ChunkStore | None = None

    def shown(self, chunk: Chunk) -> Chunk:
        """What is shown of a found chunk: itself, or a longer part of its document under its id."""
        return with_neighbours(chunk, self.neighbours) if self.neighbours else chunk

    def text(self, chunk: Chunk) -> str:
        """A chunk as the generator reads it."""
        return chunk_text(self.shown(chunk), self.context)

    def messages(self, question: str, chunks: Iterable[Chunk]) -> Messages:
        """Asks `question` over `chunks` in this order, numbered from [1]."""
        return self.prompts.answer(question, [self.text(chunk) for chunk in chunks])

    def parse(self, reply: str, chunks: Sequence[Chunk]) -> ParsedReply:
        """The answer in a reply. `chunks` are those of the prompt, in its order."""
        answer, numbers = parse_answer(reply, len(chunks))
        cited = tuple(chunks[n - 1].id for n in numbers)
        abstained = self.abstains(answer)
        if cited or abstained or not answer:
            return ParsedReply(answer, cited, abstained)
        found = chunk_with_answer(answer, [self.shown(chunk) for chunk in chunks])
        return ParsedReply(answer, (found.id,) if found else (), abstained, found is not None)

    def abstains(self, answer: str) -> bool:
        """Whether an answer says that the documents do not contain one."""
        return is_abstention(answer, self.prompts.abstain)


def with_neighbours(chunk: Chunk, chunks: ChunkStore) -> Chunk:
    """The chunk with the chunks before and after it in its document, as one part of the document
    under its id. White space between them that no chunk holds is shown as blanks."""
    document, _, number = chunk.id.rpartition("#")
    around = (f"{document}#{int(number) + step}" for step in (-1, 1)) if number.isdigit() else ()
    parts = sorted([chunk, *chunks.select(around).values()], key=lambda part: part.start)
    text, end = parts[0].text, parts[0].end
    for part in parts[1:]:
        # Chunks overlap, or leave out the white space between them.
        text += " " * (part.start - end) + part.text[max(0, end - part.start) :]
        end = max(end, part.end)
    return replace(chunk, text=text, start=parts[0].start, end=end)


def chunk_text(chunk: Chunk, context: ChunkContext) -> str:
    """The text of a chunk as the encoder and the generator read it: behind the document's title, or
    title and headings, each a line, but for those that the text begins with.

    Positions of evidence count from the chunk's own text. BM25 always reads the title.
    """
    text = chunk.text.lstrip()
    before: list[str] = []
    if context != "none" and chunk.title and not text.startswith(chunk.title):
        before.append(chunk.title)
    if context == "headings":
        # The headings at the top of a chunk are part of its text.
        lines = text.split("\n", 2 * len(chunk.headings))[: 2 * len(chunk.headings)]
        known = {chunk.title, *(line.lstrip("# ").rstrip() for line in lines)}
        before += [heading for heading in chunk.headings if heading not in known]
    return "\n".join([*before, chunk.text])
