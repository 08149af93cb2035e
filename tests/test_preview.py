"""`rag-ft preview` shows what the training sees."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from generator_run import Make, prepare

from rag_ft.commands.preview import preview, preview_documents
from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.storage import read_jsonl, write_jsonl


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_a_preview_marks_what_is_learned(prepared: Make) -> None:
    config, run_dir = prepared()
    text = preview(Session(config, run_dir), n=4)
    learned = [line for line in text.splitlines() if line.startswith("> ")]
    assert len(learned) == 4 and all(line.endswith("<|im_end|>") for line in learned)
    assert text.count("| Question: ") == 4 and not any("Question" in line for line in learned)
    assert not run_dir.generator.exists()


def test_a_preview_shows_what_the_training_keeps(prepared: Make) -> None:
    config, run_dir = prepared(settings={"gold_share": 0.5})
    pairs = sorted(read_jsonl(run_dir.qa, QAPair), key=lambda p: p.answerable)
    write_jsonl(run_dir.qa, pairs)  # the first pairs alone would be far too many to abstain from
    assert "left out" not in preview(Session(config, run_dir), n=3)
    with pytest.raises(ConfigError, match="--num 0 shows nothing: give 1 or more"):
        preview(Session(config, run_dir), n=0)


def test_documents_are_shown_as_blocks_and_chunks(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    (tmp_path / "rules.md").write_text("# Rules\n\nThe hall opens at nine.\n")
    (tmp_path / "other.txt").write_text("Another text.")
    config = make_config(
        {"ingest": {"sources": [tmp_path]}, "encoder": {"model": str(tiny_encoder_dir)}}
    )
    lines = preview_documents(config.ingest, config.encoder, "rules").splitlines()
    assert lines[:3] == [
        "# rules.md: Rules",
        "| (heading 1) Rules",
        "| (paragraph) The hall opens at nine.",
    ]
    assert lines[3].startswith("> chunk 0: ") and lines[3].endswith("tokens, Rules")
    with pytest.raises(ConfigError, match=r"no file of ingest\.sources has 'nothing' in its path"):
        preview_documents(config.ingest, config.encoder, "nothing")
