"""Pairs go to another tool and come back: nothing is lost, nothing is executed."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openpyxl
import pytest
from review_run import make_review_run

from rag_ft.cli import main
from rag_ft.commands.export import export
from rag_ft.integrations import label_studio, spreadsheets
from rag_ft.review.deck import open_deck
from rag_ft.review.exchange import review_row
from rag_ft.review.store import ReviewStore, decided
from rag_ft.schema import Chunk, Evidence, QAPair, Reject
from rag_ft.session import Session
from rag_ft.storage import read_jsonl, write_jsonl

FORMATS = ("label-studio", "argilla", "csv", "xlsx")
HOSTILE = '=cmd|"/C calc"!A0'


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A run with hostile texts, several answers, and characters outside the basic plane."""
    session = make_review_run(tmp_path / "run", 3)
    run_dir = session.run_dir
    chunks, pairs = (
        list(read_jsonl(run_dir.chunks, Chunk)),
        list(read_jsonl(run_dir.generated_pairs, QAPair)),
    )
    chunks[0] = replace(chunks[0], text="🌊🌊 " + chunks[0].text, end=chunks[0].end + 3)
    write_jsonl(run_dir.chunks, chunks)
    moved = []
    for pair in pairs:
        if pair.chunk_id == "d0.md#0" and pair.evidence:
            evidence = pair.evidence
            pair = replace(
                pair, evidence=Evidence(evidence.text, evidence.start + 3, evidence.end + 3)
            )
        moved.append(pair)
    moved[0] = replace(moved[0], answers=("Ola Brand", "Brand, Ola", "  O.\nB."))
    moved[1] = replace(moved[1], question=f"{HOSTILE} Who built part 1?", answers=("'=1+1", "-5"))
    write_jsonl(run_dir.generated_pairs, moved)
    return session


@pytest.fixture
def config_file(session: Session, tmp_path: Path) -> Path:
    path = tmp_path / "mills.yaml"
    path.write_text(json.dumps({"run": {"dir": str(session.run_dir.path)}}), encoding="utf-8")
    return path


def exported(session: Session, format: str, tmp_path: Path) -> Path:
    target = tmp_path / f"out.{format}"
    export(session.config, format, str(target))
    return target / "tasks.json" if format == "label-studio" else target


def taken(config_file: Path, format: str, path: Path, *words: str) -> int:
    return main(["import", str(config_file), "--format", format, "--from", str(path), *words])


def answered(path: Path, format: str, decide: Any) -> Path:
    """The file as it comes back after somebody decided: `decide(question) -> {decision, reason,
    question, answers, quote}`, in the documented schema of the tool."""
    if format == "label-studio":
        tasks = json.loads(path.read_text(encoding="utf-8"))
        for number, task in enumerate(tasks, 1):
            changed = decide(task["data"]["question"])
            result = [dict(part) for part in task["predictions"][0]["result"]]
            for part in result:
                name, kind = part["from_name"], part["type"]
                part |= {"id": f"r{number}{name}", "origin": "manual"}
                key = {"textarea": "text", "choices": "choices"}.get(kind)
                if key and name in changed:
                    value = changed[name]
                    part["value"] = {key: [value] if isinstance(value, str) else value}
            if "reason" in changed:
                value = {"choices": [changed["reason"]]}
                result.append(
                    {"from_name": "reason", "to_name": "chunk", "type": "choices", "value": value}
                )
            task |= {"id": number, "project": 1, "created_at": "2026-01-01T00:00:00Z"}
            task["annotations"] = [
                {
                    "id": 1000 + number,
                    "completed_by": {"id": 7, "email": "ann@example.org", "first_name": "Ann"},
                    "result": result,
                    "was_cancelled": False,
                    "ground_truth": False,
                    "created_at": "2026-01-01T00:00:00.000000Z",
                    "updated_at": "2026-01-02T00:00:00.000000Z",
                    "lead_time": 4.2,
                },
                {"id": 2000 + number, "completed_by": 8, "result": [], "was_cancelled": True},
            ]
        path.write_text(json.dumps(tasks), encoding="utf-8")
    elif format == "argilla":
        records = json.loads(path.read_text(encoding="utf-8"))
        for record in records:
            values = {name: s["value"] for name, s in record["suggestions"].items()}
            changed = decide(values["question"])
            if "answers" in changed:
                changed["answers"] = "\n".join(changed["answers"])
            record["responses"] = {
                name: [{"value": value, "user_id": "ann@example.org"}]
                for name, value in {**values, **changed}.items()
            }
            record["_server_id"] = "5f1d3c1e-0000-4000-8000-000000000000"
        path.write_text(json.dumps(records), encoding="utf-8")
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
        with path.open("w", encoding="utf-8", newline="") as out:
            # As a spreadsheet with another decimal sign writes it.
            table = csv.DictWriter(out, list(rows[0]), delimiter=";")
            table.writeheader()
            for row in rows:
                changed = decide(spreadsheets.plain(row["question"]))
                changed["answers"] = "\n".join(changed.get("answers") or []) or row["answers"]
                table.writerow(row | changed | {"reviewer": "ann@example.org"})
    else:
        book = openpyxl.load_workbook(path)
        sheet = book["review"]
        place = {cell.value: cell.column for cell in sheet[1]}
        for number in range(2, sheet.max_row + 1):
            changed = decide(sheet.cell(number, place["question"]).value)
            if "answers" in changed:
                changed["answers"] = "\n".join(changed["answers"])
            for name, value in {**changed, "reviewer": "ann@example.org"}.items():
                sheet.cell(number, place[name]).value = value
        book.save(path)
    return path


