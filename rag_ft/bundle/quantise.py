"""A merged generator -> one with weights of 8 or 4 bits for vLLM, by llmcompressor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_ft.bundle import quantise_model
from rag_ft.errors import ConfigError
from rag_ft.version import CHECKOUT


@dataclass(frozen=True)
class Quantised:
    """Quantised weights that are wanted: int8, int4 or fp8, and the Python that has
    llmcompressor."""

    type: str
    python: Path


def find_quantiser(wanted: Path | None) -> Path:
    """The Python that has llmcompressor: `wanted`, else that of `make quantise`.

    Raises:
        ConfigError: it is not there.
    """
    found = (wanted or CHECKOUT / ".venv-quantise" / "bin" / "python").expanduser().absolute()
    if not found.is_file():
        raise ConfigError(
            f"quantising needs llmcompressor, and {found} is missing: run `make quantise`, or name "
            "a Python that has it (--quantise-python)"
        )
    return found


def quantise(wanted: Quantised, model: Path, examples: Sequence[Sequence[int]], to: Path) -> None:
    """Writes two folders into `to`: quantised/ with weights and config.json for vLLM, and rounded/
    with weights of the same values as plain numbers.

    Raises:
        ConfigError: llmcompressor cannot quantise the model, with its last line.
    """
    rows = to / "examples.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in examples), encoding="utf-8")
    # Run in another folder, so that nothing of this one is imported there.
    paths = [path.resolve() for path in (model, rows, to)]
    words = [wanted.python, quantise_model.__file__, paths[0], wanted.type, *paths[1:]]
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        env=kept | {"HF_HUB_OFFLINE": "1"},
        cwd=to,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason"]
        raise ConfigError(f"llmcompressor cannot quantise the model: {lines[-1][:300]}")


def replace_weights(model: Path, made: Path) -> None:
    """Puts weights, and config.json where there is one, in the place of those of `model`."""
    for old in model.glob("*.safetensors*"):
        old.unlink()
    for path in (*made.glob("*.safetensors*"), *made.glob("config.json")):
        shutil.copyfile(path, model / path.name)  # its own are for one user alone
