"""bundle.json: what a bundle holds, with a hash of every file, and the settings that serve it.

schema, name (the model id), rag_ft (its version), versions {package: version}, made (time in UTC).
tuned: the tuned components in it. base: whether the base components are in it too.
models {component: {name, licence, fingerprint}}: the base models that it is made of.
settings {"section.key": value}: those that answers depend on; paths are relative to the bundle.
check: what `rag-ft bundle --check` found when the bundle was made; see drift.py.
gguf, quantised: the generator's smaller form, with what the check found for it; or null.
files {path: [size in bytes, sha256]}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.config_loader import apply_override, make_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.run_dir import RunDir
from rag_ft.storage import file_sha256, write_json

MANIFEST = "bundle.json"
SCHEMA = 1
MAKE_AGAIN = "copy the bundle again, or make it again with `rag-ft bundle`"

# Settings that answers depend on: whole sections, or single settings.
SERVED = (
    "run",
    "encoder",
    "retrieval",
    "reranker",
    "llm",
    "serve.rewrite",
    "evaluate.advanced.max_tokens",
)
# They belong to the machine that serves, and some run code or send questions elsewhere: a bundle
# never sets them. Whoever serves it can.
OPERATORS = {
    "run.dir",
    "llm.base_url",
    "llm.advanced.vllm_python",
    "llm.advanced.vllm_args",
    "llm.advanced.trust_remote_code",
    "encoder.advanced.trust_remote_code",
}
PATHS = ("encoder.model", "reranker.model", "llm.model", "llm.prompts")


def is_bundle(folder: Path) -> bool:
    """Whether the folder holds a bundle."""
    return (folder / MANIFEST).is_file()


def served_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of {"section.key": value} that a bundle keeps."""
    return {key: value for key, value in settings.items() if _is_served(key)}


def operator_settings(settings: Mapping[str, Any]) -> list[str]:
    """Those of {"section.key": value} that a bundle never sets, as words of a command line; without
    the run folder."""
    left = OPERATORS - {"run.dir"}
    return [f"{key}={json.dumps(value)}" for key, value in settings.items() if key in left]


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes bundle.json over all files of the folder; `content` has every key but schema and
    files."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, file_sha256(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    write_json(folder / MANIFEST, {"schema": SCHEMA, **content, "files": files}, indent=1)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of bundle.json.

    Raises:
        DataError: the folder is no bundle, or one of another version of rag-ft.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        schema, files, settings = content["schema"], content["files"], content["settings"]
        if not all(isinstance(value, dict) for value in (files, settings, content["models"])):
            raise ValueError("files, settings and models must be objects")
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is a folder without {MANIFEST}: name a configuration file, or a folder that "
            "`rag-ft bundle` wrote"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged ({error}): {MAKE_AGAIN}") from error
    if schema != SCHEMA:
        raise DataError(
            f"{folder} is a bundle of layout {schema}, and this rag-ft reads layout {SCHEMA}: "
            "install the version that bundle.json names"
        )
    return dict(content)


def open_bundle(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration that serves the bundle from where it stands, after checking every file.

    Raises:
        DataError: the folder is no bundle, or a file was changed, removed or added.
        ConfigError: an override is wrong.
    """
    content, folder = read_manifest(folder), folder.resolve()
    check_files(folder, content["files"])
    values: dict[str, Any] = {}
    for key, value in content["settings"].items():
        if not _is_served(key):
            raise DataError(f"{folder / MANIFEST} sets {key}, which a bundle cannot: {MAKE_AGAIN}")
        if key in PATHS and value is not None:
            value = str(_inside(folder, str(value)))
        *parents, last = key.split(".")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    values["run"] = {**values.get("run", {}), "dir": str(folder)}
    for override in overrides:
        apply_override(values, override)
    return make_config({**values, "name": str(content["name"])})


def check_files(folder: Path, files: dict[str, Any]) -> None:
    """Makes sure that the folder holds these files with these hashes, and no others in its
    subfolders.

    Raises:
        DataError: names the first file that differs.
    """
    for name, mark in files.items():
        path = _inside(folder, name)
        if not path.is_file():
            raise DataError(f"{folder}: {name} is missing: {MAKE_AGAIN}")
        if [path.stat().st_size, file_sha256(path)] != mark:
            raise DataError(f"{folder}: {name} has changed: {MAKE_AGAIN}")
    # A file beside a model's files could be loaded with them.
    inner = {name.split("/")[0] for name in files if "/" in name}
    for path in (path for name in sorted(inner) for path in (folder / name).rglob("*")):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in files:
            raise DataError(f"{folder}: {path.relative_to(folder)} was added: remove it")


def bundled(run_dir: RunDir) -> dict[str, Any] | None:
    """The bundle.json of a run folder that is a bundle; None where it is a run's own."""
    return read_manifest(run_dir.path) if is_bundle(run_dir.path) else None


def _is_served(key: str) -> bool:
    served = any(f"{key}.".startswith(f"{part}.") for part in SERVED)
    return served and key not in OPERATORS


def _inside(folder: Path, name: str) -> Path:
    """The path `name` in the folder. Raises DataError where it leads out of it, by a link too."""
    path = folder / name
    if not path.resolve().is_relative_to(folder):
        raise DataError(f"{folder}: {name} leads out of the bundle: {MAKE_AGAIN}")
    return path


def has_base(run_dir: RunDir) -> bool:
    """Whether base components can be asked: of every run, and of a bundle made with them."""
    bundle = bundled(run_dir)
    return bundle is None or bool(bundle["base"])


def require_base(run_dir: RunDir) -> None:
    """Raises ConfigError where base components are asked for and are not there."""
    if not has_base(run_dir):
        raise ConfigError(f"{run_dir.path} holds no base components: bundle it with --with-base")
