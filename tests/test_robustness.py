"""The probes of robustness: what each context holds, and what counts as right."""

from __future__ import annotations

from rag_ft.config import RetrievalConfig
from rag_ft.evaluation.extras.robustness import probes
from rag_ft.evaluation.systems import Ask
from rag_ft.report.robustness import robustness
from rag_ft.schema import Chunk, Evidence, QAPair

NAMES = ("Ada", "Bo", "Cleo", "Dan", "Eli", "Fay", "Gus", "Hal")
CHUNKS = {
    f"d{n}#0": Chunk(
        f"d{n}#0", f"d{n}", "", f"House {n} was built by {NAMES[n]} in 18{n}0.", 0, 40, 9, "test"
    )
    for n in range(8)
}


def pair(number: int, answer: str | None = None) -> QAPair:
    chunk = CHUNKS[f"d{number}#0"]
    answer = answer or NAMES[number]
    start = chunk.text.find(answer)
    evidence = Evidence(answer, start, start + len(answer))
    return QAPair(
        f"q{number}",
        "Who built it?",
        (answer,),
        chunk.id,
        chunk.document_id,
        evidence,
        "factoid",
        "test",
        "imported",
    )


PAIRS = [pair(n) for n in range(4)] + [pair(5, "1850")]
SETTINGS = RetrievalConfig()
GOLD = {p.id: {str(p.chunk_id)} for p in PAIRS}
RANKING = {p.id: list(CHUNKS) for p in PAIRS}


def asks(name: str) -> list[Ask]:
    return [ask for ask in probes(PAIRS, RANKING, GOLD, CHUNKS, SETTINGS, 0) if ask.system == name]


def test_noise_adds_wrong_chunks_beside_the_gold_chunk() -> None:
    for name, num in (
        ("noise0_base", 1),
        ("noise50_base", 2),
        ("noise67_tuned", 3),
        ("noise80_tuned", 5),
    ):
        found = asks(name)
        assert len(found) == len(PAIRS)
        assert all(
            len(ask.chunk_ids) == num and GOLD[ask.pair.id] < {*ask.chunk_ids, ""} for ask in found
        )


def test_noise_never_contains_the_answer() -> None:
    for ask in asks("noise80_base"):
        containing = [i for i in ask.chunk_ids if ask.pair.answer in CHUNKS[i].text]
        assert containing == [ask.pair.chunk_id]


def test_base_and_tuned_are_shown_the_same() -> None:
    for name in ("noise80", "order_middle", "swap"):
        base, tuned = asks(f"{name}_base"), asks(f"{name}_tuned")
        assert [(a.chunk_ids, a.passages) for a in base] == [
            (a.chunk_ids, a.passages) for a in tuned
        ]


def test_the_order_probe_moves_the_gold_chunk_alone() -> None:
    first, middle, last = (asks(f"order_{place}_base") for place in ("first", "middle", "last"))
    for a, b, c in zip(first, middle, last, strict=True):
        assert (a.chunk_ids[0], b.chunk_ids[1], c.chunk_ids[2]) == (a.pair.chunk_id,) * 3
        others = [[i for i in ask.chunk_ids if i != a.pair.chunk_id] for ask in (a, b, c)]
        assert others[0] == others[1] == others[2]


def test_a_swapped_answer_is_of_the_same_sort_and_the_true_one_is_gone() -> None:
    for follows, keeps in zip(asks("swap_base"), asks("swap_memory_base"), strict=True):
        assert follows.passages == keeps.passages and follows.passages is not None
        assert follows.answers[0] in follows.passages[0]
        assert follows.pair.answer not in follows.passages[0]
        assert follows.answers[0] in NAMES
        assert keeps.answers == follows.pair.answers


def test_an_answer_without_a_stand_in_is_not_swapped() -> None:
    # 1850 is the only number.
    assert {ask.pair.id for ask in asks("swap_base")} == {"q0", "q1", "q2", "q3"}


def test_unanswerable_and_unlocated_questions_are_not_probed() -> None:
    lost = QAPair("x", "?", ("y",), None, "d1", None, "factoid", "test", "imported")
    none = QAPair(
        "z", "?", ("I don't know.",), "d1#0", "d1", None, "unanswerable", "test", "generated"
    )
    gold: dict[str, set[str]] = {"x": set(), "z": set()}
    assert (
        probes([lost, none], {"x": list(CHUNKS), "z": list(CHUNKS)}, gold, CHUNKS, SETTINGS, 0)
        == []
    )


def test_no_probe_means_no_robustness_section() -> None:
    assert robustness({"base": {}}) is None