def decision_about(question: str) -> dict[str, Any]:
    if "part 2" in question:
        return {"decision": "reject", "reason": "wrong"}
    if "part 3" in question:
        return {"decision": "accept", "answers": ["Ines Falk", "Falk"]}
    if "painted" in question:
        return {"decision": "unsure"}
    return {"decision": "accept"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_round_trip_brings_every_decision_and_loses_no_text(
    session: Session, config_file: Path, tmp_path: Path, format: str
) -> None:
    path = answered(exported(session, format, tmp_path), format, decision_about)
    assert taken(config_file, format, path) == 0
    deck = open_deck(session.run_dir, session.chunks)
    cards = [card for card in deck.cards if card.where != "rejected"]
    assert len(cards) == 15
    for card in cards:
        [review] = deck.store.latest(card.key).values()
        row = review_row(deck, card)
        wanted = decision_about(card.pair.question)
        edits = "answers" in wanted
        assert review.decision == ("edit" if edits else wanted["decision"])
        assert review.reason == wanted.get("reason")
        assert review.question == card.pair.question
        own = card.pair.answers if card.pair.answerable else ()
        assert review.answers == tuple(wanted.get("answers", own))
        assert (review.reviewer, review.source) == ("ann@example.org", "import")
        assert (review.pair_id, review.document_id) == (card.pair.id, card.pair.document_id)
        if card.pair.evidence:
            [place] = review.evidence
            expected = (card.pair.evidence.start, card.pair.evidence.end)
            assert (place.start, place.end) == expected and row.quote == card.pair.evidence.text
    assert taken(config_file, format, path) == 0
    assert len(ReviewStore(session.run_dir.reviews).changed) == 15, "a second import adds nothing"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_nobody_touched_decides_nothing(
    session: Session, config_file: Path, tmp_path: Path, format: str
) -> None:
    assert taken(config_file, format, exported(session, format, tmp_path)) == 0
    assert not session.run_dir.reviews.exists()


@pytest.mark.parametrize("format", FORMATS)
def test_decisions_that_were_made_before_are_shown(
    session: Session, tmp_path: Path, format: str
) -> None:
    deck = open_deck(session.run_dir, session.chunks)
    card = next(card for card in deck.cards if card.pair.id == "p2-0")
    edit = decided(card.pair, "edit", "bob", question="Whose work is it?", answers=("Ola",))
    deck.store.append(edit)
    path = exported(session, format, tmp_path)
    if format == "xlsx":
        book = openpyxl.load_workbook(path)
        text = str([[cell.value for cell in row] for row in book["review"]])
    else:
        text = path.read_text(encoding="utf-8")
    assert "Whose work is it?" in text and "bob" in text


def test_formulas_are_defused(session: Session, tmp_path: Path) -> None:
    path = exported(session, "csv", tmp_path)
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    cells = [cell for row in rows for cell in row]
    assert any(HOSTILE in cell for cell in cells)
    assert not [cell for cell in cells if re.match(r"[=+\-@\t\r]", cell)]
    book = openpyxl.load_workbook(exported(session, "xlsx", tmp_path))
    kinds = {cell.data_type for row in book["review"] for cell in row if cell.value is not None}
    assert kinds == {"s"}, "every cell is a text, none a formula"


@pytest.mark.parametrize(
    "text", ["=1", "'=1", "''=1", "plain", "'quoted'", "-5", "", "a\n=b", "\t=1", "@x", "+1"]
)
def test_a_defused_text_can_be_read_back(text: str) -> None:
    assert spreadsheets.plain(spreadsheets.defused(text)) == text
    assert not spreadsheets.defused(text).startswith(tuple("=+-@\t\r"))


def test_label_studio_tasks_fit_their_labelling_configuration(
    session: Session, tmp_path: Path
) -> None:
    """Every result names a control and an object of config.xml, and spans are those that a browser
    counts."""
    path = exported(session, "label-studio", tmp_path)
    view = ElementTree.fromstring((path.parent / "config.xml").read_text(encoding="utf-8"))
    objects = {node.get("name"): node for node in view if node.get("value", "").startswith("$")}
    controls = {node.get("name"): node for node in view if node.get("toName")}
    kinds = {"Labels": "labels", "TextArea": "textarea", "Choices": "choices"}
    for task in json.loads(path.read_text(encoding="utf-8")):
        assert set(task) == {"data", "predictions"}
        for node in view:
            if (value := node.get("value", "")).startswith("$"):
                assert value[1:] in task["data"]
        [prediction] = task["predictions"]
        assert 0 < prediction["score"] <= 1 and prediction["model_version"] == "rag_ft"
        for part in prediction["result"]:
            control = controls[part["from_name"]]
            assert part["to_name"] == control.get("toName") and part["to_name"] in objects
            assert part["type"] == kinds[control.tag]
            chosen = part["value"].get("choices") or part["value"].get("labels") or []
            known = {node.get("value") for node in control}
            assert set(chosen) <= known or not known
            if part["type"] == "labels":
                units = task["data"]["chunk"].encode("utf-16-le")
                span = units[2 * part["value"]["start"] : 2 * part["value"]["end"]]
                assert span.decode("utf-16-le") == part["value"]["text"]


def test_argilla_records_have_the_keys_of_its_json(session: Session, tmp_path: Path) -> None:
    for record in json.loads(exported(session, "argilla", tmp_path).read_text(encoding="utf-8")):
        assert set(record) == {
            *("id", "fields", "metadata", "suggestions", "responses", "vectors"),
        }
        assert all(isinstance(v, str) and v for v in record["fields"].values())
        for suggestion in record["suggestions"].values():
            assert set(suggestion) == {"value", "score", "agent"}
        for span in record["suggestions"].get("evidence", {"value": []})["value"]:
            assert set(span) == {"start", "end", "label"}
            assert 0 <= span["start"] < span["end"] <= len(record["fields"]["chunk"])


def test_rows_that_cannot_be_taken_are_listed_and_the_others_count(
    session: Session, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(session, "csv", tmp_path)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    rows[0]["decision"], rows[1]["decision"] = "accept", "perhaps"
    rows[2] |= {"decision": "accept", "key": "unknown"}
    rows[3] |= {"decision": "reject", "reason": "I do not like it"}
    answerable = next(row for row in rows[4:] if row["answers"])
    answerable |= {"decision": "accept", "evidence": "this is nowhere"}
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    assert taken(config_file, "csv", path, "--reviewer", "cid") == 0
    assert "1 decisions imported" in capsys.readouterr().out
    rejects = list(read_jsonl(session.run_dir.rejects("import"), Reject))
    assert [reject.item for reject in rejects][:3] == [f"out.csv row {n}" for n in (3, 4, 5)]
    assert rejects[1].reason == "no such pair in this run"
    assert rejects[3].reason == "the evidence is not in the chunk"
    [review] = [
        r
        for key in ReviewStore(session.run_dir.reviews).keys
        for r in ReviewStore(session.run_dir.reviews).latest(key).values()
    ]
    assert review.reviewer == "cid"


def test_a_user_without_a_name_is_asked_for_one(
    session: Session,
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    path = exported(session, "csv", tmp_path)
    monkeypatch.setattr("getpass.getuser", nobody)
    assert taken(config_file, "csv", path) == 1
    assert "add --reviewer NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format", "element"),
    [
        ("argilla", "7"),
        ("argilla", '{"responses": [1]}'),
        ("argilla", '{"responses": {"evidence": [{"value": [{}]}]}}'),
        ("label-studio", '{"annotations": [{"result": 7}]}'),
        (
            "label-studio",
            '{"annotations": [{"result": [{"from_name": "evidence", "value": {"start": "x"}}]}]}',
        ),
    ],
)
def test_a_damaged_element_is_listed(
    session: Session, config_file: Path, tmp_path: Path, format: str, element: str
) -> None:
    path = tmp_path / "in.json"
    path.write_text(f"[{element}]", encoding="utf-8")
    assert taken(config_file, format, path) == 1
    [reject] = read_jsonl(session.run_dir.rejects("import"), Reject)
    assert reject.item.endswith(" 1") and reject.reason.startswith("damaged")


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("label-studio", "{", "as JSON"),
        ("label-studio", "{}", "list of tasks"),
        ("argilla", "3", "list of records"),
        ("csv", "a,b\n1,2\n", "no column `key`"),
        ("csv", "PK\0\1\2\3\0\0" * 9, "is not a CSV file"),
        ("xlsx", "no zip", "as XLSX"),
        ("yaml", "", "choose from label-studio, argilla, csv, xlsx"),
    ],
)
def test_a_file_of_another_kind_is_one_line(
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    format: str,
    content: str,
    message: str,
) -> None:
    path = tmp_path / "in"
    path.write_text(content, encoding="utf-8")
    assert taken(config_file, format, path) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert taken(config_file, format, tmp_path / "missing") == 1


def test_offsets_of_a_browser_become_code_points() -> None:
    text = "🌊🌊 tide"
    value = {"start": label_studio.utf16_length("🌊🌊 "), "end": label_studio.utf16_length(text)}
    assert value == {"start": 5, "end": 9}
    assert label_studio._code_points(value, text) == (3, 7)
