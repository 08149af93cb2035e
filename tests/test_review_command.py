"""`rag-ft review`: what is wrong with the command line is one line, before anything is opened."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from live_server import running
from review_run import make_review_run, review_state

from rag_ft.cli import main
from rag_ft.serving.review_app import make_review_app
from rag_ft.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_review_run(tmp_path / "run")


@pytest.fixture
def config_file(session: Session, tmp_path: Path) -> Path:
    path = tmp_path / "mills.yaml"
    path.write_text(json.dumps({"run": {"dir": str(session.run_dir.path)}}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--overlap", "2"], "between 0 and 1"),
        (["--sample", "0"], "at least 1"),
        (["--host", "0.0.0.0"], "set RAG_FT_API_KEY (or RAG_FT_API_KEY_FILE)\n"),
        (["run.dir=/nowhere/at/all"], "run `rag-ft generate CONFIG` first"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.delenv("RAG_FT_API_KEY", raising=False)
    assert main(["review", str(config_file), "--port", "0", *words]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"reviewer": "", "numbers": [0], "decision": "accept"}, 400),
        ({"reviewer": "ann", "numbers": [], "decision": "accept"}, 400),
        ({"reviewer": "ann", "numbers": [10_000], "decision": "accept"}, 404),
        ({"reviewer": "ann", "numbers": [0], "decision": "delete"}, 400),
        ({"reviewer": "ann", "numbers": [0], "decision": "edit"}, 400),
        (
            {
                "reviewer": "ann",
                "numbers": [0],
                "decision": "edit",
                "written": {
                    "number": 0,
                    "question": "Who?",
                    "answers": ["x"],
                    "evidence": {"chunk_id": "d0.md#0", "start": 5, "end": 10_000},
                },
            },
            400,
        ),
    ],
)
def test_a_malformed_decision_writes_nothing(
    session: Session, body: dict[str, object], status: int
) -> None:
    app = make_review_app(review_state(session), session.config.serve)
    with running(app) as url:
        assert httpx.post(f"{url}/review/decisions", json=body).status_code == status
        other = {"Origin": "https://evil.example"}
        good = {"reviewer": "eve", "numbers": [0], "decision": "accept"}
        answer = httpx.post(f"{url}/review/decisions", json=good, headers=other)
        assert answer.status_code == 403, "pages of another site decide nothing"
    assert not session.run_dir.reviews.exists()


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1.5", "²", "x"])
def test_a_number_of_no_card_is_not_found(session: Session, number: str) -> None:
    app = make_review_app(review_state(session), session.config.serve)
    with running(app) as url:
        for place in ("cards", "neighbours"):
            assert httpx.get(f"{url}/review/{place}/{number}").status_code == 404
        assert httpx.get(f"{url}/review/cards/0").status_code == 200
