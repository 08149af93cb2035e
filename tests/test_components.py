"""components: systems, rankings, comparisons and verdict follow from one table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rag_ft.evaluation import components
from rag_ft.evaluation.components import COMPONENTS, set_name, set_words
from rag_ft.evaluation.systems import NAMES, RETRIEVERS, SYSTEMS, distinct


def test_the_names_that_others_read_stay() -> None:
    assert NAMES == (
        "closed_book",
        "closed_book_tuned",
        "base",
        "tuned_generator",
        "tuned_retriever",
        "tuned",
        "oracle_base",
        "oracle_tuned",
        "withheld_base",
        "withheld_tuned",
    )
    rankings = ["lexical", "dense_base", "dense_tuned", "mixture_base", "mixture_tuned"]
    assert list(RETRIEVERS) == ["base", "tuned", *rankings]


def test_a_system_reads_the_ranking_of_its_own_components() -> None:
    read = {system.name: (system.generator, system.ranking) for system in SYSTEMS}
    assert read["tuned_generator"] == ("tuned", "base")
    assert read["tuned_retriever"] == ("base", "tuned")
    assert read["tuned"] == ("tuned", "tuned")
    assert read["oracle_tuned"] == read["withheld_tuned"] == ("tuned", "base")


def test_without_a_tuned_component_the_systems_that_need_it_repeat_others() -> None:
    left = [system.name for system in distinct(SYSTEMS, {"retriever"})]
    assert left == ["closed_book", "base", "tuned_retriever", "oracle_base", "withheld_base"]
    assert [system.name for system in distinct(SYSTEMS, COMPONENTS)] == list(NAMES)


def test_sets_of_components_have_names_and_words() -> None:
    assert (set_name({"generator"}), set_name({"retriever", "generator"})) == ("generator", "both")
    assert set_words({"retriever"}) == "the tuned retriever"
    assert set_words(COMPONENTS) == "both components tuned"


THIRD = """
import sys, types
source = open(sys.argv[1], encoding="utf-8").read()
row = 'Component("reranker", "train_reranker", None, ranks=True),'
last = 'Component("retriever", "train_retriever", "encoder", ranks=True),'
assert last in source
import rag_ft.evaluation
made = types.ModuleType("rag_ft.evaluation.components")
sys.modules[made.__name__] = rag_ft.evaluation.components = made
exec(compile(source.replace(last, last + row), sys.argv[1], "exec"), made.__dict__)
from rag_ft.evaluation.systems import NAMES, SERVED
from rag_ft.evaluation.comparisons import DECIDING
from rag_ft.evaluation.verdict import verdict
assert {"tuned_reranker", "tuned"} < set(NAMES), NAMES
assert list(SERVED) == ["base", "tuned_retriever", "tuned_reranker", "tuned"]
assert ("base", "tuned_reranker", "recall@5") in DECIDING
row = {"a": "base", "b": "tuned_reranker", "metric": "f1", "delta": 0.1, "ci95": [0.05, 0.15],
       "p": 0.001, "p_holm": 0.001, "n": 300, "num_documents": 40, "family": "decides",
       "more_questions": 0}
found = verdict([row, {**row, "b": "tuned", "delta": 0.2}], {"reranker", "retriever"})
assert found["sentence"].startswith("Ship the tuned retriever and reranker: +20.0 F1"), found
assert "the tuned reranker alone brings +10.0 F1" in found["sentence"], found
"""


def test_a_third_component_is_a_row_of_the_table() -> None:
    """Fresh process: the tables are made when they are imported."""
    path = Path(components.__file__)
    command = [sys.executable, "-c", THIRD, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(path.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
