"""JSON files that hold one list, as Argilla and Label Studio read and write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_ft.errors import DataError
from rag_ft.review.exchange import Returned
from rag_ft.storage import json_text


def write_list(path: Path, items: Iterable[dict[str, Any]]) -> None:
    """Streams the items into a new file, one a line."""
    with path.open("x", encoding="utf-8", newline="\n") as out:
        out.write("[")
        for number, item in enumerate(items):
            out.write(("," if number else "") + "\n" + json_text(item))
        out.write("\n]\n")


def read_list(path: Path, wanted: str) -> list[Any]:
    """The list in a file.

    Raises:
        DataError: it holds none; the error says that it is not `wanted`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(found, list):
        raise DataError(f"{path} is not {wanted}")
    return found


def read_items(
    path: Path, wanted: str, name: str, parse: Callable[[str, Any], Iterable[Returned]]
) -> Iterator[Returned]:
    """What `parse` makes of each element of the list in a file; `parse` also gets the element's
    `name` and number. A damaged element becomes a row that cannot be taken.

    Raises:
        DataError: see read_list.
    """
    for number, element in enumerate(read_list(path, wanted), 1):
        item = f"{name} {number}"
        try:
            returned = list(parse(item, element))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            returned = [Returned(item, "", problem=f"damaged: {error}")]
        yield from returned


def text_of(value: object) -> str | None:
    """A value as text; None stays."""
    return None if value is None else str(value)
