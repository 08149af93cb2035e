"""What workers and Ray bring and cost, and what a run survives.

    python benchmarks/cluster.py workers [--chunks 20000]  # one and two processes, two Ray actors
                                [--rounds 3] [--stage index]  # --stage: of ingest and index alone
    python benchmarks/cluster.py dispatch [--chunks 400]   # buckets without work
    python benchmarks/cluster.py chaos [--kills 30] [--stage index]   # what is killed, lives on

`workers` reads files, and encodes chunks with a cheap encoder (see scale.py), by one process, two,
and two actors on a Ray node of two CPUs, in rounds of which every second one has the other order. A
ratio is the median of those of the rounds, so that what else the machine does counts less; a rate
counts from the first finished bucket to the last one, so that no start is in it. Without Ray the
actors are left out. `dispatch` says what it costs to hand out a bucket. `chaos`
runs ingest, or index with all-MiniLM-L6-v2, by three actors on a Ray cluster of three nodes on this
machine, kills workers, nodes and drivers at random until the number is reached, and starts a killed
driver again. The result must then be the bytes of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml
from hardware import processor, write_result
from scale import made_up_texts, make_encoder

from rag_ft.config import EngineConfig
from rag_ft.engine.shards import run_buckets
from rag_ft.engine.work import plan_buckets, result_of
from rag_ft.run_dir import RunDir
from rag_ft.storage import read_rows

ROOT = Path(__file__).resolve().parent.parent
# The command line of rag-ft with buckets of another size.
DRIVER = (
    "import sys, importlib; from rag_ft.cli import main; "
    "size, words = int(sys.argv[1]), sys.argv[2:]; "
    "room, name = {'index': ('retrieval', 'CHUNKS'), 'ingest': ('documents', 'FILES')}[words[0]]; "
    "buckets = importlib.import_module(f'rag_ft.{room}.buckets'); "
    "setattr(buckets, f'{name}_PER_BUCKET', size); sys.exit(main(words))"
)
# After so long a chaos run is left in peace: the number of kills says how far it came.
MOST_SECONDS = 480
PAUSE = (2.0, 8.0)  # seconds between two kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=["workers", "dispatch", "chaos"])
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stage", choices=["ingest", "index"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no output of the commands")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if args.case == "workers":
            stages = [args.stage] if args.stage else ["ingest", "index"]
            found = workers(Path(place), args.chunks or 20_000, args.rounds, stages)
        elif args.case == "dispatch":
            found = dispatch(Path(place), args.chunks or 400)
        else:
            stage = args.stage or "ingest"
            found = chaos(Path(place), stage, args.chunks or 2400, args.kills, args.seed)
    print(json.dumps(found, indent=1))
    write_result(f"cluster-{args.case}", processor(), found)


WAYS = {
    "one": ("engine.num_workers=1", "ingest.advanced.workers=1"),
    "two": ("engine.num_workers=2", "ingest.advanced.workers=2"),
    "ray two": ("engine.num_workers=2", "engine.kind=ray"),
}


def workers(folder: Path, number: int, rounds: int, stages: Sequence[str]) -> dict[str, Any]:
    """Rows a second of each way in each round, and the medians of the rounds' ratios."""
    make_encoder(folder / "encoder")
    config = prepare(folder, number, str(folder / "encoder"), ingested=False)
    has_ray = importlib.util.find_spec("ray") is not None
    cluster = start_cluster(1, 2) if has_ray else None
    ways = {name: words for name, words in WAYS.items() if cluster or name != "ray two"}
    found: dict[str, Any] = {"num_chunks": number}
    for stage in stages:
        if stage == "index" and drive(512, "ingest", str(config)).wait():
            raise SystemExit("ingest failed")
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name in list(ways)[:: -1 if turn % 2 else 1]:
                words = list(ways[name])
                if name == "ray two":
                    words.append(f"engine.advanced.address={cluster.address}")
                rates[name].append(rate_of(folder, config, stage, number, words))
        found[stage] = {
            "rows_per_s": rates,
            "two_over_one": middle_ratio(rates["two"], rates["one"]),
        }
        if cluster:
            found[stage]["ray_over_processes"] = middle_ratio(rates["ray two"], rates["two"])
    if cluster:
        cluster.shutdown()
    return {**found, "load_average": [round(load, 1) for load in os.getloadavg()]}


