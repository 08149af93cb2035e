"""One question to a run: the answer, and the chunks it comes from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.rag import RagPipeline
from rag_ft.terminal import say
from rag_ft.text import excerpt


def ask(
    config: Config, question: str, tuned: bool = True, filters: Mapping[str, Any] | None = None
) -> str:
    """The answer and the chunks shown, numbered, as text for a terminal; a star marks cited ones.

    `tuned` answers with the components that the run tuned and serves, if there are any. `filters`
    are those of RagPipeline.retrieve.

    Raises:
        DataError: the question is empty, the run has no index, the filters are malformed, or the
            model gave no answer.
        ConfigError: the index or a model does not fit the configuration.
    """
    with RagPipeline.from_config(config, tuned) as rag:
        said = rag.answer(question, filters)
    lines = [said.answer, ""]
    for number, found in enumerate(said.chunks, 1):
        star = "*" if found.chunk.id in said.citations else " "
        place = f" ({found.chunk.place})" if found.chunk.place else ""
        lines.append(f"{star}[{number}] {found.chunk.id}{place}  {excerpt(found.chunk.text)}")
    if filters and not said.chunks:
        lines.append("(the filters allow no chunk)")
    return "\n".join(lines)


def read_filters(words: Sequence[str]) -> dict[str, list[str]]:
    """{field: values} of the `field=value[,value...]` of a command line. A field that is named
    twice has the values of both.

    Raises:
        DataError: a word is not of this form.
    """
    filters: dict[str, list[str]] = {}
    for word in words:
        field, _, value = word.partition("=")
        values = [part.strip() for part in value.split(",")]
        if not field.strip() or not all(values):
            raise DataError(f"--filter {word!r}: write field=value, field=a,b or 'field=begins*'")
        filters.setdefault(field.strip(), []).extend(values)
    return filters


def ask_command(args: argparse.Namespace) -> None:
    """`rag-ft ask`."""
    filters = read_filters(args.filter)
    config = checked_config_of(
        args, "ingest", "index", "train_retriever", "train_reranker", "train_generator"
    )
    say(ask(config, args.question, tuned=not args.base, filters=filters))
