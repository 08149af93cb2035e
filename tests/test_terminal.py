"""What is shown on a terminal acts on none, and tells no secret."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml

from rag_ft.cli import main
from rag_ft.config_loader import flat, make_config
from rag_ft.pipeline import write_start
from rag_ft.run_dir import RunDir
from rag_ft.stage_table import find_stage
from rag_ft.terminal import SafeFormatter, note, say
from rag_ft.text import for_terminal, redact

KEY = "sk-a1b2/c3d4"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    return KEY


def test_controls_are_written_out_and_the_rest_stays(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "a\x1b[31mred\r\x9bK\u202eevil\u2066\u200b\x07 café 日本\tx\ny"
    shown = for_terminal(odd)
    assert shown == r"a\x1b[31mred\r\x9bK\u202eevil\u2066\u200b\x07 café 日本" + "\tx\ny"
    say(odd)
    note(odd)
    assert capsys.readouterr() == (shown + "\n", shown + "\n")
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s came", ("\x1b[2J",), None)
    assert SafeFormatter("%(levelname)s %(message)s").format(record) == r"WARNING \x1b[2J came"


def test_an_error_on_the_command_line_is_one_safe_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str
) -> None:
    name = f"\x1b]0;title\x07\u202e{key.replace('/', '-')}.yaml"
    assert main(["status", str(tmp_path / name)]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "\x1b" not in text and "\u202e" not in text


def test_keys_and_credentials_are_left_out(key: str) -> None:
    for told in (
        f"bad key {key} given",
        "https://host/?x=sk-a1b2%2Fc3d4",
        "http://ada:s3cret@host:8000/v1",
        "Authorization: Bearer abcdef123456",
        "https://host/v1?api_key=abcdef&x=1",
    ):
        clean = redact(told)
        assert "***" in clean and not any(
            secret in clean for secret in (key, "sk-a1b2", "s3cret", "abcdef")
        )
    assert redact("http://host/v1 and ada@example.org") == "http://host/v1 and ada@example.org"


def test_credentials_of_an_address_reach_no_file(tmp_path: Path, key: str) -> None:
    url = "http://ada:s3cret@localhost:1/v1"
    config = make_config({"run": {"dir": tmp_path}, "llm": {"base_url": url}})
    assert "s3cret" not in json.dumps(flat(config))
    plan = {"fingerprint": "x", "config": flat(config)}
    write_start(config.model_dump(mode="json"), RunDir(tmp_path), find_stage("generate"), plan)
    for file in tmp_path.iterdir():
        assert "s3cret" not in file.read_text()
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["llm"]["base_url"] == "http://***@localhost:1/v1"


def test_no_command_prints_by_itself() -> None:
    """Every print goes through this module."""
    root = Path(__file__).parent.parent / "rag_ft"
    files = [root / "cli.py", *sorted((root / "commands").glob("*.py"))]
    assert [path.name for path in files if " print(" in path.read_text()] == []
