"""Buckets on a Ray cluster of three nodes on loopback, of which workers and nodes are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import yaml
from doubling import Doubling

from rag_ft.chunk_store import ChunkStore
from rag_ft.cli import main
from rag_ft.config import EngineConfig
from rag_ft.engine import language_model
from rag_ft.engine.language_model import Opening, SharedModel
from rag_ft.engine.shards import MAX_TRIES, run_buckets
from rag_ft.engine.work import plan_buckets, result_of
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.retrieval import buckets
from rag_ft.retrieval.buckets import encode_in_buckets
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_rows, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
NUM_BUCKETS = 24


def plan(folder: Path, poison: dict[int, str] | None = None) -> list[str]:
    rows = []
    for n in range(4 * NUM_BUCKETS):
        row: dict[str, Any] = {"n": n}
        if poison and n in poison:
            row["poison"] = poison[n]
        rows.append((n % NUM_BUCKETS, row))
    return plan_buckets(folder, rows)


def on_ray(cluster: Any, num_workers: int = 3) -> EngineConfig:
    settings: Any = {"kind": "ray", "num_workers": num_workers}
    return EngineConfig(**settings, advanced={"address": cluster.address})


def check_whole(folder: Path, names: list[str]) -> None:
    """Nothing is lost and nothing is there twice."""
    found = [path.name for path in sorted((folder / "done").iterdir())]
    assert [name for name in found if not name.endswith(".tmp")] == names  # of killed writers
    numbers = [row["n"] for name in names for row in read_rows(result_of(folder, name))]
    assert sorted(numbers) == [2 * n for n in range(4 * NUM_BUCKETS)]


def test_workers_and_nodes_that_are_killed_cost_no_bucket(cluster: Any, tmp_path: Path) -> None:
    work = Doubling(tmp_path / "work", seconds=1)
    names = plan(work.folder)
    running = threading.Thread(target=run_buckets, args=(work, names, on_ray(cluster), "double"))
    running.start()
    while not (work.folder / "done").exists():
        time.sleep(0.1)
    # A worker: the process that did the newest try. Then a node, and a new one comes.
    newest = max((work.folder / "tries").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    os.kill(int(newest.name.split("-")[-2]), signal.SIGKILL)
    time.sleep(1)
    lost = next(node for node in cluster.list_all_nodes() if not node.head)
    cluster.remove_node(lost, allow_graceful=False)
    assert len(list((work.folder / "done").iterdir())) < NUM_BUCKETS, "killed while they work"
    cluster.add_node(num_cpus=1)
    running.join()
    check_whole(work.folder, names)
    processes = {path.name.split("-")[-2] for path in (work.folder / "tries").iterdir()}
    assert 3 <= len(processes) < NUM_BUCKETS, "a worker opens its model once, not for each bucket"


def test_a_poison_bucket_is_tried_three_times_and_named_and_the_others_are_done(
    cluster: Any, tmp_path: Path
) -> None:
    work = Doubling(tmp_path / "work", seconds=0)
    names = plan(work.folder, {3: "kills", 5: "raises"})
    with pytest.raises(RagFtError, match=rf"2 of 24 buckets failed .*{names[3]}"):
        run_buckets(work, names, on_ray(cluster), "double")
    done = {path.name for path in (work.folder / "done").iterdir()}
    assert done == set(names) - {names[3], names[5]}
    for bad in (3, 5):
        assert len(list((work.folder / "tries").glob(f"{names[bad]}-*"))) == MAX_TRIES


def test_an_error_that_the_user_can_repair_ends_the_run_at_once(
    cluster: Any, tmp_path: Path
) -> None:
    work = Doubling(tmp_path / "work", seconds=0)
    names = plan(work.folder, {0: "user"})
    with pytest.raises(ConfigError, match="there is no such model"):
        run_buckets(work, names, on_ray(cluster), "double")


def test_a_folder_that_a_node_does_not_see_is_named(cluster: Any, tmp_path: Path) -> None:
    from rag_ft.engine.ray import run_on_ray

    work = Doubling(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"does not see .*nowhere"):
        list(run_on_ray(work, deque(["000000-x"]), on_ray(cluster)))


def test_encoding_and_asking_on_ray_gives_the_bytes_of_this_machine(
    cluster: Any, make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [
        {"id": f"d{n}", "text": f"mill {n} stands at river {n % 7}. " * (1 + n % 5)}
        for n in range(60)
    ]
    config, run_dir = make_run(documents)
    ingest.run(Session(config, run_dir))
    chunks, encoder = ChunkStore(run_dir.chunks), load_encoder(config.encoder)
    monkeypatch.setattr(buckets, "CHUNKS_PER_BUCKET", 12)
    monkeypatch.setattr(language_model, "ROWS_PER_BUCKET", {"transformers": 5})
    found = []
    for engine in (EngineConfig(num_workers=1), on_ray(cluster)):
        folder = tmp_path / engine.kind
        made_by = (config.encoder, config.retrieval, 0, encoder.fingerprint)
        encode_in_buckets(folder / "index", chunks, *made_by, engine)
        jobs = [(({"role": "user", "content": f"mill {n}"},), "river") for n in range(12)]
        with SharedModel(Opening(config.llm, 0, {}), engine, folder / "model") as model:
            model.answer_logprobs(jobs)
        done = sorted(path for path in folder.rglob("done/*") if path.suffix != ".tmp")
        files = [path for place in done for path in (place, *place.glob("*")) if path.is_file()]
        found.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert found[0] == found[1] and len(found[0]) >= 2 * 5 + 3


# rag-ft with buckets of 12 chunks.
DRIVER = (
    "import sys; from rag_ft.retrieval import buckets; from rag_ft.cli import main; "
    "buckets.CHUNKS_PER_BUCKET = 12; sys.exit(main(sys.argv[1:]))"
)


def test_a_driver_that_is_killed_is_continued_by_the_same_command(
    cluster: Any, tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    rows = [{"id": f"d{n}", "text": f"mill {n} stands at river {n % 7}."} for n in range(600)]
    write_jsonl(tmp_path / "documents.jsonl", rows)
    values = {
        "run": {"dtype": "float32", "dir": str(tmp_path / "run")},
        "ingest": {"sources": [str(tmp_path / "documents.jsonl")]},
        "encoder": {"model": str(tiny_encoder_dir)},
    }
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(values))
    assert main(["ingest", str(config)]) == 0
    index, found = tmp_path / "run" / "index", []
    words = ["engine.kind=ray", "engine.num_workers=3"]
    words.append(f"engine.advanced.address={cluster.address}")
    command = [sys.executable, "-c", DRIVER, "index", str(config), *words]
    driver = subprocess.Popen(command)
    while not list(index.glob("buckets/*/done/[0-9]*")) and driver.poll() is None:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    assert not (index / "manifest.json").exists(), "killed while it worked"
    before = {path.name: path.stat().st_mtime_ns for path in index.glob("buckets/*/done/[0-9]*")}
    assert 0 < len(before) < 50
    driver = subprocess.Popen(command)
    assert driver.wait() == 0
    found.append({path.name: path.read_bytes() for path in index.rglob("*.npy")})
    shutil.rmtree(index)
    command = [sys.executable, "-c", DRIVER, "index", str(config), "engine.num_workers=1"]
    assert subprocess.run([*command, "--force"], check=False).returncode == 0
    found.append({path.name: path.read_bytes() for path in index.rglob("*.npy")})
    assert found[0] == found[1] and {"vectors.npy", "rows.npy"} <= found[0].keys()


def test_no_more_workers_than_are_wanted(cluster: Any, tmp_path: Path) -> None:
    work = Doubling(tmp_path / "work", seconds=0.05)
    names = plan(work.folder)
    run_buckets(work, names, on_ray(cluster, num_workers=1), "double")
    check_whole(work.folder, names)
    assert len({path.name.split("-")[-2] for path in (work.folder / "tries").iterdir()}) == 1
