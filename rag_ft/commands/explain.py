"""Why each chunk stands where it stands for one question: its score and rank in every ranking, base
and tuned."""

from __future__ import annotations

import argparse

from rag_ft.bundle.manifest import has_base
from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.evaluation.components import RANKING, in_order
from rag_ft.rag import checked_question
from rag_ft.report.rendering import aligned
from rag_ft.session import Session
from rag_ft.terminal import say
from rag_ft.text import excerpt

COLUMNS = {
    "served": "served",
    "dense": "dense",
    "lexical": "BM25",
    "hybrid": "mixture",
    "reranker": "reranker",
}


def explain(config: Config, question: str) -> str:
    """For each chunk that the base or the tuned retriever shows, its rank and score in every
    ranking, as text for a terminal.

    Raises:
        DataError: the question is empty, or the run has no index.
        ConfigError: the index does not fit the configuration.
    """
    question = checked_question(question)
    session = Session.of(config)
    lines: list[str] = []
    there = in_order(session.tuned_components & RANKING)
    # The base first, which a bundle can be without.
    systems: list[list[str]] = [[], there] if there else [[]]
    for tuned in systems if has_base(session.run_dir) else systems[-1:]:
        retriever = session.retriever(tuned)
        fusion, mode = retriever.fusion, config.retrieval.mode
        how = f"mode {mode}"
        if mode == "hybrid":
            how = f"BM25 weighs {fusion.lexical_weight:g}"
            how += ", ordered by the feature ranker" if fusion.ranker else ""
        if retriever.reranker:
            which = "tuned reranker" if "reranker" in tuned else "reranker"
            how += f", the {which}'s score weighs {fusion.rerank_weight:g} in the first "
            how += f"{fusion.rerank_depth}"
        encoder = "tuned" if "retriever" in tuned else "base"
        found = retriever.explain(question, config.retrieval.num_shown)
        # A ranking that has none of the chunks, such as a reranker's without one, needs no column.
        columns = [name for name in COLUMNS if any(name in ranks for ranks in found.values())]
        rows = [["chunk", *(COLUMNS[name] for name in columns)]]
        for chunk_id, ranks in found.items():
            cells = (f"{ranks[n][0]} ({ranks[n][1]:.3f})" if n in ranks else "-" for n in columns)
            rows.append([chunk_id, *cells])
        head, *table = aligned(rows)
        lines += [f"{encoder} encoder, {how}", f"  {head}"]
        for chunk_id, row in zip(found, table, strict=True):
            lines += [f"  {row}", f"    {excerpt(session.chunks[chunk_id].text)}"]
        lines.append("")
    lines.append("Each cell: rank (score). -: not among the candidates of that ranking.")
    return "\n".join(lines)


def explain_command(args: argparse.Namespace) -> None:
    """`rag-ft explain`."""
    say(
        explain(
            checked_config_of(args, "ingest", "index", "train_retriever", "train_reranker"),
            args.question,
        )
    )
