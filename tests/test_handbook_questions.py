"""The demo's questions that people wrote: those to train on have nothing to do with the tested."""

from __future__ import annotations

from pathlib import Path

from rag_ft.config_loader import load_config
from rag_ft.generation.import_questions import import_questions
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, QAPair
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_jsonl
from rag_ft.training.leakage import check_no_leakage, without_test_questions

ROOT = Path(__file__).parent.parent
TRAIN_FILES = ("data/handbook/questions_train.jsonl", "benchmarks/handbook_train_more.jsonl")
TEST_FILES = ("data/handbook/questions.jsonl", "benchmarks/handbook_unanswerable.jsonl")


def test_train_questions_of_the_handbook_have_evidence_and_nothing_of_the_test(
    tmp_path: Path,
) -> None:
    config = load_config(ROOT / "configs/demo.yaml", [f"run.dir={tmp_path / 'run'}"])
    run_dir = RunDir(config.run_path)
    run_dir.path.mkdir(parents=True)
    ingest.run(Session(config, run_dir))
    documents = list(read_jsonl(run_dir.documents, Document))

    def imported(*names: str) -> list[QAPair]:
        chunks = read_jsonl(run_dir.chunks, Chunk)
        found = import_questions([ROOT / name for name in names], documents, chunks, "No.")
        assert found.rejects == []
        return found.pairs

    asked, tested = imported(*TRAIN_FILES), imported(*TEST_FILES)
    assert {pair.split for pair in tested} == {"test"}
    assert {pair.split for pair in asked} == {"train", "dev"}
    unanswerable = [pair for pair in asked if not pair.answerable]
    assert len(asked) >= 200 and len(unanswerable) >= 50
    assert all(pair.evidence and pair.chunk_id for pair in asked if pair.answerable)
    for pair in asked:
        assert pair.evidence is None or any(a in pair.evidence.text for a in pair.answers)

    kept, rejects = without_test_questions(asked, tested)
    assert len(kept) == len(asked) and rejects == []
    check_no_leakage(asked, tested, documents)
    assert len({pair.question.casefold() for pair in asked}) == len(asked)
