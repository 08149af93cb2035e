"""components: systems, rankings, comparisons and verdict follow from one table."""

from __future__ import annotations

from rag_ft.evaluation.comparisons import DECIDING
from rag_ft.evaluation.components import COMPONENTS, named_set, set_name, set_words
from rag_ft.evaluation.systems import (
    NAMES,
    RETRIEVERS,
    SYSTEMS,
    distinct,
    distinct_rankings,
    ranking_name,
    shown_systems,
)
from rag_ft.evaluation.verdict import verdict


def test_the_names_that_others_read_stay() -> None:
    assert NAMES == (
        "closed_book",
        "closed_book_tuned",
        "base",
        "tuned_generator",
        "tuned_retriever",
        "tuned_reranker",
        "tuned",
        "oracle_base",
        "oracle_tuned",
        "withheld_base",
        "withheld_tuned",
    )
    rankings = ["lexical", "dense_base", "dense_tuned", "mixture_base", "mixture_tuned"]
    served = ["base", "tuned", "tuned_retriever", "tuned_reranker"]
    assert list(RETRIEVERS) == [*served, *rankings]


def test_a_system_reads_the_ranking_of_its_own_components() -> None:
    read = {system.name: (system.generator, system.ranking) for system in SYSTEMS}
    assert read["tuned_generator"] == ("tuned", "base")
    assert read["tuned_retriever"] == ("base", "tuned_retriever")
    assert read["tuned_reranker"] == ("base", "tuned_reranker")
    assert read["tuned"] == ("tuned", "tuned")
    assert read["oracle_tuned"] == read["withheld_tuned"] == ("tuned", "base")


def test_without_a_tuned_component_the_systems_that_need_it_repeat_others() -> None:
    left = [system.name for system in distinct(SYSTEMS, {"retriever"})]
    assert left == ["closed_book", "base", "tuned_retriever", "oracle_base", "withheld_base"]
    assert [system.name for system in distinct(SYSTEMS, COMPONENTS)] == list(NAMES)


def test_without_a_tuned_reranker_there_is_no_row_for_it() -> None:
    usual = {"generator", "retriever"}
    names = [system.name for system in shown_systems(usual)]
    assert names == [name for name in NAMES if name != "tuned_reranker"]
    assert [system.name for system in shown_systems(COMPONENTS)] == list(NAMES)
    left = ["base", "tuned", "lexical", "dense_base", "dense_tuned"]
    assert distinct_rankings(usual) == [*left, "mixture_base", "mixture_tuned"]
    assert distinct_rankings({"reranker"}) == [*left[:-1], "mixture_base"]
    assert {"tuned_retriever", "tuned_reranker"} < set(distinct_rankings(COMPONENTS))


def test_a_ranking_that_repeats_another_one_has_its_name() -> None:
    retriever, reranker = frozenset({"retriever"}), frozenset({"reranker"})
    assert ranking_name(retriever, {"retriever"}) == "tuned"
    assert ranking_name(reranker, {"retriever"}) == "base"
    assert ranking_name(retriever, COMPONENTS) == "tuned_retriever"
    assert ranking_name(retriever | reranker, COMPONENTS) == "tuned"


def test_sets_of_components_have_names_and_words() -> None:
    usual = {"retriever", "generator"}
    assert (set_name({"generator"}), set_name(usual), set_name(COMPONENTS)) == (
        "generator",
        "both",
        "all",
    )
    assert set_words({"retriever"}) == "the tuned retriever"
    assert set_words(usual) == "both components tuned"
    assert set_words({"reranker", "retriever"}) == "the tuned retriever and reranker"
    for names in ({"generator"}, usual, {"retriever", "reranker"}, set(COMPONENTS)):
        assert named_set(set_name(names)) == names
    assert named_set("none") == named_set("undecided") == frozenset()


def test_the_reranker_has_deciding_differences_and_a_verdict() -> None:
    assert ("base", "tuned_reranker", "recall@5") in DECIDING
    row = {
        **{"a": "base", "b": "tuned_reranker", "metric": "f1", "delta": 0.1, "ci95": [0.05, 0.15]},
        **{"p": 0.001, "p_holm": 0.001, "n": 300, "num_documents": 40, "family": "decides"},
        "more_questions": 0,
    }
    found = verdict([row, {**row, "b": "tuned", "delta": 0.2}], {"reranker", "retriever"})
    assert found["ship"] == "retriever_reranker"
    assert found["sentence"].startswith("Ship the tuned retriever and reranker: +20.0 F1"), found
    assert "the tuned reranker alone brings +10.0 F1" in found["sentence"], found
    everything = verdict([{**row, "b": "tuned", "delta": 0.2}], COMPONENTS)
    assert everything["ship"] == "all" and everything["sentence"].startswith("Ship all: +20.0 F1")
