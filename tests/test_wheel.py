"""The wheel installed alone in a fresh environment works: no file of the checkout is needed."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "constraints.txt",
)
TEXTS = {
    "ferry.md": "# Ferry\n\nThe ferry leaves Port Sorrel at noon. It carries forty people.\n",
    "mill.md": "# Mill\n\nThe mill was built by Ada Brand. It stands at the river.\n",
    "tower.md": "# Tower\n\nThe tower was painted by Bo Dahl. It has nine floors.\n",
}
QUESTIONS = [
    ("When does the ferry leave Port Sorrel?", "noon", "ferry.md"),
    ("How many people does the ferry carry?", "forty", "ferry.md"),
    ("Who built the mill?", "Ada Brand", "mill.md"),
    ("Where does the mill stand?", "at the river", "mill.md"),
    ("Who painted the tower?", "Bo Dahl", "tower.md"),
    ("How many floors does the tower have?", "nine", "tower.md"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and, by a path, its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("rag_ft", "configs", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    # The wheel is made from the source package alone, so that both are whole.
    make = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", make], cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    [packed] = folder.glob("rag_ft-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(packed),
    ]
    subprocess.run(build, check=True)
    [wheel] = folder.glob("rag_ft-*.whl")

    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    # A path line adds the dependencies; an editable install of rag_ft there has no effect.
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n", encoding="utf-8"
    )
    return environment / "bin"


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One command of the installed package, in a folder away from the checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = (str(installed / words[0]), *words[1:])
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_help_of_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    where = call(installed, tmp_path, "python", "-c", "import rag_ft; print(rag_ft.__file__)")
    assert str(installed.parent) in where.stdout, where.stdout + where.stderr
    shown = call(installed, tmp_path, "rag-ft", "--help")
    assert shown.returncode == 0 and "train_generator" in shown.stdout, shown.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_installed_wheel_runs_all_stages_on_three_files(
    installed: Path, tmp_path: Path, tiny_lm_dir: Path, tiny_encoder_dir: Path
) -> None:
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    rows = [{"question": q, "answers": [a], "document_id": d} for q, a, d in QUESTIONS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "questions.jsonl").write_text(lines, encoding="utf-8")
    config = {
        "ingest": {
            "sources": ["ferry.md", "mill.md", {"path": "tower.md", "split": "test"}],
            "test_share": 0,
            "dev_share": 0,
        },
        "encoder": {"model": str(tiny_encoder_dir)},
        "llm": {"model": str(tiny_lm_dir), "prompts": "compact"},
        "generate": {"pairs_per_chunk": 0, "questions": ["questions.jsonl"]},
        "train_retriever": {"enabled": False},
        "train_generator": {"epochs": 1, "batch_size": 2},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(config), encoding="utf-8")
    done = call(installed, tmp_path, "rag-ft", "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "small"
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "generator" / "adapter_model.safetensors").is_file()
    assert (
        json.loads((run / "metrics.json").read_text(encoding="utf-8"))["headline"]["questions"] == 2
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_installed_wheel_carries_the_demo_and_runs_it(installed: Path, tmp_path: Path) -> None:
    # Without training and answers: the whole demo takes minutes.
    settings = [
        "generate.pairs_per_chunk=0",
        "train_retriever.enabled=false",
        "train_generator.enabled=false",
        "evaluate.answers=false",
    ]
    done = call(installed, tmp_path, "rag-ft", "demo", "try", *settings)
    assert done.returncode == 0, done.stderr
    assert "rag-ft ask configs/demo.yaml" in done.stdout
    metrics = json.loads((tmp_path / "try" / "runs" / "demo" / "metrics.json").read_text())
    assert metrics["headline"]["questions"] == 204  # those with a gold chunk
    found = subprocess.run(
        [str(installed / "rag-ft"), "status", "configs/demo.yaml", *settings],
        cwd=tmp_path / "try",
        capture_output=True,
        text=True,
    )
    assert "stale" not in found.stdout and found.stdout.count("done") == 7, found.stdout


def as_script(notebook: Path, demo_settings: str) -> str:
    """The code of a notebook as Python, with settings for its demo; what it installs is there."""
    lines = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        for line in text.splitlines():
            if line == "!rag-ft demo":
                lines.append(
                    f"run('rag-ft demo rag-ft-demo {demo_settings}', shell=True, check=True)"
                )
            elif line.startswith("%cd "):
                lines.append(f"os.chdir({line[4:]!r})")
            elif not line.startswith("%pip install "):
                lines.append(line)
    return "\n".join(["import os", "from subprocess import run", *lines])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs_with_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    # Hardly trained, and without written pairs: the whole demo takes minutes.
    quick = "generate.pairs_per_chunk=0 train_retriever.enabled=false train_generator.enabled=false"
    script = as_script(ROOT / "examples" / "demo.ipynb", f"{quick} evaluate.answers=false")
    (tmp_path / "notebook.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(installed / "python"), "notebook.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "# demo" in done.stdout and re.search(r"^\* \w+/", done.stdout, re.M), done.stdout


def imported_packages(paths: list[Path]) -> set[str]:
    """Top-level packages that these files import, without the standard library and rag_ft."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"rag_ft"}


def test_every_package_that_the_code_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def plain(requirements: list[str]) -> set[str]:
        words = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
        return {word[0].lower().replace("_", "-") for word in words if word}

    core = plain(project["dependencies"]) | plain(extras["cpu"]) | plain(extras["gpu"])
    distributions = importlib.metadata.packages_distributions()
    paths = sorted((ROOT / "rag_ft").rglob("*.py"))
    integrations = [path for path in paths if "integrations" in path.parts]
    tools = [path for path in paths if path.parts[-2:] == ("serving", "mcp.py")]
    # It runs in an environment of its own, which `make quantise` sets up.
    apart = [path for path in paths if path.name == "quantise_model.py"]
    clusters = [path for path in paths if path.parent.name == "engine" and path.match("ray*")]
    for found, allowed in (
        ([path for path in paths if path not in [*integrations, *tools, *clusters, *apart]], core),
        (integrations, core | plain(extras["llama-index"])),
        (tools, core | plain(extras["mcp"])),
        (clusters, core | plain(extras["ray"])),
    ):
        for package in imported_packages(found):
            names = {
                name.lower().replace("_", "-") for name in distributions.get(package, [package])
            }
            assert names & allowed, f"{package} is imported but not declared in pyproject.toml"
