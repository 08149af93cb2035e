"""Imports point one way: cli -> commands -> pipeline -> stages -> rooms -> ground. No circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import thermometers

ROOT = Path(__file__).parent.parent


PACKAGE = ROOT / "rag_ft"
GROUND = {
    "chunk_store",
    "config",
    "config_advanced",
    "config_engine",
    "config_section",
    "config_training",
    "config_loader",
    "errors",
    "line_index",
    "relevance",
    "run_dir",
    "run_files",
    "schema",
    "stage_table",
    "storage",
    "text",
    "version",
}
# What stands above the rooms, besides the folders stages/ and commands/.
ABOVE = {"__main__", "cli", "pipeline", "run_status", "stage_runs"}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """{module: modules it imports}, names without `rag_ft.`; imports in functions count."""
    trees = {p: ast.parse(p.read_text(encoding="utf-8")) for p in PACKAGE.rglob("*.py")}
    found = thermometers.import_graph(trees)
    return {short(module): {short(other) for other in others} for module, others in found.items()}


def short(module: str) -> str:
    return module.removeprefix("rag_ft.")


def room(module: str) -> str:
    """The folder of a module, or the module itself where it stands at the top of the package."""
    return module.split(".")[0]


def broken(graph: dict[str, set[str]], inside: set[str], forbidden: set[str]) -> list[str]:
    """Arrows from rooms of `inside` to rooms of `forbidden`, as text."""
    return sorted(
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if room(module) in inside and room(other) in forbidden and module != other
    )


def test_no_module_imports_itself_through_others() -> None:
    trees = {p: ast.parse(p.read_text(encoding="utf-8")) for p in PACKAGE.rglob("*.py")}
    assert thermometers.circles(trees) == []


def test_the_ground_imports_only_the_ground(graph: dict[str, set[str]]) -> None:
    rooms = {room(module) for module in graph} - GROUND
    assert broken(graph, GROUND, rooms) == []


def test_a_room_imports_no_stage_and_no_command(graph: dict[str, set[str]]) -> None:
    rooms = {room(module) for module in graph} - {"stages", "commands", "rag_ft"} - ABOVE
    assert {"documents", "retrieval", "llm"} <= rooms
    assert broken(graph, rooms, {"stages", "commands", *ABOVE}) == []


def test_a_stage_imports_no_stage_and_nothing_above_it(graph: dict[str, set[str]]) -> None:
    assert broken(graph, {"stages"}, {"stages", "commands", *ABOVE}) == []


def test_a_command_imports_no_command(graph: dict[str, set[str]]) -> None:
    # What all of them share: from parsed arguments to a configuration.
    arrows = broken(graph, {"commands"}, {"commands", "cli", "__main__"})
    assert [arrow for arrow in arrows if not arrow.endswith(" -> commands.arguments")] == []


def test_no_module_depends_on_the_public_api(graph: dict[str, set[str]]) -> None:
    importers = [module for module, others in graph.items() if "rag_ft" in others]
    assert [module for module in importers if module not in ABOVE] == []


def test_an_upward_arrow_is_named_and_others_are_not() -> None:
    graph = {"retrieval.encoder": {"stages.index", "schema"}, "stages.index": {"retrieval.encoder"}}
    assert broken(graph, {"retrieval"}, {"stages"}) == ["retrieval.encoder -> stages.index"]
    assert broken(graph, {"stages"}, {"stages", "commands"}) == []


def test_imports_in_functions_and_for_types_count() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rag_ft.b import X\n"
    a = ROOT / "rag_ft" / "a.py"
    b = ROOT / "rag_ft" / "b.py"
    inside = "def f():\n    from rag_ft import a\n"
    assert thermometers.circles({a: ast.parse(source), b: ast.parse(inside)}) == [
        ["rag_ft.a", "rag_ft.b"]
    ]
    assert thermometers.circles({a: ast.parse(source), b: ast.parse("")}) == []


def test_every_file_stands_in_the_tree_of_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.split("```text")[2].split("```")[0]
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    missing = [str(path.relative_to(PACKAGE)) for path in paths if path.name not in tree]
    assert missing == []


def test_every_file_in_the_tree_of_the_architecture_page_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.split("```text")[2].split("```")[0]
    names = {path.name for path in PACKAGE.rglob("*")}
    assert [name for name in re.findall(r"\b\w+\.py\b", tree) if name not in names] == []
