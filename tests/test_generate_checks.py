"""The stage rejects each bad pair by its check, and keeps what a check finds out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from foreteller import SPLITS, THINGS, Foreteller, pairs_of, rejects_of, use
from foreteller import prepared as prepared

from rag_ft.config import Config
from rag_ft.generation.round_trip import RoundTrip
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.stages import generate


def written_by(spoilt: str) -> Callable[[ChatRequest, str], str | None]:
    """Every reply to a writing request about the Grey Heron becomes `spoilt`."""

    def spoil(request: ChatRequest, text: str) -> str:
        prompt = request.messages[0]["content"]
        return (
            spoilt
            if prompt.startswith("Write") and "Sentence: The price of the Grey" in prompt
            else text
        )

    return spoil


def pair_json(
    question: str, answer: str, evidence: str = "The price of the Grey Heron is 40 euros."
) -> str:
    return json.dumps({"evidence": evidence, "question": question, "answer": answer})


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ("I cannot do that.", "bad_json"),
        (pair_json("What does it cost?", "40 euros"), "stands_alone"),
        (pair_json("The price of the Grey Heron.", "40 euros"), "form"),
        (
            pair_json(
                "What is the price of the Grey Heron?", "dear", "The Grey Heron is very dear."
            ),
            "evidence",
        ),
        (pair_json("What is the price of the Grey Heron?", "50 crowns"), "unsupported"),
        (pair_json("What is the price of the Brey Heron?", "40 euros"), "off_subject"),
        (pair_json("What is the price of the Grey Heron?", "I don't know."), "nothing_to_ask"),
        (pair_json("What is the weight of the Grey Heron?", "40 euros"), "round_trip_answer"),
        (
            pair_json(
                "What is the captain of the Grey Heron?",
                "Ola Brand",
                "The captain of the Grey Heron is Ola Brand.",
            ),
            "duplicate",
        ),
    ],
)
def test_each_bad_pair_is_rejected_by_its_check(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, spoilt: str, reason: str
) -> None:
    config, run_dir = prepared(generate__kinds={"factoid": 1}, generate__pairs_per_chunk=5)
    use(monkeypatch, Foreteller(written_by(spoilt)))
    counts = generate.run(Session(config, run_dir))
    assert counts["rejected_by_check"][reason] == 1
    assert reason in {
        reject.reason for reject in rejects_of(run_dir) if reject.item.startswith("d0#0/")
    }
    assert counts["reject_examples"][reason][0]["item"].startswith("d0#0/")
    assert all(
        p.answer not in ("dear", "50 crowns") and "it cost" not in p.question
        for p in pairs_of(run_dir)
    )


def test_a_switched_off_check_rejects_nothing(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(
        generate__kinds={"factoid": 1},
        generate__pairs_per_chunk=5,
        generate__advanced__checks=["form"],
    )
    model = use(monkeypatch, Foreteller(written_by(pair_json("What does it cost?", "40 euros"))))
    generate.run(Session(config, run_dir))
    assert "What does it cost?" in {pair.question for pair in pairs_of(run_dir)}
    assert all(request.messages[0]["content"].startswith("Write") for request in model.asked)


def test_test_pairs_the_model_knows_by_heart_are_dropped_and_others_are_not_asked(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knows_prices(request: ChatRequest, text: str) -> str:
        prompt = request.messages[0]["content"]
        return "40 euros" if "If you do not know" in prompt and "the price of" in prompt else text

    config, run_dir = prepared(generate__kinds={"factoid": 1}, generate__pairs_per_chunk=5)
    model = use(monkeypatch, Foreteller(knows_prices))
    counts = generate.run(Session(config, run_dir))
    assert counts["rejected_by_check"]["closed_book"] == SPLITS.count("test")
    closed = [r for r in model.asked if "If you do not know" in r.messages[0]["content"]]
    assert len(closed) == SPLITS.count("test") * len(THINGS)
    assert {p.split for p in pairs_of(run_dir) if "price" in p.question} == {"train", "dev"}


@pytest.mark.parametrize(("said", "kept"), [("位于法国首都巴黎。", True), ("北京的西部", False)])
def test_the_round_trip_knows_a_right_answer_in_a_script_without_spaces(
    said: str, kept: bool
) -> None:
    config = Config()
    trip = RoundTrip(
        config.generate,
        3,
        AnswerPrompt(load_prompts("full", config.llm.advanced.abstain), "none"),
        None,
        None,
    )  # type: ignore[arg-type]
    pair = QAPair(
        "p", "埃菲尔铁塔在哪里？", ("法国巴黎",), "d#0", "d", None, "factoid", "train", "generated"
    )
    checked = trip.check(pair, Reply("p", said, "stop", 1, 1, 0.1))
    assert isinstance(checked, QAPair) is kept
    assert not kept or checked.checks["round_trip_f1"] >= 0.5


def test_chunks_that_outrank_the_gold_chunk_are_kept_for_negatives(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backwards:
        def __init__(self, retriever: Any) -> None:
            self.encoder, self.row_of, self._ids = (
                retriever.encoder,
                retriever.row_of,
                retriever.chunk_ids,
            )

        def search(
            self, questions: list[str], k: int, mode: str | None = None, filters: Any = None
        ) -> list[list[tuple[str, float]]]:
            return [[(i, 1.0) for i in reversed(self._ids)][:k] for _ in questions]

    from rag_ft.retrieval import retriever as search

    config, run_dir = prepared(generate__kinds={"factoid": 1}, generate__advanced__round_trip_k=4)
    open_real = search.open_retriever
    monkeypatch.setattr(
        search, "open_retriever", lambda *args, **kwargs: Backwards(open_real(*args, **kwargs))
    )
    use(monkeypatch, Foreteller())
    counts = generate.run(Session(config, run_dir))
    pairs = {pair.document_id: pair for pair in pairs_of(run_dir)}
    assert (
        set(pairs) == {"d2", "d3", "d4", "d5"}
        and counts["rejected_by_check"]["round_trip_rank"] > 0
    )
    assert pairs["d3"].checks["round_trip_rank"] == 3
    # every chunk holds the same answers here, so none of them is a wrong one
    assert pairs["d3"].hard_chunk_ids == ()
