"""Keys, passwords, numbers and addresses are found and masked in place; ordinary text is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rag_ft.config_loader import make_config
from rag_ft.documents.sensitive import find_sensitive, masked, masked_values
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_rows
from rag_ft.text import MASK

FOUND = [
    ("Password: hunter2", "secret", "hunter2"),
    ("The password is Harbour-77!", "secret", "Harbour-77"),
    ('api_key = "abc123xyz789"', "secret", "abc123xyz789"),
    ("Kennwort: Leuchtturm9", "secret", "Leuchtturm9"),
    ("postgres://admin:geheim99@db.example.org/x", "secret", "geheim99"),
    ("token ghp_abcdefghijklmnopqrstuvwxyz0123456789 is his", "secret", "ghp_abcdef"),
    ("AWS: AKIAIOSFODNN7EXAMPLE for the store", "secret", "AKIAIOSFODNN7EXAMPLE"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----", "secret", "MIIB"),
    ("Write to petra.lind@harbour.example.", "e-mail", "petra.lind@harbour.example"),
    ("Schreib an jörg@müller.example, bitte", "e-mail", "jörg@müller.example"),
    ("Card 4111 1111 1111 1111 is old", "card", "4111 1111 1111 1111"),
    ("Amex 378282246310005", "card", "378282246310005"),
    ("IBAN DE89 3704 0044 0532 0130 00 BIC X", "account", "DE89 3704 0044 0532 0130 00"),
    ("account number 12345678 at the bank", "account", "12345678"),
    ("Tel. 030 901820, daily", "phone", "030 901820"),
    ("Fax: (030) 90 18-21", "phone", "(030) 90 18-21"),
    ("or +44 20 7946 0958 now", "phone", "+44 20 7946 0958"),
    ("at (202) 456-1111 now", "phone", "(202) 456-1111"),
    ("电话：010-6552 9988", "phone", "010-6552 9988"),
]
ORDINARY = [
    "password: see the office",
    "The password is written on a note in the office.",
    "password = get_password()",
    '"secret": "${SECRET}"',
    "Pin: none. The spin: 4000rpm.",
    "opened 2024-11-29 10:15:00 and closed 1998-2004",
    "ISBN 978-3-16-148410-0, 10.1016/j.cell.2024.01.001",
    "12 345 678 tons, order 1234 5678 9012 3456",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b, version 10.12.13.14",
    "call 3 persons; phone 7 days a week",
    "the crane @ the quay, 5 @ 20 euro",
    "https://example.org/harbour/2024/the-long-way-to-the-lighthouse-10",
]


NAMES = "Passwd|passphrase|passwort|passcode|PWD|contraseña|mot de passe|senha|пароль|密码|密碼"
NAMES += "|パスワード|secret|credentials|my_token|PIN|API key|db-key|private_key|licensekey|dbpass"
NAMES += "|key_pass|APİ key"


@pytest.mark.parametrize("name", NAMES.split("|"))
def test_a_secret_is_known_by_each_of_its_names(name: str) -> None:
    assert [found.kind for found in find_sensitive(f"A key here.\n{name}: x9f8a7s6")] == ["secret"]


@pytest.mark.parametrize(("text", "kind", "value"), FOUND)
def test_what_is_sensitive_is_found_and_masked_in_place(text: str, kind: str, value: str) -> None:
    found = find_sensitive(text, ["US"])
    assert [place.kind for place in found] == [kind]
    assert value in text[found[0].start : found[0].end]
    hidden = masked(text, found)
    assert len(hidden) == len(text) and value not in hidden
    outside = [n for n in range(len(text)) if not found[0].start <= n < found[0].end]
    assert all(hidden[n] == text[n] for n in outside)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find_sensitive(text, ["US"]) == []


def test_a_national_number_is_known_by_its_country() -> None:
    assert find_sensitive("at 020 7946 0958 now") == []
    assert [place.kind for place in find_sensitive("at 020 7946 0958 now", ["GB"])] == ["phone"]


def test_values_of_metadata_are_masked() -> None:
    value = {"by": ["ola@harbour.example"], "year": 2024, "note": "quay"}
    assert masked_values(value, ()) == {"by": [MASK * 19], "year": 2024, "note": "quay"}


def ingested(tmp_path: Path, encoder: Path, mode: str) -> tuple[dict[str, Any], RunDir]:
    text = "# Office\n\nWrite to ola@harbour.example.\n\nTel. 030 901820 is the gate."
    source = tmp_path / "docs"
    source.mkdir(exist_ok=True)
    (source / "a.md").write_text(text)
    row = {"id": "j", "text": f"{text} More of it.", "metadata": {"by": "ola@harbour.example"}}
    (source / "b.jsonl").write_text(json.dumps(row) + "\n")
    values = {
        "run": {"dir": tmp_path / mode},
        "encoder": {"model": str(encoder)},
        "ingest": {"sources": [source], "sensitive": mode, "chunk_tokens": 24},
    }
    session = Session.of(make_config(values))
    return ingest.run(session), session.run_dir


def test_the_setting_decides_what_is_counted_and_masked(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    runs = {mode: ingested(tmp_path, tiny_encoder_dir, mode) for mode in ("off", "report", "mask")}
    kinds = {"e-mail": 2, "phone": 2}
    assert [counts["sensitive_by_kind"] for counts, _ in runs.values()] == [{}, kinds, kinds]
    assert runs["mask"][0]["num_sensitive_documents"] == 2
    texts = {mode: run_dir.documents.read_text() for mode, (_, run_dir) in runs.items()}
    assert texts["off"] == texts["report"] and "ola@harbour" in texts["off"]

    # Masked everywhere, and every chunk is still the part of its document that it names.
    run_dir = runs["mask"][1]
    documents = {row["id"]: row["text"] for row in read_rows(run_dir.documents)}
    whole = run_dir.documents.read_text() + run_dir.chunks.read_text()
    assert "ola@harbour" not in whole and "901820" not in whole and MASK in whole
    for row in read_rows(run_dir.chunks):
        assert documents[row["document_id"]][row["start"] : row["end"]] == row["text"]
