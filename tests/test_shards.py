"""generate, LM scoring and evaluate in buckets: the same for any number of workers and shards."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from faulty_server import FaultyServer, Handler, Serve, config_of
from faulty_server import serve as serve
from foreteller import Foreteller, pairs_of, use
from foreteller import prepared as prepared

from rag_ft.cli import main
from rag_ft.config import Config, EngineConfig
from rag_ft.engine import language_model
from rag_ft.engine.language_model import Opening, SharedModel, prepare
from rag_ft.engine.shard_dir import ShardDir
from rag_ft.engine.shards import ShardDone
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import generate

MakeRun = Callable[..., tuple[Config, RunDir]]


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "ROWS_PER_BUCKET", {"transformers": 5})


@pytest.fixture
def opening(make_run: MakeRun) -> Opening:
    return Opening(make_run([])[0].llm, 0, {})


def engine(num_workers: int = 1, shard: str = "") -> EngineConfig:
    return EngineConfig(num_workers=num_workers, advanced={"shard": shard})  # type: ignore[arg-type]


def requests(number: int) -> list[ChatRequest]:
    texts = [f"What is number {n}? " + "word " * (n % 7) for n in range(number)]
    return [
        ChatRequest(f"c#{n // 3}/{n % 3}", ({"role": "user", "content": text},), 6)
        for n, text in enumerate(texts)
    ]


def ask(opening: Opening, folder: Path, engine: EngineConfig, number: int = 23) -> dict[str, str]:
    wanted, cache = requests(number), folder / "replies.jsonl"
    with SharedModel(opening, engine, folder / "buckets") as model:
        prepare(model, wanted, len(wanted), cache, "ask")
        return {r.id: r.text for r in cached_chat(model, wanted, cache, "ask")}


@pytest.mark.slow
@pytest.mark.usefixtures("small_buckets")
def test_replies_are_those_of_the_model_for_any_number_of_shards(
    opening: Opening, tmp_path: Path
) -> None:
    with open_language_model(opening.llm, opening.seed) as model:
        alone = {r.id: r.text for r in cached_chat(model, requests(23), tmp_path / "r", "ask")}
        name = model.name
    assert opening.name == name, "cached replies are found again with and without workers"
    whole = ask(opening, tmp_path / "whole", engine())
    assert whole.keys() == alone.keys()
    # Other batches, other roundings: in float32 a greedy reply hardly ever changes.
    assert sum(whole[key] == alone[key] for key in alone) >= 22
    for number in (2, 3):
        for place in range(number):
            with pytest.raises(ShardDone) if place < number - 1 else contextlib.nullcontext():
                ask(opening, tmp_path / str(number), engine(shard=f"{place}/{number}"))
        assert ask(opening, tmp_path / str(number), engine()) == whole


@pytest.mark.usefixtures("small_buckets")
def test_what_is_known_is_not_asked_again(
    opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(opening, tmp_path, engine())
    monkeypatch.setattr(language_model, "open_language_model", lambda *_: pytest.fail("opened"))
    assert ask(opening, tmp_path, engine()) == first, "from the file of replies"
    lines = (tmp_path / "replies.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "replies.jsonl").write_text("".join(lines[:7]))
    assert ask(opening, tmp_path, engine()) == first, "killed while it took them from the buckets"
    (tmp_path / "replies.jsonl").unlink()
    assert ask(opening, tmp_path, engine()) == first, "from the buckets"


def test_an_answer_that_fails_is_an_error_of_its_request_alone(
    opening: Opening, tmp_path: Path
) -> None:
    wanted = [*requests(3), ChatRequest("long", ({"role": "user", "content": "word " * 9999},), 6)]
    with SharedModel(opening, engine(), tmp_path / "buckets") as model:
        prepare(model, wanted, len(wanted), tmp_path / "r.jsonl", "ask")
        replies = {r.id: r for r in cached_chat(model, wanted, tmp_path / "r.jsonl", "ask")}
    assert replies["long"].refused and "the model takes" in str(replies["long"].error)
    assert [replies[r.id].error for r in requests(3)] == [None] * 3
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3, "an error is never stored"


@pytest.mark.usefixtures("small_buckets")
def test_scores_are_those_of_the_model(opening: Opening, tmp_path: Path) -> None:
    jobs = [(request.messages, f"answer {n}") for n, request in enumerate(requests(17))]
    with open_language_model(opening.llm, opening.seed) as model:
        alone = model.answer_logprobs(jobs)
    with SharedModel(opening, engine(), tmp_path) as model:
        found = model.answer_logprobs(jobs)
        assert model.count_tokens(jobs[0][0]) > 0
    for one, other in zip(found, alone, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-4)


def killing_at(number: int, kill: Callable[[], object]) -> Callable[..., bool]:
    """A server's fault: with that request, and only then, it kills who asks."""
    lock, left = threading.Lock(), [number]

    def fault(handler: Handler, prompt: str, tries: int) -> bool:
        with lock:
            left[0] -= 1
            if left[0] == 0:
                kill()
        return False

    return fault


