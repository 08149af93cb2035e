"""Writes the reference pages of docs/ from the code: settings, metrics, run folder and commands.

python scripts/make_docs.py            # writes the pages
python scripts/make_docs.py --check    # writes nothing; exit code 1 where a page is out of date
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # also where the package is not installed

NOTE = "<!-- Written by scripts/make_docs.py from the code. Do not edit: change the code. -->\n"
BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 where `--check` finds a page that differs from the code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args(argv).check
    stale = []
    for name, text in pages().items():
        path = ROOT / "docs" / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    verb = "is out of date: run python scripts/make_docs.py" if check else "written"
    for name in stale:
        print(f"docs/{name} {verb}")
    return int(check and bool(stale))


def pages() -> dict[str, str]:
    """{file name in docs/: its text}."""
    return {
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "run-folder.md": run_folder_page(),
        "cli.md": cli_page(),
    }


def settings_page() -> str:
    """One table a section, its advanced settings in a second one."""
    from rag_ft.config import Config, Source

    lines = [
        NOTE,
        "# Settings\n",
        "A YAML file holds only what differs from the defaults. On the command line, any",
        "setting is `section.key=value`. The order is: default, then file, then command line. An "
        "unknown name",
        "is an error that names the nearest setting.\n",
        "A **basic** setting is one that many users change. An **advanced** setting stands under",
        "`advanced` of its section and has a default that rarely needs a change.\n",
    ]
    for section, field in Config.model_fields.items():
        if not _is_model(field.annotation):
            continue  # the name of the run, which is the name of the file
        lines.append(f"## {section}\n")
        rows = list(_settings(section, field.annotation))
        advanced = [row for row in rows if ".advanced." in row[0]]
        lines += _table([row for row in rows if row not in advanced])
        if advanced:
            lines += [f"### {section}: advanced\n", *_table(advanced)]
    lines += ["## Entries of ingest.sources\n", "An entry is a path, or these keys:\n"]
    lines += _table(list(_settings("", Source)))
    return "\n".join(lines).rstrip() + "\n"


def setting_names() -> list[str]:
    """Every `section.key` (and `section.advanced.key`) that a configuration may hold."""
    from rag_ft.config import Config

    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    rows = [
        row
        for name, model in sections.items()
        if _is_model(model)
        for row in _settings(name, model)
    ]
    return [row[0].strip("`") for row in rows]


def _settings(prefix: str, model: Any) -> Iterator[tuple[str, str, str, str]]:
    """(name, values, default, description) of every field, those of nested sections included.

    A field that only passes on the value of another setting is none that a file may hold.
    """
    for key, field in model.model_fields.items():
        name = f"{prefix}.{key}" if prefix else key
        if _is_model(field.annotation):
            yield from _settings(name, field.annotation)
        elif not (field.description or "").startswith("The value of "):
            yield f"`{name}`", _values(field), _default(field), field.description or ""


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _values(field: FieldInfo) -> str:
    """The accepted values in words: the type, or the choices, with the range where there is one."""
    text = _type(field.annotation)
    bounds = [
        f"{sign} {getattr(limit, key):g}"
        for limit in field.metadata
        for key, sign in BOUNDS
        if getattr(limit, key, None) is not None
    ]
    return ", ".join([text, *bounds])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments)
    if origin in (list, tuple, set):
        return f"list of: {_type(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"{{{', '.join(_type(part) for part in arguments)}}}"
    if annotation is type(None):
        return "nothing"
    if origin is not None and hasattr(annotation, "__metadata__"):  # Annotated
        return _type(arguments[0])
    names = {
        "str": "text",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "Path": "path",
    }
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else '`""`'


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    if not rows:
        return []
    lines = ["| setting | values | default | effect |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [*lines, ""]


def metrics_page() -> str:
    """The metric table: name, label, unit, family, direction."""
    from rag_ft.evaluation.metric_table import METRICS

    lines = [
        NOTE,
        "# Metrics\n",
        "Values in `scores.jsonl` and `metrics.json` are shares from 0 to 1 unless another unit is",
        "given here; the report shows them in percent. [The report](report.md) says how to read\n"
        "them.\n",
    ]
    lines += ["| name | label | family | unit | higher is better |", "|---|---|---|---|---|"]
    for metric in METRICS.values():
        better = "yes" if metric.higher_is_better else "no"
        cells = (f"`{metric.name}`", metric.label, metric.family, metric.unit, better)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def run_folder_page() -> str:
    """Every file of a run, with the docstring of RunDir that describes it."""
    from rag_ft.run_dir import RunDir

    root = Path("run")
    run_dir = RunDir(root)
    lines = [
        NOTE,
        "# The run folder\n",
        "A run is a folder of plain files in public formats. It is the only interface between the",
        "stages. The folder is `run.dir`, by default `runs/<name of the configuration file>`.",
        "Each `.jsonl` file holds one JSON object a line. Scripts may rely on these names.\n",
        "| file or folder | written by, and what it holds |",
        "|---|---|",
    ]
    for attribute, member in vars(RunDir).items():
        if attribute.startswith("_") or not inspect.getdoc(member):
            continue
        if isinstance(member, property):
            value = getattr(run_dir, attribute)
        elif inspect.isfunction(member):
            signature = inspect.signature(member)
            parameters = [p for p in signature.parameters if p != "self"]
            if not parameters or signature.return_annotation not in (Path, "Path"):
                continue
            value = member(run_dir, *(f"<{parameter}>" for parameter in parameters))
        else:
            continue
        if isinstance(value, Path) and value.is_relative_to(root) and value != root:
            text = " ".join((inspect.getdoc(member) or "").split()).replace("|", "\\|")
            lines.append(f"| `{value.relative_to(root)}` | {text} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Every command with its arguments."""
    lines = [
        NOTE,
        "# Commands\n",
        "`rag-ft COMMAND CONFIG [section.key=value ...]`. Overrides may stand after flags.",
        "Exit codes: 0 done; 1 an error that you can fix, in one line; 2 wrong usage;",
        "3 the quality is below what was required; 130 interrupted.\n",
    ]
    for name, parser in commands().items():
        arguments = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
        lines += [
            f"## {name}\n",
            f"{_sentence(parser.description or '')}\n",
            "```text",
            " ".join(["rag-ft", name, *map(_usage, arguments)]),
            "```\n",
            "| argument | meaning |",
            "|---|---|",
        ]
        for action in arguments:
            meaning = (action.help or "").replace("%%", "%").replace("|", "\\|")
            lines.append(f"| `{_name(action)}` | {meaning} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _name(action: argparse.Action) -> str:
    """An argument with its value, as a user writes it."""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    flag = action.option_strings[-1]
    value = action.metavar or flag.strip("-").upper()
    if action.choices and not action.metavar:
        value = f"{{{','.join(map(str, action.choices))}}}"
    forms = {"0": flag, "+": f"{flag} {value} ...", "?": f"{flag} [{value}]"}
    return forms.get(str(action.nargs), f"{flag} {value}")


def _usage(action: argparse.Action) -> str:
    """The argument in the line of usage: in brackets where it may be left out."""
    name = _name(action)
    if action.option_strings:
        return name if action.required else f"[{name}]"
    forms = {"*": f"[{name} ...]", "+": f"{name} ...", "?": f"[{name}]"}
    return forms.get(str(action.nargs), name)


def commands() -> dict[str, argparse.ArgumentParser]:
    """{command: its parser}, in the order of `rag-ft --help`."""
    from rag_ft.cli import make_parser

    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise SystemExit("rag_ft/cli.py: no commands found")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." * (not text.endswith(".")) if text else ""


if __name__ == "__main__":
    sys.exit(main())
