"""What people said of a version trains the next one, unless it is about what is tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from improve_run import Made, about, pairs_of, write_document
from improve_run import finished as finished
from improve_run import made as made

from rag_ft.chunk_store import ChunkStore
from rag_ft.cli import main
from rag_ft.review.correction import correction
from rag_ft.review.store import decided
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Review
from rag_ft.storage import append_lines, read_jsonl, read_rows
from rag_ft.training.retriever.dataset import select_pairs


def served(question: str, answer: str, document: str, name: str = "e1") -> dict[str, Any]:
    return {
        "id": name,
        "standalone": question,
        "answer": answer,
        "citations": [f"{document}#0"],
        "abstained": False,
    }


def thumb(run: Path, rating: int, exchange: dict[str, Any], time: str = "2026-01-01") -> None:
    line = {"id": exchange["id"], "time": time, "rating": rating, "answer": None}
    append_lines(RunDir(run).feedback, {**line, "exchange": exchange})


def corrected(run: Path, question: str, answer: str, document: str) -> Review:
    chunks = ChunkStore(RunDir(run).chunks)
    exchange = served(question, "nobody knows", document)
    review = correction(exchange, answer, exchange["citations"], None, chunks)
    append_lines(RunDir(run).reviews, review)
    return review


def asked(run: Path, number: int, split: str = "train") -> dict[str, QAPair]:
    """{question: pair} of a version."""
    return {p.question: p for p in pairs_of(run.with_name(f"x.v{number}"), split).values()}


def why_rejected(run: Path) -> dict[str, str]:
    """{question: reason} of the reviews that the second version cannot apply."""
    path = RunDir(run.with_name("x.v2")).rejects("reviews")
    rows = read_rows(path) if path.exists() else []
    return {row["detail"].removeprefix("serve: "): row["reason"] for row in rows}


def test_corrections_and_approved_answers_are_trained_on(made: Made) -> None:
    _, run, _ = made
    corrected(run, "Who is master of the Grey Heron?", "Ola Brand", "grey-heron.md")
    thumb(run, 1, served("Whose is the East Mill?", "Berit Moe", "east-mill.md"))
    disliked = served("Which colour has the Old Tower?", "dark green", "old-tower.md")
    for rating in (1, -1, -1):
        thumb(run, rating, disliked)
    assert main(["improve", str(run)]) == 0
    pairs = asked(run, 2)
    for question, answer in (
        ("Who is master of the Grey Heron?", "Ola Brand"),
        ("Whose is the East Mill?", "Berit Moe"),
    ):
        pair = pairs[question]
        assert pair.answers == (answer,) and pair.origin == "reviewed" and pair.evidence
        assert pair.evidence.text == answer
    assert "Which colour has the Old Tower?" not in pairs
    assert about(run, 2)["changes"]["reviews"] == 2
    # What was said once is not new again, and stays in the version after the next one.
    assert main(["improve", str(run)]) == 1
    thumb(
        run.with_name("x.v2"), 1, served("Who sails the Grey Heron?", "Ola Brand", "grey-heron.md")
    )
    assert main(["improve", str(run)]) == 0
    assert {"Who is master of the Grey Heron?", "Who sails the Grey Heron?"} <= asked(run, 3).keys()


def test_an_approved_answer_does_not_replace_an_accepted_one(made: Made) -> None:
    _, run, _ = made
    pair = next(p for p in pairs_of(run, "train").values() if p.answerable)
    thumb(run, 1, served(pair.question, "The", str(pair.document_id)))
    corrected(run, "Who is master of the Grey Heron?", "Ola Brand", "grey-heron.md")
    assert main(["improve", str(run)]) == 0
    assert asked(run, 2)[pair.question].answers == pair.answers


def test_nothing_about_a_test_document_is_trained_on(made: Made) -> None:
    _, run, _ = made
    corrected(run, "Who is master of the Long Bridge?", "Ola Brand", "long-bridge.md")
    thumb(run, 1, served("Whose is the North Quay?", "Berit Moe", "north-quay.md"))
    test = pairs_of(run, "test")
    known = next(p for p in test.values() if p.answerable)
    corrected(run, known.question, "nobody", str(known.document_id))
    assert main(["improve", str(run)]) == 0
    assert pairs_of(run.with_name("x.v2"), "test") == test
    why = why_rejected(run)
    waits = "a correction about a test document waits for a review"
    assert why["Who is master of the Long Bridge?"] == waits
    assert why["Whose is the North Quay?"] == waits


def test_a_correction_that_nearly_asks_a_test_question_is_not_trained_on(made: Made) -> None:
    _, run, _ = made
    known = next(p for p in pairs_of(run, "test").values() if p.answerable)
    nearly = f"{known.question.rstrip('?')}, please?"
    corrected(run, nearly, "Ola Brand", "grey-heron.md")
    assert main(["improve", str(run)]) == 0
    assert nearly in asked(run, 2)
    second = RunDir(run.with_name("x.v2"))
    pairs = select_pairs(second, ChunkStore(second.chunks), 0.9)
    assert nearly not in {pair.question for pair in (*pairs.train, *pairs.dev)}
    assert any(nearly in reject.detail for reject in pairs.rejects)


def test_a_test_question_that_a_reviewer_changed_or_rejected_does_not_decide(made: Made) -> None:
    place, run, _ = made
    test = [p for p in pairs_of(run, "test").values() if p.answerable]
    edit = decided(test[0], "edit", "ann", answers=("Ola", "Ola Brand"))
    append_lines(RunDir(run).reviews, edit, decided(test[1], "reject", "ann", reason="wrong"))
    assert main(["improve", str(run)]) == 0
    second = pairs_of(run.with_name("x.v2"), "test")
    assert second[test[0].id].answers == ("Ola", "Ola Brand") and test[1].id not in second
    assert about(run, 2)["decision"]["questions"] == len(pairs_of(run, "test")) - 2
    # The next version has each of them once.
    write_document(place / "train", "Far Light")
    assert main(["improve", str(run)]) == 0
    ids = [p.id for p in read_jsonl(RunDir(run.with_name("x.v3")).qa, QAPair)]
    assert len(ids) == len(set(ids))
    third = pairs_of(run.with_name("x.v3"), "test")
    assert third.keys() == second.keys() and third[test[0].id].answers == ("Ola", "Ola Brand")


def test_evidence_moves_with_its_document_and_is_missed_where_it_goes(made: Made) -> None:
    place, run, _ = made
    corrected(run, "Who is master of the Grey Heron?", "Ola Brand", "grey-heron.md")
    corrected(run, "Who is master of the East Mill?", "Ola Brand", "east-mill.md")
    path = place / "train" / "grey-heron.md"
    path.write_text(path.read_text().replace("\n\n", "\n\nIt was printed in spring. ", 1))
    write_document(place / "train", "East Mill", captain="Una Holm")
    assert main(["improve", str(run)]) == 0
    evidence = asked(run, 2)["Who is master of the Grey Heron?"].evidence
    assert evidence and evidence.text == "Ola Brand"
    assert "Who is master of the East Mill?" not in asked(run, 2)
    assert why_rejected(run)["Who is master of the East Mill?"] == "the evidence is gone"
    # The next version has each review once, and finds words again that have come back.
    write_document(place / "train", "East Mill")
    assert main(["improve", str(run)]) == 0
    assert about(run, 3)["changes"]["reviews"] == about(run, 2)["changes"]["reviews"] == 2
    evidence = asked(run, 3)["Who is master of the East Mill?"].evidence
    assert evidence and evidence.text == "Ola Brand"


def test_a_line_that_is_no_review_is_passed_over(made: Made) -> None:
    _, run, _ = made
    review = corrected(run, "Who is master of the Grey Heron?", "Ola Brand", "grey-heron.md")
    with RunDir(run).reviews.open("a") as out:
        out.write('{"pair_id": 3}\n[1, 2\n')
    append_lines(RunDir(run).reviews, replace(review, answers=("Ola",), time="2027-01-01"))
    assert main(["improve", str(run)]) == 0
    assert asked(run, 2)["Who is master of the Grey Heron?"].answers == ("Ola",)
