"""`rag-ft explain`: why each chunk stands where it stands."""

from __future__ import annotations

import pytest
from retriever_run import MakeRun, prepare

from rag_ft.commands.explain import explain
from rag_ft.errors import DataError
from rag_ft.session import Session
from rag_ft.stages import train_retriever


def test_every_served_chunk_has_rank_and_score_in_every_ranking(make_run: MakeRun) -> None:
    config, run_dir = prepare(make_run, epochs=1)
    train_retriever.run(Session(config, run_dir))
    question = "who has the blue oar"
    text = explain(config, question)
    retriever = Session(config, run_dir).retriever({"retriever"})
    base, tuned = text.split("\n\n")[:2]
    assert "base encoder, BM25 weighs 0.5" in base and "tuned encoder" in tuned
    served = retriever.search([question], config.retrieval.top_k)[0]
    lines = [line for line in tuned.splitlines() if "#" in line.split()[0]]
    assert [line.split()[0] for line in lines] == [chunk_id for chunk_id, _ in served]
    # The labels stand over their columns, and no column is empty.
    head = tuned.splitlines()[1]
    assert head.split() == ["chunk", "served", "dense", "BM25", "mixture"]
    assert all(line[head.index("served") - 1] == " " for line in lines)
    assert all(line[head.index("served")] != " " for line in lines)
    dense = {i: n for n, (i, _) in enumerate(retriever.search([question], 24, "dense")[0], 1)}
    for line, (chunk_id, score) in zip(lines, served, strict=True):
        assert f"({score:.3f})" in line.split("  ", 2)[2]
        assert line.split()[3] == str(dense[chunk_id])


def test_an_empty_question_is_an_error(make_run: MakeRun) -> None:
    config, _ = make_run([])
    with pytest.raises(DataError, match="empty"):
        explain(config, "  ")


def test_a_question_that_is_no_utf_8_is_answered(make_run: MakeRun) -> None:
    config, _ = prepare(make_run, epochs=1)
    assert "d3#0" in explain(config, "box 3 \udcff lamp")
