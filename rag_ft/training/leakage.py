"""Nothing of a test document may be trained on: the check before every training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rag_ft.errors import DataError
from rag_ft.schema import Chunk, Document, QAPair, Reject
from rag_ft.text import STOP_WORDS, all_letters, skeleton, stems, without_contractions

FEW_WORDS = 4  # of a question in which every word counts
_ASKING = ("how", "what", "when", "where", "which", "who", "whom", "whose", "why", "not", "no")
FUNCTION_WORDS = frozenset(STOP_WORDS.split()).difference(_ASKING)
NUM_NAMED = 3  # leaks that an error names
TEST_QUESTION = "asked of a test document too"  # the reason of a Reject


def without_test_questions(
    training: Iterable[QAPair], heldout: Iterable[QAPair]
) -> tuple[list[QAPair], list[Reject]]:
    """Leaves out training pairs whose question is asked of a test document too: in the same words
    as a reader sees them, in any order, in other forms of the words, with other function words, or
    with one word more or less.

    People ask "What is the conclusion?" of many documents.

    Returns:
        The kept pairs in order, and a Reject for each other pair.
    """
    asked: dict[object, str] = {}
    shorter: dict[object, str] = {}
    for pair in heldout:
        words, *others = question_forms(pair.question)
        for form in (words, *others):
            if form:
                asked.setdefault(form, pair.id)
        for fewer in without_a_word(words):
            shorter.setdefault(fewer, pair.id)
    kept, rejects = [], []
    for pair in training:
        words, *others = question_forms(pair.question)
        forms = (words, *others, *without_a_word(words))
        twin = next((asked[form] for form in forms if form in asked), None) or shorter.get(words)
        if twin is None:
            kept.append(pair)
        else:
            rejects.append(Reject(pair.id, TEST_QUESTION, f"{twin}: {pair.question}"))
    return kept, rejects


def question_forms(question: str) -> tuple[frozenset[str], str, frozenset[str] | None]:
    """Forms of a question as a reader sees it: its words, its letters in a row, and the stems of
    its question words and content words (None where they are few). Two questions are the same
    where one form is."""
    plain = skeleton(without_contractions(question))
    words = frozenset(plain.split())
    told = frozenset(stems(" ".join(words.difference(FUNCTION_WORDS))))
    return words, all_letters(plain), told if len(told) >= FEW_WORDS else None


def without_a_word(words: frozenset[str]) -> list[frozenset[str]]:
    """The words without each one of them; none where they are few, and every word counts."""
    return [words - {word} for word in sorted(words)] if len(words) > FEW_WORDS else []


def check_no_leakage(
    training: Iterable[QAPair], heldout: Iterable[QAPair], documents: Iterable[Document | Chunk]
) -> dict[str, int]:
    """Makes sure that no training pair belongs to a test document or asks a held-out question.

    Args:
        training: pairs that a model is about to be trained on, or was trained on.
        heldout: pairs that a model is evaluated on.
        documents: documents or their chunks; those with split "test" name the test documents.

    Returns:
        What was compared: {"training_pairs", "heldout_pairs", "test_documents"}.

    Raises:
        DataError: names the first leaking pairs and why each leaks.
    """
    test_ids = {
        d.document_id if isinstance(d, Chunk) else d.id for d in documents if d.split == "test"
    }
    heldout, pairs = list(heldout), list(training)
    asked = {form: pair.id for pair in heldout for form in question_forms(pair.question) if form}

    # A pair can leak by its split, its document, its chunk or its question.
    leaks = []
    for pair in pairs:
        forms = question_forms(pair.question)
        twin = next((asked[form] for form in forms if form in asked), None)
        if pair.split == "test":
            leaks.append(f"{pair.id} (its split is test)")
        elif pair.document_id in test_ids:
            leaks.append(f"{pair.id} ({pair.document_id} is a test document)")
        elif pair.chunk_id is not None and pair.chunk_id.rpartition("#")[0] in test_ids:
            leaks.append(f"{pair.id} ({pair.chunk_id} is a chunk of a test document)")
        elif twin is not None:
            leaks.append(f"{pair.id} (asks the same as held-out {twin}: {pair.question})")

    if leaks:
        raise DataError(
            f"{len(leaks)} of {len(pairs)} training pairs leak from the test documents: "
            f"{_first_named(leaks)}: run ingest and generate again with --force, so that splits "
            "and pairs agree"
        )
    return {
        "training_pairs": len(pairs),
        "heldout_pairs": len(heldout),
        "test_documents": len(test_ids),
    }


def check_chunks_allowed(chunk_ids: Iterable[str], chunks: Iterable[Chunk], what: str) -> None:
    """Makes sure that a model is trained on no chunk of a test document.

    Args:
        chunk_ids: ids of positives, negatives or scored chunks.
        chunks: the chunks of the corpus, or those of its test documents.
        what: how the error calls the chunks, such as "negatives".

    Raises:
        DataError: names the first chunks of test documents.
    """
    test = {chunk.id for chunk in chunks if chunk.split == "test"}
    leaks = sorted(test.intersection(chunk_ids))
    if leaks:
        raise DataError(
            f"{len(leaks)} {what} are chunks of test documents: {_first_named(leaks)}: "
            "run ingest and generate again with --force, so that splits and pairs agree"
        )


def _first_named(items: Sequence[str]) -> str:
    more = f" and {len(items) - NUM_NAMED} more" if len(items) > NUM_NAMED else ""
    return ", ".join(items[:NUM_NAMED]) + more
