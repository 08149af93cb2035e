"""Human questions: what is imported, where it is placed, and what is rejected with which reason."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rag_ft.errors import DataError
from rag_ft.generation.import_questions import Imported, import_questions
from rag_ft.schema import Chunk, Document, QAPair

ABSTAIN = "I don't know."
HERON = (
    "Boats\n\nThe Grey Heron sails under captain Ola Brand. Berit Moe owns it. "
    "The Grey Heron costs 40 euros."
)
TOWER = "Towers\n\nThe Old Tower was built in 1901. Ola Brand drew its plans. It is 40 metres high."
DOCUMENTS = [
    Document("heron.md", "Boats", HERON, "heron.md", "train"),
    Document("tower.md", "Towers", TOWER, "tower.md", "test"),
]


def chunks_of(documents: list[Document], size: int = 60, step: int = 40) -> list[Chunk]:
    return [
        Chunk(
            f"{d.id}#{n}",
            d.id,
            d.title,
            d.text[at : at + size],
            at,
            min(at + size, len(d.text)),
            10,
            d.split,
        )
        for d in documents
        for n, at in enumerate(range(0, len(d.text), step))
    ]


def imported(tmp_path: Path, *rows: Any, documents: list[Document] = DOCUMENTS) -> Imported:
    file = tmp_path / "questions.jsonl"
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return import_questions([file], documents, chunks_of(documents), ABSTAIN)


def only(tmp_path: Path, **row: Any) -> QAPair:
    [pair] = imported(
        tmp_path,
        {"question": "Who is the captain of the Grey Heron?", "answers": ["Ola Brand"]} | row,
    ).pairs
    return pair


def reject(tmp_path: Path, row: Any) -> tuple[str, str]:
    found = imported(tmp_path, {"question": "Who?", "answers": ["Ola"], "id": "good"}, row)
    assert [pair.id for pair in found.pairs] == ["good"] and len(found.rejects) == 1
    assert found.rejects[0].item == "questions.jsonl:2"
    return found.rejects[0].reason, found.rejects[0].detail


def test_half_a_character_in_a_question_can_still_be_written(tmp_path: Path) -> None:
    pair = only(
        tmp_path,
        question="Who \ud83d steers?",
        answers=["Ola \ud83d"],
        evidence="\udc00",
        id="\ud83d",
    )
    assert (pair.id, pair.question, pair.answer) == ("\ufffd", "Who \ufffd steers?", "Ola \ufffd")


def test_a_given_position_is_the_evidence_and_the_split_is_the_documents(tmp_path: Path) -> None:
    start = HERON.index("Ola Brand")
    pair = only(
        tmp_path, id="q1", document_id="heron.md", answer_start_in_document=[start], split="test"
    )
    assert pair.evidence is not None and (pair.evidence.text, pair.evidence.start) == (
        "Ola Brand",
        start,
    )
    assert (pair.id, pair.split, pair.origin, pair.kind) == ("q1", "train", "imported", "factoid")


def test_the_chunk_is_one_that_holds_the_whole_evidence(tmp_path: Path) -> None:
    pair = only(tmp_path, document_id="heron.md")
    chunk = {c.id: c for c in chunks_of(DOCUMENTS)}[pair.chunk_id or ""]
    assert (
        pair.evidence is not None
        and chunk.start <= pair.evidence.start
        and chunk.end >= pair.evidence.end
    )


def test_a_missing_position_is_located_where_the_question_fits(tmp_path: Path) -> None:
    filler = "Nothing else is known here. " * 20
    text = f"The rope costs 40 euros. {filler} The Grey Heron has 40 seats."
    documents = [Document("d", "t", text, "d", "train")]
    row = {"question": "How many seats has the Grey Heron?", "answers": ["40"], "document_id": "d"}
    [pair] = imported(tmp_path, row, documents=documents).pairs
    assert pair.evidence is not None and pair.evidence.start == text.index("40 seats")


def test_an_evidence_quote_is_located_apart_from_spelling(tmp_path: Path) -> None:
    pair = only(
        tmp_path, document_id="heron.md", evidence="the grey heron  sails under captain ola brand."
    )
    assert (
        pair.evidence is not None
        and pair.evidence.text == "The Grey Heron sails under captain Ola Brand."
    )


def test_aliases_without_a_position_may_be_null(tmp_path: Path) -> None:
    start = HERON.index("Ola Brand")
    pair = only(
        tmp_path,
        answers=["O. Brand", "Ola Brand"],
        answer_start_in_document=[None, start],
        document_id="heron.md",
    )
    assert pair.answers == ("O. Brand", "Ola Brand")
    assert pair.evidence is not None and pair.evidence.start == start


def test_a_position_that_is_off_is_corrected_to_the_nearest_place(tmp_path: Path) -> None:
    pair = only(
        tmp_path, answers=["The Grey Heron"], document_id="heron.md", answer_start_in_document=[70]
    )
    assert pair.evidence is not None and pair.evidence.start == HERON.rindex("The Grey Heron")


def test_a_missing_document_is_found_by_what_only_it_holds(tmp_path: Path) -> None:
    pair = only(tmp_path, question="When was the Old Tower built?", answers=["1901"])
    assert (pair.document_id, pair.split) == ("tower.md", "test")


def test_what_several_documents_hold_stays_without_a_place_and_is_never_trained_on(
    tmp_path: Path,
) -> None:
    pair = only(tmp_path)
    assert (pair.document_id, pair.evidence, pair.chunk_id, pair.split) == (
        None,
        None,
        None,
        "test",
    )
    assert only(tmp_path, split="dev").split == "dev"


def test_an_answer_that_is_not_in_its_document_is_kept_without_evidence(tmp_path: Path) -> None:
    pair = only(tmp_path, answers=["nobody at all"], document_id="heron.md")
    assert (pair.document_id, pair.evidence, pair.chunk_id) == ("heron.md", None, None)


@pytest.mark.parametrize(
    "row", [{"answers": []}, {"kind": "unanswerable"}, {"kind": "unanswerable", "answers": None}]
)
def test_unanswerable_questions_abstain(tmp_path: Path, row: dict[str, Any]) -> None:
    pair = only(tmp_path, document_id="tower.md", **row)
    assert (pair.kind, pair.answers, pair.evidence, pair.split) == (
        "unanswerable",
        (ABSTAIN,),
        None,
        "test",
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{broken", "bad line"),
        (b"\xff\xfe{}", "bad line"),
        ([1, 2], "bad line"),
        ({"answers": ["x"]}, "missing field"),
        ({"question": "  ", "answers": ["x"]}, "missing field"),
        ({"question": "Who?"}, "missing field"),
        ({"question": "Who?", "answers": [""]}, "wrong field"),
        ({"question": "Who?", "answers": [None]}, "wrong field"),
        ({"question": "Who?", "answers": ["x"], "kind": "riddle"}, "wrong field"),
        ({"question": "Who?", "answers": ["x"], "split": "validation"}, "wrong field"),
        (
            {"question": "Who?", "answers": ["x", "y"], "answer_start_in_document": [1]},
            "wrong field",
        ),
        ({"question": "Who?", "answers": ["x"], "answer_start_in_document": ["1"]}, "wrong field"),
        ({"question": "Who?", "answers": ["x"], "evidence": ["x"]}, "wrong field"),
        ({"question": "Who?", "answers": ["x"], "id": "good"}, "duplicate id"),
        ({"question": "Who?", "answers": ["x"], "document_id": "nowhere"}, "unknown document"),
    ],
)
def test_bad_rows_are_rejected_with_line_and_reason_and_harm_no_other(
    tmp_path: Path, row: Any, reason: str
) -> None:
    assert reject(tmp_path, row)[0] == reason


def test_a_file_that_is_not_there_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"generate\.questions"):
        import_questions([tmp_path / "none.jsonl"], DOCUMENTS, [], ABSTAIN)


@pytest.mark.parametrize("name", ["covidqa_dev", "nq_oracle_train", "xquad_zh_dev", "xquad_ar_dev"])
def test_real_questions_are_placed_as_their_annotators_placed_them(
    real_data: Path, name: str
) -> None:
    folder = real_data / name
    rows = [json.loads(line) for line in (folder / "documents.jsonl").open(encoding="utf-8")]
    documents = [Document(r["id"], r["title"], r["text"], name, "train") for r in rows]
    clock = time.monotonic()
    found = import_questions(
        [folder / "questions.jsonl"], documents, chunks_of(documents, 700, 600), ABSTAIN
    )
    assert time.monotonic() - clock < 10
    known = {
        r["id"]: r for r in map(json.loads, (folder / "questions.jsonl").open(encoding="utf-8"))
    }
    assert not found.rejects and len(found.pairs) == len(known)
    for pair in found.pairs:
        assert pair.evidence is not None and pair.chunk_id is not None
        assert pair.evidence.start in known[pair.id]["answer_start_in_document"]


@pytest.mark.parametrize(
    "answers, texts",
    [
        ("[40]", ("40",)),
        ("1901", ("1901",)),
        ('[2.50, "two"]', ("2.50", "two")),
        ("[true]", ("yes",)),
    ],
)
def test_a_number_or_truth_value_is_an_answer(
    tmp_path: Path, answers: str, texts: tuple[str, ...]
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(f'{{"question": "Is it so?", "answers": {answers}}}\n', encoding="utf-8")
    found = import_questions([file], DOCUMENTS, [], ABSTAIN)
    assert [pair.answers for pair in found.pairs] == [texts]
