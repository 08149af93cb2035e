"""The trainer of the encoder: its precision, and which checkpoints count."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rag_ft.storage import write_text
from rag_ft.training import checkpoints
from rag_ft.training.retriever import trainer


def test_the_encoders_dtype_decides_the_precision_whatever_the_launcher_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = trainer.EncoderTrainer.arguments
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    made = trainer.training_arguments(trainer.Schedule(4, 1e-3), 8, tmp_path, kind)
    assert made.mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    schedule = trainer.Schedule(4, 1e-3, bfloat16=True)
    made = trainer.training_arguments(schedule, 8, tmp_path, kind)
    assert made.mixed_precision == "bf16"


def test_a_checkpoint_is_complete_when_every_process_has_written_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, waited = tmp_path / "checkpoint-3" / checkpoints.FINISHED, list[bool]()
    monkeypatch.setattr(
        checkpoints.PartialState, "wait_for_everyone", lambda _: waited.append(mark.exists())
    )
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    checkpoints.MarkComplete().on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert waited == [False] and mark.exists()


def test_a_resume_starts_at_the_newest_whole_checkpoint_and_removes_cut_off_ones(
    tmp_path: Path,
) -> None:
    assert checkpoints.last_complete(tmp_path) is None
    for number in (9, 10, 11):
        write_text(tmp_path / f"checkpoint-{number}" / "weights", "")
    for number in (9, 10):
        write_text(tmp_path / f"checkpoint-{number}" / checkpoints.FINISHED, "")
    assert checkpoints.last_complete(tmp_path) == str(tmp_path / "checkpoint-10")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
