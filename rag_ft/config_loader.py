"""A YAML file and `section.key=value` words -> Config; the table of all settings.

The defaults come first, then the file, then the command line. Loading touches no device, no network
and no environment variable.
"""

from __future__ import annotations

import copy
import difflib
import json
import logging
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rag_ft.config import Config, Source
from rag_ft.errors import ConfigError
from rag_ft.text import redact, secrets_of_environment

log = logging.getLogger(__name__)

# What a text that is no YAML raises, also a number of 5,000 digits.
YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError, OverflowError)
MAX_VALUES = 100_000
MAX_DEPTH = 100
MAX_SHOWN = 200  # characters of a value in an error message
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, MAX_SHOWN, MAX_SHOWN, 40
DELETED = {
    "train_retriever.lsr_kl": "measured no better than KL(retriever || LM), which is used",
    "train_retriever.lsr_mix": "measured no better than LM-supervised retrieval alone",
}
# Old name -> new name, beside the settings that moved to the `advanced` part of their section.
RENAMED = {
    "llm.dtype": "run.dtype",
    "encoder.dtype": "run.dtype",
    "reranker.dtype": "run.dtype",
    "train_generator.folds": "train_generator.advanced.cross_validation_folds",
    "engine.advanced.num_workers": "engine.num_workers",
    "retrieval.with_title": "retrieval.context",
    "retrieval.advanced.with_title": "retrieval.context",
}


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings; `name` is what files and commands write."""

    name: str
    default: str
    type: str
    description: str
    is_advanced: bool


def load_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Reads a YAML file of differences from the defaults, then `section.key=value` overrides.

    A moved setting takes effect, and a line on stderr says its new name.

    Raises:
        ConfigError: all errors at once; an unknown key names the nearest one.
    """
    path = Path(path)
    try:
        content = load_yaml(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        seen = f"seen from {Path.cwd()}"
        raise ConfigError(f"no configuration file {path} ({seen}): correct the path") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}; name a YAML file") from error
    except YAML_ERRORS as error:
        reason = str(error).replace('in "<unicode string>", ', "at ") or type(error).__name__
        raise ConfigError(f"{path} is not YAML: {' '.join(reason.split())[:300]}") from error
    # The resolved configuration in a run folder also says how the run is called.
    name = path.stem
    if path.name == "config.yaml" and isinstance(content, dict):
        name = content.pop("name", name) if isinstance(content.get("name"), str) else name
    sections = content.items() if isinstance(content, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(keys, dict) for name, keys in sections):
        raise ConfigError(
            f"{path} must hold sections with keys, such as 'ingest:' and below it "
            "'  sources: [docs]'"
        )

    # The command line beats the file, under old names too.
    values, moved = move_settings(content)
    moves, said = moved_settings(), dict[str, str]()
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if key in moves:
            moved.append((key, moves[key]))
            if said.setdefault(moves[key], text) != text:
                raise ConfigError(_two_values(key, text, moves[key], said[moves[key]]))
        apply_override(values, f"{moves.get(key, key)}{equals}{text}")
    _say_moved(moved)
    if "name" in values:
        raise ConfigError(
            f"unknown section name: a run is named after its file, {path.name}; set run.dir for "
            "its folder"
        )
    return make_config({**values, "name": name})


# libyaml reads eight times as fast. Where PyYAML was built without it, its own parser does.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeys(_SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, for which a key that stands twice is an error: the last one would win
    and the other's settings vanish."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Called for every mapping of a document."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and lines.setdefault(name, line) != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{name}' stands on line {lines[name]} and again on line {line}"
                )
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises one of YAML_ERRORS where it is none, also where a key of a mapping stands twice, aliases
    stand for more than MAX_VALUES values, or values are nested more than MAX_DEPTH deep.
    """
    # The depth comes first: libyaml builds nested values in C, which has no recursion limit.
    depth = 0
    for event in yaml.parse(text, _UniqueKeys):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"its values are nested more than {MAX_DEPTH} deep")

    loader = _UniqueKeys(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_values(node, {}) > MAX_VALUES:
            raise ValueError(f"its aliases stand for more than {MAX_VALUES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _num_values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for: an alias counts as all that it names."""
    if id(node) not in known:
        known[id(node)] = math.inf  # of a node that holds itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
        known[id(node)] = 1 + sum(_num_values(part, known) for part in inner)
    return known[id(node)]


def _shown(value: Any) -> str:
    """A value in an error message: in short, since aliases can make one that is endless."""
    return _SHORT.repr(value)[:MAX_SHOWN]


def make_config(values: dict[str, Any]) -> Config:
    """A Config from plain nested values. Raises ConfigError with all errors at once."""
    values, moved = move_settings(values)
    _say_moved(moved)
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError("; ".join(explain_errors(error.errors()))) from error


