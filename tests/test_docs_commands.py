"""Every command and Python snippet of the documentation is run here on a part of the demo, or says
above itself who runs it, or why it is not run:

    <!-- run by FILE -->            a test or workflow, in which its first words stand
    <!-- not run: REASON -->
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rag_ft.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"settings.md", "metrics.md", "run-folder.md", "cli.md"}  # they show how, not what
LANGUAGES = ("sh", "python")
COMMANDS = re.compile(r"^(- run: |\$ )?(rag-ft|make|pip|pipx|uvx|docker|kubectl|sbatch) ", re.M)
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S
)
SERVING = ("serve", "review")  # these would never end


@dataclass(frozen=True)
class Block:
    """A block of code of a page; `mark` is the comment above it."""

    name: str
    language: str
    text: str
    mark: str


def blocks() -> list[Block]:
    found = []
    for page in (page for page in PAGES if page.name not in GENERATED):
        text = page.read_text(encoding="utf-8")
        for part in BLOCK.finditer(text):
            line = text[: part.start("text")].count("\n") + 1
            name = f"{page.relative_to(ROOT)}:{line}"
            found.append(Block(name, part["language"], part["text"], part["mark"] or ""))
    return found


BLOCKS = blocks()
RUN_HERE = [block for block in BLOCKS if block.language in LANGUAGES and not block.mark]


def test_what_is_not_run_here_says_who_runs_it_or_why_not() -> None:
    marked = [block for block in BLOCKS if block.mark]
    assert len(RUN_HERE) > 30 and len(marked) > 10
    for block in marked:
        who = re.fullmatch(r"run by (\S+)", block.mark)
        assert who or re.fullmatch(r"not run: \w.{9,}", block.mark), f"{block.name}: {block.mark}"
        if who:
            runs = (ROOT / who[1]).read_text(encoding="utf-8")
            page = Path(block.name.partition(":")[0]).name  # a test takes the block from its page
            commands = {" ".join(line.split()[:2]) for line in block.text.splitlines()}
            assert page in runs or all(c in runs for c in commands), f"{block.name}: {who[1]}"


def test_commands_stand_in_blocks_that_are_run_or_marked() -> None:
    for block in BLOCKS:
        if block.language not in LANGUAGES and COMMANDS.search(block.text):
            assert block.mark, f"{block.name}: use ```sh, or say who runs it"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a part of the handbook, a finished run over it, and all that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    handbook = folder / "data" / "handbook"
    for part in ("ferries", "workshops"):
        shutil.copytree(ROOT / "data" / "handbook" / part, handbook / part)
    shutil.copy(ROOT / "data/handbook/buildings/chapel-and-tower.pdf", handbook / "handbook.pdf")
    for name in ("questions.jsonl", "questions_train.jsonl"):
        lines = (ROOT / "data" / "handbook" / name).read_text(encoding="utf-8").splitlines(True)
        about = [line for line in lines if '"ferries/' in line or '"workshops/' in line]
        (handbook / name).write_text("".join(about[::3]), encoding="utf-8")
    shutil.copytree(ROOT / "data/models/demo-lm", folder / "data/models/demo-lm")
    shutil.copy(ROOT / "data/handbook_splits.jsonl", folder / "data")

    settings = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    settings["generate"]["pairs_per_chunk"] = 0
    settings["train_retriever"]["epochs"] = 1
    settings["train_generator"] |= {"epochs": 1}
    (folder / "configs").mkdir()
    for name in ("configs/demo", "my", "configs/handbook", "configs/contracts"):
        shown = settings | {"run": {"dir": f"runs/{Path(name).name.replace('my', 'demo')}"}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(shown), encoding="utf-8")
    own = settings | {"evaluate": {"adapter": "models/generator", "encoder": "models/retriever"}}
    (folder / "own.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    with contextlib.chdir(folder):
        run_commands("rag-ft run configs/demo.yaml")
        run_commands("rag-ft bundle configs/demo.yaml --to demo-bundle --questions 10")
    for part in ("generator", "retriever"):
        shutil.copytree(folder / "runs" / "demo" / part, folder / "models" / part)
    for name in ("other", "handbook", "contracts"):
        shutil.copytree(folder / "runs" / "demo", folder / "runs" / name)
    return folder


def run_commands(text: str) -> None:
    """Runs lines of `rag-ft ...` in the working folder. `--require` may end with exit code 3: a
    small run is not good enough."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        loop = re.match(r"for (\w+) in ([\w ]+); do (.*); done", line)
        if loop:
            for value in loop[2].split():
                run_commands(loop[3].replace(f"${loop[1]}", value))
        elif words and words[1] in SERVING:
            serve = [sys.executable, str(ROOT / "tests" / "serve_briefly.py"), *words[1:]]
            subprocess.run(serve, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        elif words:
            assert words[0] == "rag-ft", line
            code = main(words[1:])
            assert code == 0 or (code == 3 and "--require" in words), line


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN_HERE, ids=lambda block: block.name)
def test_a_block_of_the_documentation_runs(
    block: Block, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "work"))
    if "--to demo-bundle" in block.text:
        shutil.rmtree("demo-bundle")
    if block.language == "python":
        Path("snippet.py").write_text(block.text, encoding="utf-8")
        runpy.run_path("snippet.py")
    else:
        run_commands(block.text.replace("CONFIG", "configs/demo.yaml"))
