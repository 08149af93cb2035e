"""The language model's scores of a training as shards: shard 0 trains, all of them score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from retriever_run import LSR_ALONE, documents

from rag_ft.cli import main
from rag_ft.engine import language_model
from rag_ft.run_dir import RunDir


def made_config(folder: Path, name: str, lm: Path, encoder: Path) -> Path:
    """Writes a configuration whose retriever learns from scores, and what it reads."""
    rows = documents()
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        {
            "question": f"which box has {row['text'].split()[-1].rstrip('.')}",
            "answers": [row["text"].split()[4]],
            "document_id": row["id"],
        }
        for row in rows
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    learning = {key: value for key, value in LSR_ALONE.items() if key != "epochs"}
    values = {
        "run": {"dtype": "float32", "dir": str(folder / name)},
        "ingest": {
            "sources": [str(folder / "documents.jsonl")],
            "advanced": {"near_duplicate_similarity": 1.0},
        },
        "encoder": {"model": str(encoder)},
        "llm": {"model": str(lm), "prompts": "compact"},
        "generate": {"pairs_per_chunk": 0, "questions": [str(folder / "questions.jsonl")]},
        "train_retriever": {
            "epochs": 0,
            "advanced": {**learning, "lsr_steps": 3, "lsr_top_k": 4, "gate": False},
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    for stage in ("ingest", "index", "generate"):
        assert main([stage, str(path)]) == 0
    return path


@pytest.mark.slow
def test_the_scores_of_a_training_are_the_same_as_shards(
    tmp_path: Path,
    tiny_lm_dir: Path,
    tiny_encoder_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(language_model, "ROWS_PER_BUCKET", {"transformers": 5})
    whole = made_config(tmp_path, "whole", tiny_lm_dir, tiny_encoder_dir)
    assert main(["train_retriever", str(whole), "engine.num_workers=1"]) == 0

    config = str(made_config(tmp_path, "shards", tiny_lm_dir, tiny_encoder_dir))
    run_dir = RunDir(tmp_path / "shards")
    capsys.readouterr()
    assert main(["train_retriever", config, "--shard", "1/3"]) != 0
    assert "run --shard 0 first" in capsys.readouterr().err
    for place, told in enumerate(("of other shards", "of other shards", "of all shards are done")):
        assert main(["train_retriever", config, "--shard", f"{place}/3"]) == 0
        assert told in capsys.readouterr().err
    assert not run_dir.lm_scores.exists() or not run_dir.lm_scores.read_bytes()

    def opened(*_: object) -> None:
        pytest.fail("all answers have their scores")

    monkeypatch.setattr(language_model, "open_language_model", opened)
    assert main(["merge-shards", config]) == 0
    assert run_dir.done("train_retriever").exists()
    for path in (run_dir.lm_scores, run_dir.training_log("train_retriever"), run_dir.fusion):
        theirs = RunDir(tmp_path / "whole").path / path.relative_to(run_dir.path)
        assert path.read_bytes() == theirs.read_bytes() and path.stat().st_size
    assert main(["train_retriever", config, "--shard", "1/3"]) == 0
    assert "up to date" in capsys.readouterr().err
