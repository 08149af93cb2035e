"""Buckets: what is planned, who does what, and what becomes of those that fail."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rag_ft.config import EngineConfig
from rag_ft.config_loader import load_config
from rag_ft.engine.local import claim_gpus
from rag_ft.engine.shards import MAX_TRIES, ShardDone, run_buckets, shard_of
from rag_ft.engine.work import (
    bucket_of,
    number_of_buckets,
    plan_buckets,
    planned_rows,
    result_of,
    whole_folder,
)
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.storage import write_jsonl

NUM_BUCKETS = 6


@dataclass
class Doubling:
    """Writes each row with its number doubled. Rows may be poison."""

    folder: Path
    closed: int = 0
    has_processes: bool = False

    def do(self, name: str) -> None:
        tries = self.folder / "tries"
        tries.mkdir(exist_ok=True)
        (tries / f"{name}-{len(list(tries.iterdir()))}-{os.getpid()}").touch()
        rows = list(planned_rows(self.folder, name))
        poison = {row.get("poison") for row in rows}
        if "kills" in poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if "raises" in poison:
            raise ValueError("a row that nobody can read")
        if "user" in poison:
            raise ConfigError("there is no such model")
        write_jsonl(result_of(self.folder, name), ({"n": 2 * row["n"]} for row in rows))

    def close(self) -> None:
        self.closed += 1

    def num_tries(self, name: str) -> int:
        return len(list((self.folder / "tries").glob(f"{name}-*")))


def plan(folder: Path, **poison: str) -> list[str]:
    """Four rows in each of the buckets; poison names some by the number in `b<number>`."""
    rows = []
    for n in range(4 * NUM_BUCKETS):
        bad = poison.get(f"b{n}")
        rows.append((n % NUM_BUCKETS, {"n": n} | ({"poison": bad} if bad else {})))
    return plan_buckets(folder, rows)


def results(folder: Path, names: list[str]) -> dict[str, bytes]:
    found = {name: result_of(folder, name) for name in names}
    return {name: path.read_bytes() for name, path in found.items() if path.exists()}


def engine(num_workers: int = 1, shard: str = "") -> EngineConfig:
    return EngineConfig(num_workers=num_workers, advanced={"shard": shard})  # type: ignore[arg-type]


def test_a_plan_is_the_same_files_wherever_it_is_made(tmp_path: Path) -> None:
    names = plan(tmp_path / "a")
    assert names == plan(tmp_path / "b") == plan(tmp_path / "a") and len(names) == NUM_BUCKETS
    for name in names:
        one, other = (tmp_path / x / "plan" / f"{name}.jsonl" for x in "ab")
        assert one.read_bytes() == other.read_bytes()
    rows = [row["n"] for row in planned_rows(tmp_path / "a", names[2])]
    assert rows == [2, 8, 14, 20], "rows keep their order"
    assert len(list((tmp_path / "a" / "plan").iterdir())) == NUM_BUCKETS, "nothing temporary stays"


def test_other_rows_are_another_bucket(tmp_path: Path) -> None:
    [one] = plan_buckets(tmp_path, [(0, {"n": 1})])
    [other] = plan_buckets(tmp_path, [(0, {"n": 2})])
    assert one != other and one[:7] == other[:7] == "000000-"


def test_the_number_of_buckets_follows_from_the_number_of_rows_alone() -> None:
    assert [number_of_buckets(n, 256) for n in (0, 1, 256, 257, 2560)] == [1, 1, 1, 2, 10]
    found = [bucket_of(f"text {n}", 10) for n in range(1000)]
    assert found == [bucket_of(f"text {n}", 10) for n in range(1000)]
    assert min(found.count(n) for n in range(10)) > 60, "buckets are about equal"


@pytest.mark.parametrize("number", [1, 2, 4, 9])
def test_shards_do_all_buckets_once(tmp_path: Path, number: int) -> None:
    names, work = plan(tmp_path), Doubling(tmp_path)
    for place in range(number):
        before = results(tmp_path, names)
        try:
            run_buckets(work, names, engine(shard=f"{place}/{number}"), "double")
        except ShardDone as end:
            left = NUM_BUCKETS - len(results(tmp_path, names))
            assert f"{left} of other shards" in str(end) and left
        own = set(results(tmp_path, names)) - set(before)
        assert own == {name for name in names if int(name[:6]) % number == place}
    assert len(results(tmp_path, names)) == NUM_BUCKETS
    assert [work.num_tries(name) for name in names] == [1] * NUM_BUCKETS


@pytest.mark.parametrize("bad", ["2/2", "x", "-1/2", "1", "/"])
def test_a_shard_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="write I/N with I from 0"):
        shard_of(bad)


def test_a_bucket_that_fails_is_tried_three_times_and_named_and_the_others_are_done(
    tmp_path: Path,
) -> None:
    names, work = plan(tmp_path, b3="raises"), Doubling(tmp_path)
    with pytest.raises(RagFtError, match=rf"1 of 6 buckets failed 3 times.*{names[3]}.*ValueError"):
        run_buckets(work, names, engine(), "double")
    assert set(results(tmp_path, names)) == set(names) - {names[3]}
    assert work.num_tries(names[3]) == MAX_TRIES and work.closed == 1


def test_an_error_that_the_user_can_repair_is_not_tried_again(tmp_path: Path) -> None:
    names, work = plan(tmp_path, b0="user"), Doubling(tmp_path)
    with pytest.raises(ConfigError, match="there is no such model"):
        run_buckets(work, names, engine(), "double")
    assert work.num_tries(names[0]) == 1 and work.closed == 1


def test_buckets_that_are_done_are_left(tmp_path: Path) -> None:
    names, work = plan(tmp_path), Doubling(tmp_path)
    run_buckets(work, names, engine(), "double")
    result_of(tmp_path, names[1]).unlink()
    run_buckets(work, names, engine(), "double")
    assert [work.num_tries(name) for name in names] == [1, 2, 1, 1, 1, 1]


@pytest.mark.slow
def test_processes_give_the_same_and_one_that_dies_costs_its_bucket_alone(tmp_path: Path) -> None:
    found = []
    for number in (1, 2, 3):
        folder = tmp_path / str(number)
        names = plan(folder)
        run_buckets(Doubling(folder), names, engine(number), "double")
        found.append(results(folder, names))
    assert found[0] == found[1] == found[2] and len(found[0]) == NUM_BUCKETS
    names, work = plan(tmp_path / "poison", b3="kills"), Doubling(tmp_path / "poison")
    with pytest.raises(RagFtError, match=rf"1 of 6 buckets failed .*{names[3]}.*crashed"):
        run_buckets(work, names, engine(2), "double")
    assert set(results(work.folder, names)) == set(names) - {names[3]}
    assert work.num_tries(names[3]) == MAX_TRIES


def test_of_two_workers_with_the_same_bucket_the_first_result_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "done" / "0") as slow:
        with whole_folder(tmp_path / "done" / "0") as fast:
            (fast / "x").write_text("fast")
        (slow / "x").write_text("slow")
    assert (tmp_path / "done" / "0" / "x").read_text() == "fast"
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["0"]


def test_each_worker_claims_gpus_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen, held = [], []
    for _ in range(3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
        held.append(claim_gpus(2 if not held else 1))
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["4,5", "6", "4,5,6"] and [len(locks) for locks in held] == [2, 1, 0]
    held[0][1].release()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert claim_gpus(1) and os.environ["CUDA_VISIBLE_DEVICES"] == "5", "free when a worker ends"


def test_without_ray_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'rag-ft\[ray\]'"):
        run_buckets(Doubling(tmp_path), plan(tmp_path), EngineConfig(kind="ray"), "double")


def test_old_names_of_the_settings_still_hold(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("engine: {advanced: {num_workers: 3}, address: 'ray://head:10001'}\n")
    found = load_config(path).engine
    assert found.num_workers == 3 and found.advanced.address == "ray://head:10001"
    assert found.in_buckets and not load_config(path, ["engine.num_workers=0"]).engine.in_buckets
