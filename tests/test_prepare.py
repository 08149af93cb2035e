"""Files become documents with chunks, whatever happens to a single one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rag_ft.config_loader import make_config
from rag_ft.documents.prepare import Prepared, limits_of, prepare_all, prepare_settings
from rag_ft.documents.source_files import find_files
from rag_ft.model_hub import resolve


def outcomes(folder: Path, encoder: Path, **settings: Any) -> dict[str, str]:
    """name of a document or reject -> the texts of its chunks, or the reason."""
    config = make_config({"ingest": {"sources": [folder], **settings}})
    prepared = prepare_all(
        find_files(config.ingest.sources),
        prepare_settings(config.ingest, resolve(str(encoder), "encoder")),
        limits_of(config.ingest),
    )
    found = {}
    for one in prepared:
        if isinstance(one, Prepared):
            text = one.document.text
            found[one.document.id] = " / ".join(text[c.start : c.end] for c in one.chunks)
        else:
            found[Path(one.item).name] = one.reason
    return found


def test_a_file_that_never_ends_costs_one_line(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    (tmp_path / "a.txt").write_text("The hall opens at nine.")
    (tmp_path / "b.pdf").write_text("slow")
    (tmp_path / "c.txt").write_text("It closes at six.")
    found = outcomes(
        tmp_path,
        tiny_encoder_dir,
        advanced={"parser_command": ["sh", "-c", "sleep 60"], "max_file_seconds": 1},
    )
    assert found == {
        "a.txt": "The hall opens at nine.",
        "b.pdf": "took too long",
        "c.txt": "It closes at six.",
    }


def test_lines_are_read_many_at_once_and_keep_their_order(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    rows = [{"id": f"d{n}", "text": f"Hall {n} opens at nine."} for n in range(300)]
    lines = [json.dumps(row) for row in rows]
    lines[7] = "no JSON"
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    found = outcomes(tmp_path, tiny_encoder_dir)
    names = [row["id"] for row in rows]
    names[7] = "a.jsonl line 8"
    assert list(found) == names and found["a.jsonl line 8"] == "not JSON"
    assert found["d299"] == "Hall 299 opens at nine."


def test_one_or_two_workers_give_the_same(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    for n in range(12):
        (tmp_path / f"{n}.md").write_text(f"# Hall {n}\n\n" + "It opens at nine. " * 40)
    one = outcomes(tmp_path, tiny_encoder_dir, advanced={"workers": 1})
    assert one == outcomes(tmp_path, tiny_encoder_dir, advanced={"workers": 2})
