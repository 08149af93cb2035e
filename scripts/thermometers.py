"""Measures of the code that tell whether a newcomer can follow it. Standard library only.

python scripts/thermometers.py            # prints the measures
python scripts/thermometers.py --check    # exit code 1 where a measure misses its goal
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(argv: list[str] | None = None) -> int:
    """Prints `measure value goal`; returns 1 where `--check` finds a missed goal."""
    parser = argparse.ArgumentParser(description="measures of the code")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a goal is missed")
    check = parser.parse_args(argv).check
    missed = 0
    for name, value, goal, met in measures():
        print(f"{name:46} {value:>10}  {goal:>12}{'' if met else '  missed'}")
        missed += not met
    return int(check and missed > 0)


def measures() -> list[tuple[str, str, str, bool]]:
    """(measure, value, goal, whether it is met) of rag_ft/ and tests/."""
    paths = sorted((ROOT / "rag_ft").rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lines = [line for text in texts.values() for line in text.splitlines()]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if _is_function(node)]

    lengths = sorted(_length(function) for function in functions)
    middle, p90 = median(lengths), lengths[int(len(lengths) * 0.9)]
    num_once = len(private_used_once(trees))
    public = [node for tree in trees.values() for node in public_definitions(tree)]
    documented = sum(ast.get_docstring(node) is not None for node in public) / len(public)
    comments = sum(line.lstrip().startswith("#") for line in lines) * 1000 / len(lines)
    whole_config = sum(takes(function, {"Config"}) for function in functions)
    config_or_session = sum(takes(function, {"Config", "Session"}) for function in functions)
    long_files = [path.name for path, text in texts.items() if len(text.splitlines()) > 350]
    tests = (ROOT / "tests").glob("test_*.py")
    long_tests = sum(len(path.read_text(encoding="utf-8").splitlines()) > 400 for path in tests)
    num_circles, num_long = len(circles(trees)), sum(len(line) > 100 for line in lines)
    once, basic = num_once / len(functions), num_basic_settings(trees)
    return [
        ("files / lines", f"{len(paths)}/{len(lines)}", "", True),
        ("import circles", f"{num_circles}", "0", num_circles == 0),
        ("functions", f"{len(functions)}", "", True),
        ("private functions named once", f"{once:.1%}", "<= 12 %", once <= 0.12),
        ("function length, median", f"{middle:g}", "8-14", 8 <= middle <= 14),
        ("function length, p90", f"{p90}", "", True),
        ("function length, longest", f"{lengths[-1]}", "<= 60", lengths[-1] <= 60),
        ("lines over 100 characters", f"{num_long}", "0", num_long == 0),
        ("whole-line comments in 1,000 lines", f"{comments:.1f}", ">= 20", comments >= 20),
        ("public docstrings", f"{documented:.1%}", ">= 95 %", documented >= 0.95),
        ("files over 350 lines", f"{len(long_files)}", "0", not long_files),
        ("functions that take a Config", f"{whole_config}", "<= 35", whole_config <= 35),
        (
            "functions that take a Config or a Session",
            f"{config_or_session}",
            "<= 60",
            config_or_session <= 60,
        ),
        ("test files over 400 lines", f"{long_tests}", "0", long_tests == 0),
        ("basic settings", f"{basic}", "<= 40", basic <= 40),
    ]


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, Function)


def _length(function: Function) -> int:
    """Lines from `def` to the end, docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def private_used_once(trees: dict[Path, ast.Module]) -> list[str]:
    """Private functions (no methods of a protocol) whose name stands once in the whole package."""
    used: Counter[str] = Counter()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                used[node.id] += 1
            elif isinstance(node, ast.Attribute):
                used[node.attr] += 1
    defined = Counter(
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, Function) and re.match(r"_(?!_)", node.name)
    )
    return [name for name, times in defined.items() for _ in range(times) if used[name] <= times]


def public_definitions(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions of a module, and the public methods of such classes."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from (m for m in node.body if isinstance(m, Function) and m.name[0] != "_")


def takes(function: Function, names: set[str]) -> bool:
    """Whether a parameter is annotated with one of these classes (also in a union or as text)."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    words = {
        w for a in arguments if a.annotation for w in re.findall(r"\w+", ast.unparse(a.annotation))
    }
    return bool(words & names)


def imports_of(path: Path, tree: ast.Module, modules: set[str]) -> set[str]:
    """Modules of the package that a module imports, wherever the import stands in it."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    package = parts[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` names a module, `from module import name` does not
            found |= {n if (n := f"{module}.{a.name}") in modules else module for a in node.names}
    return {name for name in found if name in modules} - {module_name(path)}


def module_name(path: Path) -> str:
    """rag_ft/documents/__init__.py -> rag_ft.documents."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(trees: dict[Path, ast.Module]) -> dict[str, set[str]]:
    """{module: modules of the package it imports}."""
    modules = {module_name(path) for path in trees}
    return {module_name(path): imports_of(path, tree, modules) for path, tree in trees.items()}


def circles(trees: dict[Path, ast.Module]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan 1972)."""
    graph, order, low = import_graph(trees), {}, {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def num_basic_settings(trees: dict[Path, ast.Module]) -> int:
    """Fields of the sections of Config, without `advanced` and its fields, and without those that
    no file sets: the sections' copies of run.dtype."""
    files = [tree for path, tree in trees.items() if path.name in ("config.py", "config_engine.py")]
    nodes = [node for tree in files for node in tree.body]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}

    def fields(name: str) -> list[tuple[str, str]]:
        nodes = [node for node in classes[name].body if isinstance(node, ast.AnnAssign)]
        nodes = [node for node in nodes if "exclude=True" not in ast.unparse(node)]
        return [(ast.unparse(node.target), ast.unparse(node.annotation)) for node in nodes]

    sections = [annotation for _, annotation in fields("Config") if annotation in classes]
    return sum(1 for section in sections for name, _ in fields(section) if name != "advanced")


if __name__ == "__main__":
    sys.exit(main())
