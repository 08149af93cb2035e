"""`rag-ft sweep`: combinations of settings, measured without training or test questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from retriever_run import documents

from rag_ft.commands import sweep
from rag_ft.config import Config, EncoderConfig
from rag_ft.config_loader import load_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.llm.interface import Reply
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Evidence, QAPair
from rag_ft.session import Session
from rag_ft.stages import index, ingest
from rag_ft.storage import read_jsonl, write_jsonl


@pytest.fixture
def run(make_run: Any, tmp_path: Path) -> tuple[Path, RunDir]:
    """A configuration file, and its run with a question about every document of several chunks."""
    rows = documents()
    for row in rows:
        row["text"] = " ".join(f"{row['text'][:-1]} in part {n}." for n in range(6))
    config, run_dir = make_run(rows, ingest__chunk_tokens=64, evaluate__answers=False)
    ingest.run(Session(config, run_dir))
    index.run(Session(config, run_dir))
    pairs = []
    for number, chunk in enumerate(read_jsonl(run_dir.chunks, Chunk)):
        at = chunk.text.find("part")
        evidence = {"text": chunk.text[at : at + 6], "start": chunk.start + at}
        pairs.append(
            QAPair(
                f"q{number}",
                f"{chunk.text[:30]}?",
                (evidence["text"],),
                chunk.id,
                chunk.document_id,
                Evidence(**evidence, end=evidence["start"] + 6),
                "factoid",
                chunk.split,
                "imported",
            )
        )
    write_jsonl(run_dir.qa, pairs)
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    return file, run_dir


def test_words_with_several_values_make_combinations(run: tuple[Path, RunDir]) -> None:
    file, _ = run
    words = ["ingest.chunk_tokens=32,64", "retrieval.top_k=1,2,3", "run.seed=4"]
    words.append("evaluate.origins=[imported, reviewed]")  # one value
    found = sweep.combinations(file, words)
    assert found[0].config.evaluate.origins == ["imported", "reviewed"]
    assert len(found) == 6 and all(one.config.run.seed == 4 for one in found)
    assert found[1].values == {"ingest.chunk_tokens": "32", "retrieval.top_k": "2"}
    assert (found[-1].config.ingest.chunk_tokens, found[-1].config.retrieval.top_k) == (64, 3)


@pytest.mark.parametrize(
    "word",
    ["train_retriever.epochs=1,2", "ingest.test_share=0.1,0.2", "run.seed=1,2", "retrieval.top_k"],
)
def test_what_cannot_differ_without_training_is_refused(
    run: tuple[Path, RunDir], word: str
) -> None:
    with pytest.raises(ConfigError, match=r"cannot be swept|section\.key"):
        sweep.combinations(run[0], [word])


@pytest.mark.parametrize("words", [[], ["retrieval.top_k=3"]])
def test_a_single_combination_is_nothing_to_compare(
    run: tuple[Path, RunDir], words: list[str]
) -> None:
    with pytest.raises(ConfigError, match="several values, such as"):
        sweep.combinations(run[0], words)


def test_all_combinations_are_measured_on_the_same_questions_of_no_test_document(
    run: tuple[Path, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run_dir = run
    built: list[str] = []
    real = sweep.run_stage

    def noting(stage: str, config: Config) -> dict[str, Any]:
        done = real(stage, config)
        built.append(stage) if not done.get("skipped") else None
        return done

    monkeypatch.setattr(sweep, "run_stage", noting)
    found = sweep.combinations(file, ["ingest.chunk_tokens=64,32", "retrieval.top_k=1,3"])
    pairs = sweep.questions_of(Session(found[0].config, run_dir), 40)
    measured = sweep.sweep(found, run_dir, pairs)
    assert built == ["ingest", "index"] * 2, "top_k needs no index of its own"
    split_of = {pair.id: pair.split for pair in read_jsonl(run_dir.qa, QAPair)}
    assert pairs and all(split_of[pair.id] != "test" for pair in pairs)
    tokens = [one.scores[sweep.TOKENS].mean() for one in measured]
    assert tokens[0] < tokens[1] and tokens[2] < tokens[3] and tokens[2] < tokens[0]
    recalls = [one.scores["recall@5"] for one in measured]
    assert (recalls[0] == recalls[1]).all() and len(recalls[0]) == len(pairs)
    text = sweep.table(measured, pairs)
    assert text.count("\n") == 5 and text.count("*") == 1


def test_answers_are_asked_once_for_equal_prompts_and_the_best_is_written_as_a_file(
    run: tuple[Path, RunDir], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, run_dir = run
    asked: list[str] = []

    class Model:
        name, window = "reads", 64

        def chat(self, requests: Any) -> list[Reply]:
            requests = list(requests)
            asked.extend(request.messages[-1]["content"] for request in requests)
            return [Reply(r.id, "part 3", "stop", 1, 1, 0.1) for r in requests]

        def __enter__(self) -> Model:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(Session, "language_model", lambda *_, **__: Model())
    words = ["retrieval.mode=hybrid,dense", "retrieval.top_k=2,2", "evaluate.answers=true"]
    found = sweep.combinations(file, words)
    pairs = sweep.questions_of(Session(found[0].config, run_dir), 10)
    measured = sweep.sweep(found, run_dir, pairs)
    assert len(asked) == len(set(asked)) < 40
    assert "F1" in sweep.table(measured, pairs)
    best = found[sweep.best_of(measured)]
    sweep.write_best(file, best, tmp_path / "best.yaml")
    written = load_config(tmp_path / "best.yaml")
    assert written.retrieval == best.config.retrieval and written.ingest == best.config.ingest


def test_a_combination_that_the_model_cannot_answer_is_shown_and_never_the_best(
    run: tuple[Path, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run_dir = run

    class Model:
        name, window = "reads one chunk", 64

        def chat(self, requests: Any) -> list[Reply]:
            requests = list(requests)
            lengths = [len(r.messages[-1]["content"]) for r in requests]
            fits = [length <= sorted(lengths)[len(lengths) // 2 - 1] for length in lengths]
            return [
                Reply(r.id, "part 3", "stop", 1, 1, 0.1, None if fit else "too long")
                for r, fit in zip(requests, fits, strict=True)
            ]

        def __enter__(self) -> Model:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(Session, "language_model", lambda *_, **__: Model())
    found = sweep.combinations(file, ["retrieval.top_k=5,1", "evaluate.answers=true"])
    pairs = sweep.questions_of(Session(found[0].config, run_dir), 10)
    measured = sweep.sweep(found, run_dir, pairs)
    assert sweep.best_of(measured) == 1
    assert "no answer" in sweep.table(measured, pairs)


def test_every_language_model_keeps_its_scores_and_an_encoder_is_loaded_once(
    run: tuple[Path, RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run_dir = run
    loaded = []

    class Model:
        name, window = "reads", 64

        def chat(self, requests: Any) -> list[Reply]:
            return [Reply(request.id, "part 3", "stop", 1, 1, 0.1) for request in requests]

        def __enter__(self) -> Model:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def load(config: EncoderConfig) -> Encoder:
        loaded.append(config)
        return load_encoder(config)

    monkeypatch.setattr(Session, "language_model", lambda *_, **__: Model())
    monkeypatch.setattr(sweep, "load_encoder", load)
    words = ["llm.max_model_tokens=2048,4096", "evaluate.answers=true"]
    found = sweep.combinations(file, words)
    pairs = sweep.questions_of(Session(found[0].config, run_dir), 10)
    measured = sweep.sweep(found, run_dir, pairs)
    assert all(not np.isnan(one.scores["f1"]).any() for one in measured)
    assert len(loaded) == 1


def test_a_run_without_questions_says_what_to_run(run: tuple[Path, RunDir]) -> None:
    file, run_dir = run
    run_dir.qa.unlink()
    with pytest.raises(DataError, match="--until generate"):
        sweep.questions_of(Session(load_config(file), run_dir), 10)
