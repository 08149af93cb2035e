from __future__ import annotations

import ast
from pathlib import Path

import pytest
import thermometers

ROOT = Path(__file__).parent.parent


def package(**modules: str) -> dict[Path, ast.Module]:
    """A package of the given sources; `__` in a name is a folder."""
    folder = ROOT / "rag_ft"
    return {folder / f"{n.replace('__', '/')}.py": ast.parse(s) for n, s in modules.items()}


def test_a_circle_through_three_modules_is_one_circle() -> None:
    trees = package(
        a="from rag_ft import b", b="import rag_ft.c", c="from .a import x", d="import rag_ft.a"
    )
    assert thermometers.circles(trees) == [["rag_ft.a", "rag_ft.b", "rag_ft.c"]]


def test_private_functions_that_are_named_once_are_counted() -> None:
    trees = package(a="def _once(): ...\ndef _twice(): ...\n_once()\n_twice()\n", b="a._twice()\n")
    assert thermometers.private_used_once(trees) == ["_once"]


def test_a_configuration_is_found_in_unions_and_quoted_annotations() -> None:
    source = "def f(c: Config | None): ...\ndef g(*, c: 'Config'): ...\ndef h(c: LLMConfig): ...\n"
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert [thermometers.takes(function, {"Config"}) for function in functions] == [
        True,
        True,
        False,
    ]


def test_advanced_settings_are_not_basic() -> None:
    source = (
        "class Run:\n    seed: int = 0\n    dir: str = ''\n    advanced: RunAdvanced\n"
        "class RunAdvanced:\n    x: int = 0\n"
        "class Config:\n    name: str = 'run'\n    run: Run = Run()\n"
    )
    assert thermometers.num_basic_settings(package(config=source)) == 2


@pytest.mark.slow
def test_all_measures_are_printed_and_only_a_check_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert thermometers.main([]) == 0
    shown = capsys.readouterr().out
    names = [name for name, *_ in thermometers.measures()]
    assert all(name in shown for name in names) and len(names) == len(set(names)) >= 14
    assert thermometers.main(["--check"]) == int("missed" in shown)
