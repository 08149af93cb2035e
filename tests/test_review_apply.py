"""generate applies the reviews: rejected pairs leave, edited ones come back, added ones are new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from foreteller import Foreteller, pairs_of, use
from foreteller import prepared as prepared
from review_run import make_review_run

from rag_ft.pipeline import run_stage
from rag_ft.review.store import ReviewStore, decided, key_of, review_key
from rag_ft.run_status import status
from rag_ft.schema import Place, QAPair, Reject
from rag_ft.session import Session
from rag_ft.stages import generate
from rag_ft.storage import append_lines, read_jsonl


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_review_run(tmp_path)


def applied(session: Session) -> dict[str, QAPair]:
    generate.apply_reviews(session)
    return {pair.id: pair for pair in pairs_of(session.run_dir)}


def generated(session: Session) -> dict[str, QAPair]:
    files = (session.run_dir.generated_pairs, session.run_dir.generated_rejects)
    return {pair.id: pair for file in files for pair in read_jsonl(file, QAPair)}


def rejects_of(session: Session) -> list[str]:
    path = session.run_dir.rejects("reviews")
    return [reject.reason for reject in read_jsonl(path, Reject)] if path.exists() else []


def test_without_reviews_the_pairs_are_those_that_were_generated(session: Session) -> None:
    generate.apply_reviews(session)
    run_dir = session.run_dir
    assert run_dir.qa.read_bytes() == run_dir.generated_pairs.read_bytes()
    assert not run_dir.rejects("reviews").exists()


def test_each_decision_does_what_it_says(session: Session) -> None:
    before = generated(session)
    text = before["p0-1"].evidence
    assert text is not None
    place = Place("d0.md#0", text.start, text.end)
    edit = {"question": "Whose work is part 1?", "answers": ("Per Holm", "Holm")}
    ReviewStore(session.run_dir.reviews).append(
        decided(before["p0-0"], "accept", "ann"),
        decided(before["p0-1"], "edit", "ann", evidence=(place,), **edit),
        decided(before["p0-2"], "reject", "ann", reason="wrong"),
        decided(before["p0-3"], "unsure", "ann"),
        decided(before["r1"], "accept", "bob"),
    )
    after = applied(session)
    assert (after["p0-0"].origin, after["p0-0"].provenance["reviewers"]) == ("reviewed", ["ann"])
    edited = after["p0-1"]
    assert (edited.question, edited.answers) == (edit["question"], edit["answers"])
    assert edited.evidence == text and edited.origin == "reviewed" and edited.split == "train"
    assert "round_trip_f1" not in edited.checks, "it was measured for another question"
    assert "p0-2" not in after
    assert after["p0-3"] == before["p0-3"]
    assert after["r1"].origin == "reviewed" and "rejected" not in after["r1"].checks
    assert after["p5-0"] == before["p5-0"]
    order = [pair.document_id for pair in after.values()]
    assert order == sorted(order, key=lambda name: name or "")


def test_an_edit_can_take_the_answer_away_and_give_one(session: Session) -> None:
    before = generated(session)
    unanswerable = before["p1-4"]
    sentence = "Part 4 of mill 1 was built by Tor Vik in 1704."
    start = next(d for d in session.chunks if d.id == "d1.md#1")
    at = start.start + start.text.index(sentence)
    ReviewStore(session.run_dir.reviews).append(
        decided(before["p1-0"], "edit", "ann", answers=(), evidence=()),
        decided(
            unanswerable,
            "edit",
            "ann",
            question="Who built part 4 of mill 1?",
            answers=("Tor Vik",),
            evidence=(Place("d1.md#1", at, at + len(sentence)),),
        ),
    )
    after = applied(session)
    assert (after["p1-0"].kind, after["p1-0"].chunk_id) == ("unanswerable", None)
    assert after["p1-0"].answers == ("I don't know.",)
    assert (after["p1-4"].kind, after["p1-4"].chunk_id) == ("factoid", "d1.md#1")
    assert after["p1-4"].evidence is not None and after["p1-4"].evidence.text == sentence


def added(session: Session, document: str, reviewer: str, source: str) -> Any:
    question = f"Who made the first part of {document}?"
    chunk = next(c for c in session.chunks if c.document_id == document)
    return decided(
        generated(session)["p0-0"],
        "add",
        reviewer,
        source=source,
        key=review_key(question, document),
        question=question,
        answers=("Ola Brand",),
        document_id=document,
        evidence=(Place(chunk.id, chunk.start, chunk.start + 20),),
    )


def test_an_added_question_takes_its_place_in_its_document(session: Session) -> None:
    ReviewStore(session.run_dir.reviews).append(added(session, "d2.md", "ann", "review"))
    new = [p for p in applied(session).values() if p.question.endswith("of d2.md?")]
    assert [(p.split, p.origin, p.chunk_id) for p in new] == [("test", "reviewed", "d2.md#0")]
    order = [pair.document_id for pair in pairs_of(session.run_dir)]
    assert order == sorted(order, key=lambda name: name or "")


def test_a_correction_about_a_test_document_waits_for_a_reviewer(session: Session) -> None:
    lines = [added(session, name, "serve", "serve") for name in ("d0.md", "d2.md", "gone.md")[:2]]
    append_lines(session.run_dir.reviews, *lines)
    new = [p.document_id for p in applied(session).values() if "first part" in p.question]
    assert new == ["d0.md"]
    assert rejects_of(session) == ["a correction about a test document waits for a review"]
    accepted = decided(
        generated(session)["p0-0"],
        "accept",
        "ann",
        key=lines[1].key,
        question=lines[1].question,
        answers=lines[1].answers,
        document_id="d2.md",
        evidence=lines[1].evidence,
    )
    append_lines(session.run_dir.reviews, accepted)
    new = [p.document_id for p in applied(session).values() if "first part" in p.question]
    assert new == ["d0.md", "d2.md"] and rejects_of(session) == []


def test_a_review_whose_evidence_is_gone_is_rejected_and_the_pair_stays(session: Session) -> None:
    pair = generated(session)["p0-0"]
    gone = decided(pair, "edit", "ann", answers=("X",), evidence=(Place("d0.md#9", 0, 3),))
    ReviewStore(session.run_dir.reviews).append(gone)
    assert applied(session)["p0-0"] == pair
    assert rejects_of(session) == ["the evidence is gone"]


def test_an_accepted_answer_holds_although_the_model_now_gives_another(session: Session) -> None:
    pair = generated(session)["p0-0"]
    other = decided(pair, "accept", "ann", answers=("Brand, Ola",))
    ReviewStore(session.run_dir.reviews).append(other)
    assert applied(session)["p0-0"].answers == ("Brand, Ola",)


def test_a_broken_line_is_listed_and_the_others_hold(session: Session) -> None:
    session.run_dir.reviews.write_text("not json\n")
    ReviewStore(session.run_dir.reviews).append(decided(generated(session)["p0-0"], "reject", "a"))
    assert "p0-0" not in applied(session) and rejects_of(session) == ["not a review"]


# Through the pipeline.


class Asleep(Foreteller):
    def chat(self, requests: Any) -> Any:
        raise AssertionError("the language model is not asked again")


def test_new_reviews_are_applied_without_the_model_and_without_force(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(generate__kinds={"factoid": 1})
    use(monkeypatch, Foreteller())
    run_stage("generate", config)
    replies, first = run_dir.replies("generate").read_bytes(), pairs_of(run_dir)
    assert first
    use(monkeypatch, Asleep())

    ReviewStore(run_dir.reviews).append(decided(first[0], "reject", "ann"))
    states = {stage: (state, why) for stage, state, why in status(config)}
    assert states["generate"] == ("stale", "reviews.jsonl changed: run it again")
    done = run_stage("generate", config)
    assert done["counts"]["reviews_rejected"] == 1 and "skipped" not in done
    assert [pair.id for pair in pairs_of(run_dir)] == [pair.id for pair in first[1:]]
    assert {stage: state for stage, state, _ in status(config)}["generate"] == "done"
    assert run_stage("generate", config)["skipped"]

    ReviewStore(run_dir.reviews).append(decided(first[0], "undo", "ann"))
    run_stage("generate", config)
    assert pairs_of(run_dir) == first
    assert run_dir.replies("generate").read_bytes() == replies


def test_pairs_that_a_check_rejects_are_kept_for_people(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(request: Any, text: str) -> str:
        if not text.startswith("{"):
            return text
        return json.dumps({**json.loads(text), "question": "What is it?"})

    config, run_dir = prepared(
        generate__kinds={"factoid": 1}, generate__advanced__min_kept_share=0.0
    )
    use(monkeypatch, Foreteller(spoil))
    with pytest.raises(Exception, match="0 of"):
        generate.run(Session(config, run_dir))
    rejected = list(read_jsonl(run_dir.generated_rejects, QAPair))
    assert {pair.question for pair in rejected} == {"What is it?"}
    assert {pair.checks["rejected"] for pair in rejected} == {"stands_alone"}
    assert all(key_of(pair) and pair.answers for pair in rejected)
