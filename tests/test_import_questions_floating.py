"""The index finds questions without a document exactly where a search in every document does."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rag_ft.generation.import_questions import (
    AcceptedAnswer,
    QuestionRow,
    place_in_documents,
    read_question_files,
)
from rag_ft.schema import Document

HANDBOOK = Path("data/handbook")


def by_search(rows: Sequence[QuestionRow], documents: Sequence[Document]) -> list[list[tuple]]:
    found: list[list[tuple]] = [[] for _ in rows]
    for document in documents:
        for row, places in zip(rows, found, strict=True):
            if (
                row.answerable
                and len(places) < 2
                and (evidence := row.find_wanted(document.text)) is not None
            ):
                places.append((document.id, document.split, evidence))
    return found


def floating(answers: Sequence[str], quote: str = "") -> QuestionRow:
    return QuestionRow(
        "q:1",
        "q",
        "Which one is it?",
        tuple(map(AcceptedAnswer, answers)),
        None,
        "factoid",
        quote,
        None,
    )


def document(number: int, text: str) -> Document:
    return Document(f"d{number}", "t", text, "s", "train")


def test_in_the_handbook(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    given = [json.loads(line) for line in (HANDBOOK / "questions.jsonl").open(encoding="utf-8")]
    kept = [
        {key: row[key] for key in ("id", "question", "answers", "kind", "evidence") if key in row}
        for row in given
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    rows, rejects = read_question_files([file])
    paths = sorted(HANDBOOK.rglob("*.md"))
    documents = [document(n, path.read_text(encoding="utf-8")) for n, path in enumerate(paths)]
    place_in_documents(rows, documents)
    assert not rejects and [row.found for row in rows] == by_search(rows, documents)
    assert sum(bool(row.found) for row in rows) > 50


@pytest.mark.parametrize("seed", range(5))
def test_in_texts_of_every_script_at_any_cut(seed: int) -> None:
    rng = random.Random(seed)
    words = [
        "Ola",
        "OLA",
        "Olaf",
        "Brand",
        "mill_store",
        "5",
        "15 km",
        "5km",
        "1,000",
        "café",
        "cafe\u0301",
        "Straße",
    ]
    words += [
        "法国巴黎",
        "北京市的西部",
        "กรุงเทพมหานคร",
        "서울특별시",
        "x" * 40,
        "(a)",
        "--",
        "A-12",
        "don't",
        "१२",
    ]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(60)]
    documents = [document(n, text) for n, text in enumerate(texts)]
    rows = []
    for _ in range(400):
        at, size = rng.randrange(40), rng.randrange(1, 14)
        cut = rng.choice(texts)[at : at + size]
        rows.append(
            floating([cut, "nowhere to be found"])
            if rng.random() < 0.7
            else floating(["x"], quote=cut)
        )
    place_in_documents(rows, documents)
    assert [row.found for row in rows] == by_search(rows, documents)
    assert sum(bool(row.found) for row in rows) > 200


def test_few_rows_are_searched_in_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    documents = [
        document(n, " ".join(f"w{rng.randrange(20_000)}" for _ in range(200))) for n in range(500)
    ]
    rows = [floating([" ".join(d.text.split()[7:10])]) for d in documents]
    searched = []
    find = QuestionRow.find_wanted
    monkeypatch.setattr(
        QuestionRow, "find_wanted", lambda row, text: searched.append(row) or find(row, text)
    )
    clock = time.monotonic()
    place_in_documents(rows, documents)
    assert all(row.found for row in rows)
    assert len(searched) < 20 * len(rows) < len(rows) * len(documents) / 20
    assert time.monotonic() - clock < 5
