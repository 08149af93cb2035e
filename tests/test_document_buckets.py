"""ingest in buckets: the same documents, chunks and rejects as without."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from rag_ft.config import EngineConfig
from rag_ft.config_loader import make_config
from rag_ft.documents import buckets
from rag_ft.engine.shards import ShardDone
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import ingest


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Small files, a large one, lines with blanks and faults between them, copies, and files that
    cannot be read."""
    folder = tmp_path / "docs"
    (folder / "more").mkdir(parents=True)
    for n in range(40):
        (folder / "more" / f"{n:02}.md").write_text(f"The mill {n % 37} stands here.")
    (folder / "large.txt").write_text("A sentence about rivers and boats. " * 4000)
    (folder / "empty.md").write_text("")
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 not really")
    rows = [{"id": f"row{n}", "text": f"Tower {n} is {n} metres high.", "n": n} for n in range(200)]
    lines = [json.dumps(row) for row in rows]
    lines[7:7] = ["", "no json", '{"id": "x"}']
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "questions.jsonl").write_text('{"question": "Who?", "answers": ["I"]}\n')
    with contextlib.suppress(OSError):
        (folder / b"n\xff.md".decode("utf-8", "surrogateescape")).write_text("No Unicode name.")
    return folder


def run(sources: Path, encoder: Path, folder: Path, **engine: Any) -> dict[str, Any]:
    config = make_config(
        {
            "run": {"dir": folder},
            "ingest": {"sources": [sources], "advanced": {"min_kept_share": 0.1}},
            "encoder": {"model": str(encoder)},
        }
    )
    config = config.model_copy(update={"engine": EngineConfig(**engine)})
    return ingest.run(Session(config, RunDir(config.run_path)))


def results(folder: Path) -> list[bytes]:
    run_dir = RunDir(folder)
    paths = [run_dir.documents, run_dir.chunks, run_dir.rejects("ingest"), run_dir.signatures]
    return [path.read_bytes() for path in paths]


@pytest.mark.slow
def test_buckets_and_shards_give_what_one_pass_gives(
    sources: Path, tiny_encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "FILES_PER_BUCKET", 5)
    counts = run(sources, tiny_encoder_dir, tmp_path / "whole")
    assert counts["num_documents"] > 200 and counts["num_rejects"] > 4
    assert run(sources, tiny_encoder_dir, tmp_path / "buckets", num_workers=1) == counts
    assert results(tmp_path / "buckets") == results(tmp_path / "whole")
    assert not (tmp_path / "buckets" / "checkpoints" / "ingest").exists()
    for place in (1, 0):
        with pytest.raises(ShardDone):
            shard: Any = {"shard": f"{place}/2"}
            run(sources, tiny_encoder_dir, tmp_path / "shards", advanced=shard)
        names = {path.name for path in (tmp_path / "shards").rglob("done/*")}
        assert any(int(name[:6]) % 2 == place for name in names)
    assert len(names) > 5 and not (tmp_path / "shards" / "chunks.jsonl").exists()
    # All is read: joining them reads no file.
    monkeypatch.setattr(buckets, "prepare_tasks", lambda *_: pytest.fail("read again"))
    assert run(sources, tiny_encoder_dir, tmp_path / "shards", num_workers=2) == counts
    assert results(tmp_path / "shards") == results(tmp_path / "whole")
