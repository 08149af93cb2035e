"""What stands before each chunk (retrieval.context), measured with the base encoder.

    python benchmarks/context.py CONFIG [section.key=value ...]

Asks the imported train and dev questions of CONFIG: no setting is chosen on test questions. Prints
recall@1, recall@5 and MRR@10 of each ranking, and the gain over no context with its 95 % interval
(bootstrap over documents). Writes benchmarks/results/context-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
from hardware import processor, write_result

from rag_ft.config_loader import load_config
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.evaluation.statistics import bootstrap
from rag_ft.pipeline import run_stage
from rag_ft.relevance import gold_by_pair
from rag_ft.schema import ChunkContext, QAPair
from rag_ft.session import Session
from rag_ft.storage import read_jsonl

MODES = ("dense", "lexical", "hybrid")
SHOWN = ("recall@1", "recall@5", "mrr@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args()
    scores: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    documents: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for context in get_args(ChunkContext):
            words = [f"run.dir={folder}/{context}", f"retrieval.context={context}"]
            words += ["generate.pairs_per_chunk=0", *args.settings]
            session = Session.of(load_config(args.config, words))
            for stage in ("ingest", "index", "generate"):
                run_stage(stage, session.config)
            pairs = [p for p in read_jsonl(session.run_dir.qa, QAPair) if p.split != "test"]
            gold = gold_by_pair(pairs, session.chunks)
            pairs = [pair for pair in pairs if gold.get(pair.id)]
            documents |= {pair.id: pair.document_id or "" for pair in pairs}
            retriever = session.plain_retriever()
            found = retriever.search_modes([pair.question for pair in pairs], 10, MODES)
            for mode, hits in found.items():
                scores[context, mode] = {
                    pair.id: score_ranking([chunk for chunk, _ in best], gold[pair.id])
                    for pair, best in zip(pairs, hits, strict=True)
                }
    write_result("context", processor(), table(scores, documents))


def table(
    scores: dict[tuple[str, str], dict[str, dict[str, float]]], documents: dict[str, str]
) -> dict[str, Any]:
    """Prints and returns the means, and the gains over no context."""
    rows = []
    for (context, mode), by_pair in scores.items():
        row: dict[str, Any] = {"context": context, "ranking": mode, "questions": len(by_pair)}
        for metric in SHOWN:
            values = {pair: own[metric] for pair, own in by_pair.items()}
            row[metric] = round(100 * float(np.mean(list(values.values()))), 1)
            plain = scores["none", mode]
            gains = {pair: values[pair] - plain[pair][metric] for pair in values}
            row[f"{metric} gain"] = interval(gains, documents)
        rows.append(row)
        print(context.ljust(9), mode.ljust(8), *(f"{m} {row[m]} {row[f'{m} gain']}" for m in SHOWN))
    return {"rows": rows}


def interval(gains: dict[str, float], documents: dict[str, str]) -> list[float]:
    """The mean gain and its 95 % interval in points, by a bootstrap over documents."""
    values = np.array(list(gains.values()))[:, None]
    _, owners = np.unique([documents[pair] for pair in gains], return_inverse=True)
    [change] = bootstrap(values, np.ones_like(values), owners)
    return [round(100 * share, 1) for share in (change.value, *(change.ci95 or ()))]


if __name__ == "__main__":
    main()
