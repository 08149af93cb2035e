"""env: what an issue report needs."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest

from rag_ft.cli import main
from rag_ft.commands import env


def rows(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_env_prints_what_an_issue_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    shown = rows(capsys.readouterr().out)
    assert shown["Python"] == platform.python_version()
    assert shown["torch"] == importlib.metadata.version("torch")
    assert shown["processor"].endswith("logical cores") and "GiB" in shown["memory"]
    assert {"rag-ft", "system", "bfloat16 on the processor", "OMP_NUM_THREADS"} <= set(shown)


def test_bfloat16_is_native_where_the_processor_has_the_instruction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for flags, expected in (({"avx2", "avx512_bf16"}, "native"), ({"avx2"}, "not native")):
        monkeypatch.setattr(env, "processor", lambda flags=flags: ("a processor", flags))
        assert rows(env.env())["bfloat16 on the processor"].startswith(expected)


def test_a_package_that_is_missing_is_named_as_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(env, "PACKAGES", ("no-such-package",))
    assert rows(env.env())["no-such-package"] == "not installed"