def move_settings(values: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """(values with every setting in its place, [(old name, new name) of those that moved]).

    Raises:
        ConfigError: a setting is deleted, or is given at its old and its new place with two values.
    """
    placed = copy.deepcopy(values)
    deleted = [
        f"{old} no longer exists: {why}. Remove the setting"
        for old, why in DELETED.items()
        if old.rpartition(".")[2] in (_holder(placed, old) or {})
    ]
    moved: list[tuple[str, str]] = []
    for old, new in moved_settings().items():
        holder, key = _holder(placed, old), old.rpartition(".")[2]
        if not holder or key not in holder:
            continue
        *parents, last = new.split(".")
        target = placed
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{'.'.join(parents)} must hold settings (got {_shown(target)})")
        value = holder.pop(key)
        if target.setdefault(last, value) != value:
            raise ConfigError(_two_values(old, value, new, target[last]))
        moved.append((old, new))
    if deleted:
        raise ConfigError("; ".join(deleted))
    return placed, moved


def _holder(values: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The part of nested values that holds the setting `name`; None where there is no such part."""
    part: Any = values
    for parent in name.split(".")[:-1]:
        part = part.get(parent) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else None


def moved_settings() -> dict[str, str]:
    """{old name: new name}: each advanced setting is also known without `advanced`."""
    advanced = [name for name, _ in _fields() if ".advanced." in name]
    return {**{name.replace(".advanced.", "."): name for name in advanced}, **RENAMED}


def flat(config: Config) -> dict[str, Any]:
    """{"section.key" or "section.advanced.key": value} in JSON types.

    For done-files, the report and comparing two configurations; without secrets.
    """
    plain = config.model_dump(mode="json")
    plain.pop("name")
    values: dict[str, Any] = {}
    for section, keys in plain.items():
        advanced = keys.pop("advanced", {})
        values |= {f"{section}.{key}": value for key, value in keys.items()}
        values |= {f"{section}.advanced.{key}": value for key, value in advanced.items()}
    secrets = secrets_of_environment()
    return {k: redact(v, secrets) if isinstance(v, str) else v for k, v in values.items()}


def settings_table() -> list[Setting]:
    """All settings in order of their sections, the basic ones of a section first."""
    rows = []
    for name, field in _fields():
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else json.dumps(default)
        annotation = field.annotation
        plain = annotation.__name__ if type(annotation) is type else str(annotation)
        kind = re.sub(r"\b(typing|pathlib|rag_ft\.\w+)\.", "", plain)
        rows.append(Setting(name, shown, kind, field.description or "", ".advanced." in name))
    return rows


def apply_override(values: dict[str, Any], override: str) -> None:
    """Puts `section.key=value` into plain nested values.

    Raises:
        ConfigError: the override is not of that form.
    """
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not (equals and dot and section and name):
        raise ConfigError(f"'{override}' is not of the form section.key=value")
    try:
        value = load_yaml(text)
    except YAML_ERRORS as error:
        raise ConfigError(f"the value of '{override}' is not YAML: quote it") from error
    target = values.setdefault(section, {})
    *parents, last = name.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{section}.{name}: {parent} holds no keys of its own")
    target[last] = value


def _say_moved(moved: Sequence[tuple[str, str]]) -> None:
    for old, new in dict.fromkeys(moved):
        log.warning("%s has moved: write %s", old, new)


def _two_values(old: str, value: Any, new: str, other: Any) -> str:
    return (
        f"{old}={_shown(value)} sets {new}, which is also set to {_shown(other)}: keep {new} alone"
    )


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    """(name, field) of every setting. Fields that are derived from another section are left out."""
    for section, part in Config.model_fields.items():
        for key, field in _keys(part.annotation).items():
            if not field.exclude and not _keys(field.annotation):
                yield f"{section}.{key}", field
        advanced = _keys(part.annotation).get("advanced")
        for key, field in _keys(advanced.annotation if advanced else None).items():
            yield f"{section}.advanced.{key}", field


def _keys(annotation: Any) -> dict[str, FieldInfo]:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation.model_fields if is_section else {}


def explain_errors(errors: Sequence[Any]) -> list[str]:
    """pydantic's errors as lines: which setting, what is wrong, what was given. An unknown key
    names the nearest setting."""
    # A value that may be a path or a section (`ingest.sources`) is reported as what it looks like.
    sections = {error["loc"][:-2] for error in errors if error["loc"][-2:-1] == ("Source",)}
    lines = []
    for error in errors:
        if error["type"] == "path_type" and error["loc"][:-1] in sections:
            continue
        where = [str(part) for part in error["loc"] if part != "Source" and "[" not in str(part)]
        name = ".".join(where)
        if error["type"] == "extra_forbidden":
            nearest = nearest_setting(where)
            lines.append(f"unknown key {name}" + (f": {nearest}" if nearest else ""))
        else:
            reason = f"{error['msg'][:1].lower()}{error['msg'][1:]}"
            got = _shown(error["input"])
            if error["type"] == "list_type" and isinstance(error["input"], str):
                got += f"; write [{got}]"
            lines.append(f"{name}: {reason} (got {got})")
    return list(dict.fromkeys(lines))


def nearest_setting(where: Sequence[str]) -> str:
    """What to write instead of the unknown key at `where`; "" where nothing looks like it."""
    if list(where[:2]) == ["ingest", "sources"]:
        return f"a source has {', '.join(Source.model_fields)}"
    if len(where) == 1:
        names = {name: name for name in Config.model_fields if name != "name"}
    else:
        names = {name: name.rpartition(".")[2] for name, _ in _fields()}
    own = {name: key for name, key in names.items() if name.split(".")[0] == where[0]}
    same = {name: key for name, key in names.items() if key == where[-1]}
    # A close name in the section, the same name elsewhere, then anything that looks like it.
    for known, cutoff in ((own, 0.7), (same, 1.0), (own, 0.5), (names, 0.6)):
        close = difflib.get_close_matches(where[-1], list(known.values()), n=1, cutoff=cutoff)
        if close:
            return f"did you mean {next(n for n, key in known.items() if key == close[0])}?"
    return ""
