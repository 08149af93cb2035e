"""One question to the served system: an answer, and the chunks it comes from."""

from __future__ import annotations

import argparse

from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.rag import RagPipeline
from rag_ft.schema import Chunk


def ask(config: Config, question: str, tuned: bool = True) -> str:
    """The answer and its numbered chunks as text for a terminal; cited chunks carry a star.

    `tuned` uses what the run tuned and serves, where it does.
    Raises DataError for an empty question, or where the model gave no answer (too long a prompt, a lost server).
    """
    with RagPipeline.from_config(config, tuned) as rag:
        said = rag.answer(question)
    sources = [
        _source_line(n, found.chunk, found.chunk.id in said.citations)
        for n, found in enumerate(said.chunks, 1)
    ]
    return "\n".join([said.answer, "", *sources])


def _source_line(number: int, chunk: Chunk, cited: bool) -> str:
    excerpt = " ".join(chunk.text.split())
    shown = excerpt if len(excerpt) <= 160 else excerpt[:157] + "..."
    return f"{'*' if cited else ' '}[{number}] {chunk.id}  {shown}"


def ask_command(args: argparse.Namespace) -> None:
    """`rag-ft ask`."""
    config = checked_config_of(args, "ingest", "index", "train_retriever", "train_generator")
    print(ask(config, args.question, tuned=not args.base))
