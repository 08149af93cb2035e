"""One question to a run: the answer, and the chunks it comes from."""

from __future__ import annotations

import argparse

from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.rag import RagPipeline


def ask(config: Config, question: str, tuned: bool = True) -> str:
    """The answer and the chunks shown, numbered, as text for a terminal; a star marks cited ones.

    `tuned` answers with the components that the run tuned and serves, if there are any.

    Raises:
        DataError: the question is empty, the run has no index, or the model gave no answer.
        ConfigError: the index or a model does not fit the configuration.
    """
    with RagPipeline.from_config(config, tuned) as rag:
        said = rag.answer(question)
    lines = [said.answer, ""]
    for number, found in enumerate(said.chunks, 1):
        star = "*" if found.chunk.id in said.citations else " "
        excerpt = " ".join(found.chunk.text.split())
        if len(excerpt) > 160:
            excerpt = excerpt[:157] + "..."
        place = f" ({found.chunk.place})" if found.chunk.place else ""
        lines.append(f"{star}[{number}] {found.chunk.id}{place}  {excerpt}")
    return "\n".join(lines)


def ask_command(args: argparse.Namespace) -> None:
    """`rag-ft ask`."""
    config = checked_config_of(args, "ingest", "index", "train_retriever", "train_generator")
    print(ask(config, args.question, tuned=not args.base))
