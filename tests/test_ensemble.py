"""RA-DIT's decoding: one answer from many, each from one chunk."""

from __future__ import annotations

from test_evaluate import question

from rag_ft.evaluation.extras.ensemble import combine
from rag_ft.evaluation.systems import Ask
from rag_ft.schema import Hit, Prediction


def test_equal_answers_add_up_their_chunks_and_abstaining_ones_do_not_count() -> None:
    pair = question("pier", "Who?", "Karl Moen")
    said = {"a": "Ane Dahl", "b": "Karl Moen.", "c": "karl moen", "d": "I don't know."}
    scores = {"a": 0.45, "b": 0.4, "c": 0.4, "d": 0.9}
    parts = [
        (
            Ask(pair, f"ensemble_base#{n}", "base", (chunk,), pair.answers),
            Prediction(pair.id, f"ensemble_base#{n}", text, (chunk,), (), 0.5),
        )
        for n, (chunk, text) in enumerate(said.items(), 1)
    ]
    hits = [Hit(pair.id, 1, chunk, score) for chunk, score in scores.items()]
    [(ask, prediction)] = combine(
        parts, {"base": hits, "tuned": []}, lambda text: text.startswith("I don't")
    )
    assert (ask.system, prediction.answer, prediction.citations) == (
        "ensemble_base",
        "Karl Moen.",
        ("b", "c"),
    )
    assert (prediction.chunk_ids, prediction.seconds) == (("a", "b", "c", "d"), 2.0)