def rate_of(folder: Path, config: Path, stage: str, number: int, words: list[str]) -> float:
    """Rows a second of a stage, which is ended when its last bucket is done."""
    run_dir, size = fresh(folder, stage), max(8, number // 40)
    watch = Watch(run_dir, stage)
    process = drive(size, stage, str(config), *words)
    while process.poll() is None and not watch.all_done():
        time.sleep(0.02)
    if process.poll():
        raise SystemExit(f"{stage} {' '.join(words)} failed")
    process.kill()
    process.wait()
    return round(watch.rate() * size, 1)


def middle_ratio(ones: list[float], others: list[float]) -> float:
    """The median of the rounds' ratios."""
    return round(median(one / other for one, other in zip(ones, others, strict=True)), 3)


@dataclass
class NoWork:
    """Writes an empty result."""

    folder: Path
    has_processes: bool = False

    def do(self, name: str) -> None:
        path = result_of(self.folder, name)
        path.parent.mkdir(exist_ok=True)
        path.touch()

    def close(self) -> None:
        """Nothing stays open."""


def dispatch(folder: Path, number: int) -> dict[str, Any]:
    """Milliseconds from one finished bucket to the next one, by two workers."""
    import ray

    cluster, found = start_cluster(1, 2), dict[str, float]()
    for kind in ("local", "ray"):
        engine = EngineConfig(kind=kind, num_workers=2, advanced={"address": cluster.address})
        work = NoWork(folder / kind)
        names = plan_buckets(work.folder, ((n, {"n": n}) for n in range(number)))
        run_buckets(work, names, engine, kind)
        times = sorted(result_of(work.folder, name).stat().st_mtime_ns for name in names)
        # The first tenth: the second worker may not have started.
        rest = times[number // 10 :]
        found[f"{kind}_ms"] = round((rest[-1] - rest[0]) / 1e6 / (len(rest) - 1), 2)
    ray.shutdown()
    cluster.shutdown()
    return {**found, "num_buckets": number, "load_average": round(os.getloadavg()[0], 1)}


class Watch:
    """Sees when each bucket is done."""

    def __init__(self, run_dir: Path, stage: str) -> None:
        self._root = run_dir / {"index": "index/buckets", "ingest": "checkpoints"}[stage]
        self._seen: dict[str, float] = {}

    def all_done(self) -> bool:
        """Looks again; whether all buckets that were planned are done."""
        for path in self._root.glob("*/done/[0-9]*[0-9a-f]"):
            if ".tmp" not in path.name:
                self._seen.setdefault(path.name, time.monotonic())
        planned = len(list(self._root.glob("*/plan/*.jsonl")))
        return 0 < planned <= len(self._seen)

    def rate(self) -> float:
        """Buckets a second between the first one and the last one."""
        times = sorted(self._seen.values())
        return (len(times) - 1) / (times[-1] - times[0])


def chaos(folder: Path, stage: str, number: int, num_kills: int, seed: int) -> dict[str, Any]:
    """Kills; then compares what the stage wrote with an undisturbed run."""
    draw, size = random.Random(seed), 24
    config = prepare(folder, number, "all-MiniLM-L6-v2", stage == "index")
    cluster, began = start_cluster(3, 1), time.monotonic()
    run_dir = fresh(folder, stage)
    words = [stage, str(config), "engine.kind=ray", "engine.num_workers=3"]
    words.append(f"engine.advanced.address={cluster.address}")
    process = drive(size, *words)
    kills = {"worker": 0, "node": 0, "driver": 0}
    num_failed = 0
    while True:
        time.sleep(draw.uniform(*PAUSE))
        if process.poll() == 0:
            break
        if process.poll() is not None:  # killed, or a bucket whose worker was killed three times
            num_failed += process.returncode != -signal.SIGKILL
            process = drive(size, *words)
        if sum(kills.values()) == num_kills or time.monotonic() - began > MOST_SECONDS:
            continue
        kind = draw.choice(["worker"] * 3 + ["node", "driver"])
        if kind == "driver":
            process.kill()
            process.wait()
        elif kind == "node":
            nodes = [node for node in cluster.list_all_nodes() if not node.head]
            cluster.remove_node(draw.choice(nodes), allow_graceful=False)
            cluster.add_node(num_cpus=1)
        elif actors := find_actors():
            draw.choice(actors).kill()
        else:
            continue  # none works at the moment
        kills[kind] += 1
        done = len(list(run_dir.rglob("done/[0-9]*")))
        print(f"{time.monotonic() - began:.0f} s: killed a {kind}; {done} buckets", flush=True)
    cluster.shutdown()
    seconds = round(time.monotonic() - began)
    disturbed, ids = files_of(run_dir, stage), ids_of(run_dir, stage)
    fresh(folder, stage)
    if drive(size, stage, str(config), "engine.num_workers=1").wait():
        raise SystemExit("the undisturbed run failed")
    whole, wanted = files_of(run_dir, stage), ids_of(run_dir, stage)
    return {
        "stage": stage,
        "num_documents": number,
        "kills": kills,
        "runs_that_ended_with_an_error": num_failed,
        "lost": len(set(wanted) - set(ids)),
        "doubled": len(ids) - len(set(ids)),
        "equal_bytes": disturbed == whole,
        "differing_files": sorted(k for k in whole if whole[k] != disturbed.get(k)),
        "wall_s": seconds,
    }


def prepare(folder: Path, number: int, encoder: str, ingested: bool = True) -> Path:
    """A configuration over documents of one chunk each; `ingested`: its ingest is done."""
    (folder / "docs").mkdir()
    for n, text in enumerate(made_up_texts(number, 500)):
        (folder / "docs" / f"{n:06}.md").write_text(text, encoding="utf-8")
    values = {
        "run": {"dir": str(folder / "run"), "dtype": "float32"},
        "ingest": {"sources": [str(folder / "docs")], "chunk_tokens": 1024},
        "encoder": {"model": encoder},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    if ingested and drive(512, "ingest", str(config)).wait():
        raise SystemExit("ingest failed")
    return config


def fresh(folder: Path, stage: str) -> Path:
    """The run folder without what the stage wrote."""
    run_dir = RunDir(folder / "run")
    for path in (*run_dir.writes(stage), run_dir.started(stage), run_dir.done(stage)):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    return run_dir.path


def drive(size: int, *words: str) -> subprocess.Popen[bytes]:
    """A command of rag-ft, started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(size), *words],
        env=environment,
        stderr=subprocess.DEVNULL if "--quiet" in sys.argv else None,
    )


def start_cluster(num_nodes: int, num_cpus: int) -> Any:
    """Nodes on loopback, beside a head without CPUs."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(num_nodes):
        cluster.add_node(num_cpus=num_cpus)
    return cluster


def find_actors() -> list[psutil.Process]:
    """The processes of workers, among those that this one has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "BucketActor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def files_of(folder: Path, stage: str) -> dict[str, bytes]:
    """The results of a stage."""
    found = {}
    for path in RunDir(folder).writes(stage, "result"):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found[file.relative_to(folder).as_posix()] = file.read_bytes()
    return found


def ids_of(folder: Path, stage: str) -> list[str]:
    """The ids of the chunks that a stage wrote."""
    if stage == "index":
        return list(json.loads((folder / "index" / "chunk_ids.json").read_text(encoding="utf-8")))
    return [row["id"] for row in read_rows(RunDir(folder).chunks)]


if __name__ == "__main__":
    main()
