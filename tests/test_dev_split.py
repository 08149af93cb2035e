"""The split of train pairs into train and dev: whole groups of near-duplicates are held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from generator_run import with_copies

from rag_ft.chunk_store import ChunkStore
from rag_ft.schema import QAPair
from rag_ft.storage import read_jsonl, write_jsonl
from rag_ft.training.dev_split import held_out
from rag_ft.training.retriever.dataset import select_pairs


@pytest.mark.parametrize("asked", ["all", "no copy", "none"])
def test_near_duplicates_are_held_out_together(tmp_path: Path, asked: str) -> None:
    run_dir = with_copies(tmp_path)
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if "copy" not in p.id or asked == "all"]
    write_jsonl(run_dir.qa, pairs if asked != "none" else [])
    found = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    trained, held = (
        {c.document_id for c in chunks.values()} for chunks in (found.chunks, found.dev_chunks)
    )
    assert len(held) == 6 and len(trained) == 34, "15 % of 40"
    assert not {name.removesuffix("-copy") for name in trained} & {
        name.removesuffix("-copy") for name in held
    }


def test_one_large_group_of_near_duplicates_leaves_something_to_train_on() -> None:
    group_of = {f"d{n}": "d0" if n < 9 else f"d{n}" for n in range(12)}
    assert held_out(group_of, group_of, 0.1) in ({"d9"}, {"d10"}, {"d11"})
    assert held_out(["d0", "d1"], group_of, 0.5) == set(), "all of it is one group"
    pairs = {f"d{n}{copy}": f"d{n}" for n in range(5) for copy in ("", "-copy")}
    assert len(held_out(pairs, pairs, 0.1)) == 2, "a whole group, where none is small enough"
