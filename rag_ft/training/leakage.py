"""Nothing of a test document may be trained on: the check that fails loudly before every training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rag_ft.errors import DataError
from rag_ft.schema import Chunk, Document, QAPair, Reject
from rag_ft.text import normalise_question

NUM_NAMED = 3


def without_test_questions(
    training: Iterable[QAPair], heldout: Iterable[QAPair]
) -> tuple[list[QAPair], list[Reject]]:
    """Leaves out training pairs that ask, word for word, what a held-out pair asks (people ask "What is the
    conclusion?" of many documents). Returns the kept pairs in order, and a Reject for each other."""
    asked = {normalise_question(pair.question): pair.id for pair in heldout}
    kept, rejects = [], []
    for pair in training:
        twin = asked.get(normalise_question(pair.question))
        if twin is None:
            kept.append(pair)
        else:
            rejects.append(
                Reject(pair.id, "asked of a test document too", f"{twin}: {pair.question}")
            )
    return kept, rejects


def check_no_leakage(
    training: Iterable[QAPair], heldout: Iterable[QAPair], documents: Iterable[Document | Chunk]
) -> dict[str, int]:
    """Makes sure that no pair to be trained on belongs to a test document, or asks a held-out question.

    Args:
        training: pairs about to be trained on (or that were).
        heldout: pairs evaluated on.
        documents: documents or their chunks; where a document is seen with split "test", it is a test document.

    Returns:
        What was compared: {"training_pairs", "heldout_pairs", "test_documents"}.

    Raises:
        DataError: names the first leaking pairs and why each leaks.
    """
    test_ids = {
        d.document_id if isinstance(d, Chunk) else d.id for d in documents if d.split == "test"
    }
    heldout = list(heldout)
    asked = {normalise_question(pair.question): pair.id for pair in heldout}
    pairs = list(training)
    leaks = [f"{pair.id} ({why})" for pair in pairs if (why := _leak(pair, test_ids, asked))]
    if leaks:
        raise DataError(
            f"{len(leaks)} of {len(pairs)} training pairs leak from the test documents: {_first(leaks)}: "
            "run ingest and generate again with --force, so that splits and pairs agree"
        )
    return {
        "training_pairs": len(pairs),
        "heldout_pairs": len(heldout),
        "test_documents": len(test_ids),
    }


def check_chunks_allowed(chunk_ids: Iterable[str], chunks: Iterable[Chunk], what: str) -> None:
    """Makes sure that no chunk of a test document is among the chunks a model is about to be trained on.

    Args:
        chunk_ids: ids of positives, negatives or scored chunks.
        chunks: the chunks of the corpus.
        what: how the error calls them, such as "negatives".

    Raises:
        DataError: names the first ones.
    """
    test = {chunk.id for chunk in chunks if chunk.split == "test"}
    leaks = sorted(test.intersection(chunk_ids))
    if leaks:
        raise DataError(
            f"{len(leaks)} {what} are chunks of test documents: {_first(leaks)}: "
            "run ingest and generate again with --force, so that splits and pairs agree"
        )


def _leak(pair: QAPair, test_ids: set[str], asked: dict[str, str]) -> str | None:
    if pair.split == "test":
        return "its split is test"
    if pair.document_id in test_ids:
        return f"{pair.document_id} is a test document"
    if pair.chunk_id is not None and pair.chunk_id.rpartition("#")[0] in test_ids:
        return f"{pair.chunk_id} is a chunk of a test document"
    twin = asked.get(normalise_question(pair.question))
    return f"asks the same as held-out {twin}: {pair.question}" if twin is not None else None


def _first(items: Sequence[str]) -> str:
    more = f" and {len(items) - NUM_NAMED} more" if len(items) > NUM_NAMED else ""
    return ", ".join(items[:NUM_NAMED]) + more