def asked_of(server: FaultyServer) -> int:
    return sum(server.tries.values())


@pytest.mark.slow
def test_a_killed_worker_has_its_replies_kept_and_none_is_asked_for_twice(
    serve: Serve, tmp_path: Path
) -> None:
    def kill() -> None:
        [worker] = multiprocessing.active_children()
        worker.kill()

    server = serve(killing_at(30, kill))
    concurrency = 2
    opening = Opening(config_of(server, concurrency=concurrency), 0, {})
    found = ask(opening, tmp_path, engine(2), 60)
    assert found.keys() == {request.id for request in requests(60)}
    # Only requests that were under way when the worker was killed are sent again.
    assert 60 < asked_of(server) <= 60 + concurrency
    done = tmp_path / "buckets" / "ask"
    assert len(list((done / "done").iterdir())) == 1, "they were one bucket"
    assert not list((done / "kept").glob("*.jsonl")), "kept until the bucket is done"


def test_scores_that_were_kept_are_not_computed_again(
    opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "SCORES_AT_ONCE", 4)
    jobs = [(request.messages, f"answer {n}") for n, request in enumerate(requests(14))]
    with SharedModel(opening, engine(), tmp_path / "whole") as model:
        whole = model.answer_logprobs(jobs)
    asked: list[int] = []

    class Dying:
        """A model whose process ends with the third block, or with none."""

        def __init__(self, model: Any, blocks: int) -> None:
            self.model, self.blocks = model, blocks

        def answer_logprobs(self, jobs: Any) -> Any:
            if len(asked) == self.blocks:
                raise KeyboardInterrupt
            asked.append(len(jobs))
            return self.model.answer_logprobs(jobs)

    model_of = language_model.ModelWork.model
    for blocks in (2, 99):
        monkeypatch.setattr(
            language_model.ModelWork, "model", lambda work, n=blocks: Dying(model_of(work), n)
        )
        killed = pytest.raises(KeyboardInterrupt) if blocks == 2 else contextlib.nullcontext()
        with SharedModel(opening, engine(), tmp_path / "killed") as model, killed:
            found = model.answer_logprobs(jobs)
    assert asked == [4, 4, 4, 2], "each block once"
    assert all(np.array_equal(one, other) for one, other in zip(found, whole, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("small_buckets")
def test_processes_give_the_bytes_of_one_after_the_other(opening: Opening, tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        ask(opening, tmp_path / str(number), engine(number))
        rows = []
        for path in sorted((tmp_path / str(number)).rglob("done/*")):
            # The seconds are measured.
            rows += [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
        found.append(rows)
    assert len(found[0]) == 23 and found[0] == found[1]


@pytest.mark.usefixtures("small_buckets")
def test_generate_gives_the_same_pairs_in_buckets_and_as_shards(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(
        generate__kinds={"factoid": 0.8, "unanswerable": 0.2}, generate__advanced__swaps_per_pair=1
    )
    model = use(monkeypatch, Foreteller())
    monkeypatch.setattr(language_model, "language_model_name", lambda *_: model.name)
    wanted = generate.run(Session(config, run_dir))
    pairs = run_dir.qa.read_bytes()
    rejects = run_dir.rejects("generate").read_bytes()
    assert len(pairs_of(run_dir)) > 5

    def fresh(**advanced: Any) -> Config:
        run_dir.replies("generate").unlink(missing_ok=True)
        changed = EngineConfig(num_workers=1, advanced=advanced)  # type: ignore[arg-type]
        return config.model_copy(update={"engine": changed})

    timed = {"seconds_by_pass", "seconds_before"}
    counts = generate.run(Session(fresh(), run_dir))
    assert {k: v for k, v in counts.items() if k not in timed} == {
        k: v for k, v in wanted.items() if k not in timed
    }
    assert (run_dir.qa.read_bytes(), run_dir.rejects("generate").read_bytes()) == (pairs, rejects)

    # Shards: every pass but the last one waits for the buckets of the other shard.
    num_rounds = 0
    while True:
        ends = []
        for place in (0, 1):
            shard = ShardDir(run_dir.path, f"{place}/2")
            with pytest.raises(ShardDone) as end:
                generate.run(Session(fresh(shard=f"{place}/2"), shard))
            ends.append(str(end.value))
        num_rounds += 1
        if "all shards" in ends[0]:
            break
    assert 2 <= num_rounds <= 5
    assert not run_dir.replies("generate").exists(), "shards append to files of their own"
    last = Foreteller()
    use(monkeypatch, last)
    generate.run(Session(fresh(), run_dir))
    assert last.asked == [] and run_dir.qa.read_bytes() == pairs
    assert not run_dir.checkpoints("generate").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small_buckets")
def test_evaluate_runs_as_shards_by_the_command(
    tmp_path: Path, tiny_lm_dir: Path, tiny_encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {f"d{n}": f"The mill number {n} was built by Ruth Falk." for n in range(6)}
    sources = tmp_path / "documents.jsonl"
    rows = [
        {"id": k, "text": t, "split": "test" if k > "d1" else "train"} for k, t in texts.items()
    ]
    sources.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        {"question": f"Who built mill {k}?", "answers": ["Ruth Falk"], "document_id": k}
        for k in texts
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    off = {"enabled": False}
    values = {
        "run": {"dtype": "float32"},
        "ingest": {"sources": [str(sources)], "advanced": {"near_duplicate_similarity": 1.0}},
        "encoder": {"model": str(tiny_encoder_dir)},
        "llm": {"model": str(tiny_lm_dir), "prompts": "compact"},
        "generate": {"pairs_per_chunk": 0, "questions": [str(questions)]},
        "train_retriever": off,
        "train_generator": off,
        "evaluate": {"origins": ["imported"], "advanced": {"max_tokens": 4}},
    }
    found = []
    for name in ("whole", "shards"):
        values["run"] = {"dtype": "float32", "dir": str(tmp_path / name)}
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values))
        if name == "shards":
            assert main(["ingest", str(config), "--shard", "0/2"]) == 0
            assert main(["ingest", str(config), "--shard", "1/2"]) == 0
            assert not (tmp_path / name / "chunks.jsonl").exists()
            assert main(["merge-shards", str(config)]) == 0
        for stage in ("ingest", "index", "generate", "train_retriever", "train_generator"):
            assert main([stage, str(config)]) == 0
        capsys.readouterr()
        if name == "whole":
            assert main(["evaluate", str(config), "engine.num_workers=1"]) == 0
        else:
            assert main(["evaluate", str(config), "--shard", "0/2"]) == 0
            assert "of other shards" in capsys.readouterr().err
            assert main(["evaluate", str(config), "--shard", "1/2"]) == 0
            assert "buckets of all shards are done" in capsys.readouterr().err
            assert not (tmp_path / name / "evaluate.done.json").exists()
            assert main(["merge-shards", str(config)]) == 0
            assert main(["evaluate", str(config), "--shard", "0/2"]) == 0
            assert "up to date" in capsys.readouterr().err
        predictions = sorted((tmp_path / name / "predictions").iterdir())
        found.append(
            [
                {**json.loads(line), "seconds": 0}
                for path in predictions
                for line in path.read_text().splitlines()
            ]
        )
        assert not (tmp_path / name / "checkpoints" / "evaluate").exists()
    assert found[0] == found[1] and len(found[0]) > 10
