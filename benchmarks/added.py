"""What eight documents that are added to a run change in its answers to the other questions.

    python benchmarks/added.py RUN FOLDER

RUN is a finished run of configs/demo.yaml. FOLDER gets two copies of it: one in which eight test
documents are forgotten, those that `improve.py cycle` adds later, and one with them. Both have the
same tuned components, so nothing of a difference comes from training twice. Asked are the run's
test questions about the other documents, the same in other words (handbook_paraphrases.jsonl), and
more that have no answer (handbook_unanswerable.jsonl). How far the questions about the eight are
from the others in RUN is said too. Run it again to continue where it was killed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from hardware import processor, write_result
from improve import ROOT, chosen, in_points, levels, rag_ft
from review import answer_test_questions, copy_run, gain, session_of

from rag_ft.evaluation.comparisons import subset
from rag_ft.generation.import_questions import import_questions
from rag_ft.hardware import choose_device, choose_dtype
from rag_ft.report.run_comparison import load_table
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document, QAPair
from rag_ft.storage import read_jsonl, read_rows, write_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found = measured(RunDir(args.run), args.folder.resolve())
    print(json.dumps(found, indent=1))
    write_result("improve-added", processor(), found)


def measured(run_dir: RunDir, folder: Path) -> dict[str, Any]:
    """The change of F1 on the run's own questions, and on these and the further ones."""
    tests = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.split == "test"]
    later = chosen({pair.document_id for pair in tests if pair.document_id is not None})
    without, whole = RunDir(folder / "without"), RunDir(folder / "with")
    own = [pair for pair in tests if pair.document_id not in later]
    copy_run(run_dir, without, (), lambda copied: forget(copied, later))
    copy_run(run_dir, whole, (), lambda copied: forget(copied, ()))
    for place in (without, whole):
        session = session_of(place)
        further = further_questions(folder, {pair.document_id for pair in own})
        documents = read_jsonl(place.documents, Document)
        abstain = session.config.llm.advanced.abstain
        imported = import_questions([further], documents, session.chunks, abstain)
        write_jsonl(place.qa, [*own, *imported.pairs])
        if not place.scores.exists():
            answer_test_questions(session)
    dtype = choose_dtype(session.config.run.dtype, choose_device())
    found: dict[str, Any] = {"dtype": dtype, "later": later}
    found |= levels(run_dir, "run", set(later))
    before, after = load_table(without), load_table(whole)
    is_own = np.isin([pair.id for pair in after.pairs], [pair.id for pair in own])
    for name, rows in (("own", is_own), ("own and further", np.ones_like(is_own))):
        change = gain([subset(before, rows)], [subset(after, rows)])
        found[f"with - without, {name} questions"] = in_points(change)
    return found


def forget(run_dir: RunDir, names: Iterable[str]) -> None:
    """Removes documents and the scores, which are made anew."""
    for name in names:
        rag_ft("forget", str(run_dir.path), name, "--yes")
    run_dir.scores.unlink()


def further_questions(folder: Path, about: set[str | None]) -> Path:
    """A file of further questions about these documents of the handbook."""
    known = {row["id"]: row for row in read_rows(ROOT / "data" / "handbook" / "questions.jsonl")}
    benchmarks = ROOT / "benchmarks"
    rows = [*read_rows(benchmarks / "handbook_unanswerable.jsonl")]
    for row in read_rows(benchmarks / "handbook_paraphrases.jsonl"):
        if row["id"] in known:  # the others are train questions in other words
            rows.append({**known[row["id"]], **row, "id": f"{row['id']}-reworded"})
    path = folder / "further.jsonl"
    write_jsonl(path, (row for row in rows if row["document_id"] in about))
    return path


if __name__ == "__main__":
    main()
