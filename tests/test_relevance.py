"""Gold chunks, negatives and quotes: one definition each, which agrees with what stands there."""

from __future__ import annotations

import dataclasses
import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from rag_ft.documents.chunking import split_chunks
from rag_ft.documents.sentences import split_sentences
from rag_ft.relevance import (
    chunks_by_document,
    contains_evidence,
    evidence_in_chunk,
    evidence_sentence,
    evidence_shown,
    fallback_gold_chunks,
    gold_by_pair,
    gold_chunk_ids,
    gold_chunks,
    is_negative,
    locate,
    mentions_answer,
    needed_chunks,
    occurrences,
    oracle_context,
    overlaps_evidence,
    second_chunk_id,
)
from rag_ft.schema import Chunk, Evidence, QAPair
from rag_ft.storage import read_rows
from rag_ft.text import normalise

HANDBOOK = Path(__file__).parent.parent / "data" / "handbook"


def pair(start: int, end: int, kind: str = "factoid", chunk_id: str | None = "d#0") -> QAPair:
    evidence = Evidence("x" * (end - start), start, end) if end > start else None
    return QAPair("q", "?", ("x",), chunk_id, "d", evidence, kind, "test", "imported")  # type: ignore[arg-type]


def chunk(number: int, start: int, end: int, document: str = "d") -> Chunk:
    return Chunk(f"{document}#{number}", document, "", "x" * (end - start), start, end, 1, "test")


CHUNKS = [chunk(0, 0, 100), chunk(1, 80, 180), chunk(2, 160, 260)]


def test_chunks_that_hold_the_whole_evidence_are_gold() -> None:
    assert gold_chunk_ids(pair(10, 20), CHUNKS) == {"d#0"}
    assert gold_chunk_ids(pair(85, 95), CHUNKS) == {"d#0", "d#1"}
    assert gold_chunk_ids(pair(90, 110), CHUNKS) == {"d#1"}


def test_where_no_chunk_holds_the_evidence_those_that_overlap_it_are_gold() -> None:
    assert gold_chunk_ids(pair(50, 190), CHUNKS) == {"d#0", "d#1", "d#2"}
    assert gold_chunk_ids(pair(100, 180), CHUNKS[:1]) == set()  # touching is not overlapping


def test_chunks_of_other_documents_are_never_gold() -> None:
    assert gold_chunk_ids(pair(10, 20), [chunk(0, 0, 100, "other")]) == set()


def test_without_evidence_the_own_chunk_is_gold_unless_there_is_nothing_to_find() -> None:
    assert gold_chunk_ids(pair(0, 0), CHUNKS) == {"d#0"}
    assert gold_chunk_ids(pair(0, 0, "unanswerable"), CHUNKS) == set()
    assert gold_chunk_ids(pair(0, 0, chunk_id=None), CHUNKS) == set()


def test_evidence_shown_is_the_share_of_its_characters_in_the_context() -> None:
    assert evidence_shown(pair(50, 150), CHUNKS[:1]) == 0.5
    assert evidence_shown(pair(50, 150), CHUNKS[:2]) == 1.0
    assert evidence_shown(pair(90, 170), [CHUNKS[2], CHUNKS[0]]) == pytest.approx(20 / 80)
    assert evidence_shown(pair(0, 0), CHUNKS) is None


def test_the_own_chunk_without_evidence_is_gold_only_where_it_is_among_the_chunks() -> None:
    assert gold_chunk_ids(pair(0, 0, chunk_id="d#9"), CHUNKS) == set()
    assert gold_by_pair([pair(0, 0)], [*CHUNKS, chunk(0, 0, 9, "other")]) == {"q": {"d#0"}}


def test_an_answer_needs_the_first_gold_chunk_or_all_that_the_evidence_is_spread_over() -> None:
    by_id = {c.id: c for c in CHUNKS}
    assert needed_chunks(pair(85, 95), [CHUNKS[1], CHUNKS[0]], by_id) == [CHUNKS[1]]
    assert needed_chunks(pair(50, 190), CHUNKS[::-1], by_id) == CHUNKS
    assert needed_chunks(pair(10, 20), [], by_id) == []
    hops = dataclasses.replace(pair(10, 20), provenance={"second_chunk_id": "d#2"})
    assert second_chunk_id(hops) == "d#2" and second_chunk_id(pair(10, 20)) is None
    assert needed_chunks(hops, CHUNKS[:1], by_id) == [CHUNKS[0], CHUNKS[2]]
    assert needed_chunks(hops, CHUNKS[:1], {"d#0": CHUNKS[0]}) == [CHUNKS[0]]
    assert oracle_context(hops, {"d#0"}, by_id) == ["d#0", "d#2"]


def test_the_oracle_prefers_the_own_chunk_and_shows_it_alone_where_nothing_is_gold() -> None:
    by_id = {c.id: c for c in CHUNKS}
    assert oracle_context(pair(85, 95, chunk_id="d#1"), {"d#0", "d#1"}, by_id) == ["d#1"]
    assert oracle_context(pair(85, 95, chunk_id=None), {"d#0", "d#1"}, by_id) == ["d#0"]
    assert oracle_context(pair(0, 0, "unanswerable"), set(), by_id) == ["d#0"]
    assert oracle_context(pair(0, 0, chunk_id=None), set(), by_id) == []


def titled(title: str, text: str) -> Chunk:
    return Chunk("t#0", "t", title, text, 0, len(text), 5, "train")


@pytest.mark.parametrize(
    ("title", "text", "answer", "mentioned"),
    [
        ("", "It opened in 1871.", "1871", True),
        ("The year 1871", "It opened late.", "1871", True),
        ("", "It costs 18710 crowns.", "1871", False),
        ("", "中国的首都是北京市。", "北京", True),
        ("", "A plan of the tower.", "A", False),
    ],
)
def test_a_mention_is_whole_words_of_the_title_or_text(
    title: str, text: str, answer: str, mentioned: bool
) -> None:
    assert mentions_answer(titled(title, text), ["never", answer]) is mentioned
    asked = dataclasses.replace(pair(10, 20), answers=(answer,))
    assert is_negative(titled(title, text), asked) is not mentioned


def test_own_and_overlapping_chunks_are_no_negatives() -> None:
    assert [is_negative(c, pair(50, 75)) for c in CHUNKS] == [False, True, True]
    assert [is_negative(c, pair(50, 85)) for c in CHUNKS] == [False, False, True]


def test_where_no_place_is_known_the_best_ranked_mention_stands_in_for_the_gold_chunk() -> None:
    ranked = [titled("", "Nothing."), titled("", "In 1871."), titled("", "Since 1871.")]
    unplaced = dataclasses.replace(pair(0, 0, chunk_id=None), answers=("1871",))
    assert gold_chunks(unplaced, ranked) == []
    assert fallback_gold_chunks(unplaced, ranked) == ranked[1:2]
    assert fallback_gold_chunks(unplaced, ranked[:1]) == []


def test_the_sentence_of_the_evidence_is_found_or_that_of_the_answer() -> None:
    text = "Ola came. Berit built it in 1871. Ola stayed."
    where = text.index("1871")
    evidence = Evidence("1871", where, where + 4)
    asked = QAPair("q", "?", ("Ola",), "t#0", "t", evidence, "factoid", "train", "imported")
    sentences = split_sentences(text)
    assert evidence_sentence(asked, titled("", text), sentences) == "Berit built it in 1871."
    unplaced = dataclasses.replace(asked, evidence=None)
    assert evidence_sentence(unplaced, titled("", text), sentences) == "Ola came."
    nowhere = dataclasses.replace(unplaced, answers=("Per",))
    assert evidence_sentence(nowhere, titled("", text), sentences) == ""


# --- On the handbook: what was said in several places before, written down independently ---------


@cache
def handbook() -> tuple[dict[str, list[Chunk]], list[QAPair]]:
    """(short overlapping chunks by document, its questions and many random spans as pairs)."""
    paths = sorted(path for path in HANDBOOK.rglob("*") if path.suffix in (".md", ".txt"))
    texts = {str(path.relative_to(HANDBOOK)): path.read_text(encoding="utf-8") for path in paths}
    files = {name: text for name, text in texts.items() if text.strip()}
    chunks = [
        Chunk(
            f"{name}#{n}", name, name, text[span.start : span.end], span.start, span.end, 9, "test"
        )
        for name, text in files.items()
        for n, span in enumerate(
            split_chunks(text, lambda texts: [len(t.split()) for t in texts], 40, 15)
        )
    ]
    chunks_of = chunks_by_document(chunks)
    rng, asked = random.Random(0), []
    for row in read_rows(HANDBOOK / "questions.jsonl"):
        if (text := files.get(row.get("document_id") or "")) and row.get("answers"):
            asked.append(
                (
                    row["document_id"],
                    locate(row.get("evidence") or row["answers"][0], text),
                    row["answers"],
                )
            )
    for _ in range(400):
        name = rng.choice(sorted(files))
        start = rng.randrange(len(files[name]) - 1)
        asked.append((name, (start, min(len(files[name]), start + rng.randrange(1, 400))), ["x"]))
    pairs = []
    for n, (name, span, answers) in enumerate(asked):
        evidence = Evidence(files[name][slice(*span)], *span) if span else None
        made = QAPair(
            f"q{n}", "?", tuple(answers), None, name, evidence, "factoid", "test", "imported"
        )
        own = next((c.id for c in gold_chunks(made, chunks_of[name])), None)
        pairs.append(dataclasses.replace(made, chunk_id=own))
    return chunks_of, pairs


def characters(chunk: Chunk) -> set[int]:
    return set(range(chunk.start, chunk.end))


def test_on_the_handbook_gold_chunks_are_those_whose_characters_are_the_evidences() -> None:
    chunks_of, pairs = handbook()
    kinds = set()
    for one in pairs:
        evidence = set(range(one.evidence.start, one.evidence.end)) if one.evidence else set()
        document = chunks_of[one.document_id or ""]
        whole = {c.id for c in document if evidence and evidence <= characters(c)}
        touching = {c.id for c in document if evidence & characters(c)}
        assert gold_chunk_ids(one, document) == (whole or touching)
        assert {c.id for c in document if contains_evidence(c, one)} == whole
        assert {c.id for c in document if overlaps_evidence(c, one)} == touching
        kinds.add((len(whole) > 1, bool(whole), len(touching) > 1))
    assert {(True, True, True), (False, True, True), (False, False, True)} <= kinds, (
        "all cases are met"
    )


def test_on_the_handbook_a_selection_has_the_gold_chunks_of_the_document() -> None:
    chunks_of, pairs = handbook()
    rng, everything = random.Random(1), [c for chunks in chunks_of.values() for c in chunks]
    gold = gold_by_pair(pairs, everything)
    for one in (p for p in pairs if p.chunk_id):
        document = chunks_of[one.document_id or ""]
        found = rng.sample(document, rng.randint(0, len(document))) + rng.sample(everything, 5)
        selected = [*found, *(c for c in document if c.id == one.chunk_id)]
        assert gold_chunk_ids(one, selected) == gold[one.id] & {c.id for c in selected}


def test_on_the_handbook_training_has_its_earlier_gold_chunks_where_one_has_the_evidence() -> None:
    chunks_of, pairs = handbook()
    seen = 0
    for one in (p for p in pairs if p.evidence and p.chunk_id):
        document = chunks_of[one.document_id or ""]
        found = random.Random(one.id).sample(document, len(document))
        whole = [c for c in found if c.start <= one.evidence.start and one.evidence.end <= c.end]
        if whole:
            seen += 1
            assert gold_chunks(one, found) == whole
            assert needed_chunks(one, gold_chunks(one, found), {}) == whole[:1]
    assert seen > 200


def test_on_the_handbook_the_share_of_evidence_shown_counts_characters() -> None:
    chunks_of, pairs = handbook()
    rng = random.Random(2)
    for one in (p for p in pairs if p.evidence):
        document = chunks_of[one.document_id or ""]
        shown = rng.sample(document, min(len(document), 3))
        wanted = set(range(one.evidence.start, one.evidence.end))
        covered = wanted & set().union(*map(characters, shown))
        assert evidence_shown(one, shown) == pytest.approx(len(covered) / len(wanted))
        by_id = {c.id: c for c in document}
        gold = {c.id for c in gold_chunks(one, document)}
        oracle = [c for c in document if c.id in oracle_context(one, gold, by_id)]
        everything = evidence_shown(one, document)
        assert evidence_shown(one, oracle) == (everything or None), (
            "the oracle covers all that can be covered"
        )


def test_on_the_handbook_a_negative_is_what_both_trainings_called_one_before() -> None:
    chunks_of, pairs = handbook()
    everything = [c for chunks in chunks_of.values() for c in chunks]
    asked = [p for p in pairs if p.answers != ("x",)]
    rng = random.Random(3)
    for one in asked:
        for c in [*chunks_of[one.document_id or ""], *rng.sample(everything, 20)]:
            elsewhere = c.id != one.chunk_id and not (
                one.evidence
                and c.document_id == one.document_id
                and c.start < one.evidence.end
                and one.evidence.start < c.end
            )
            words = [f" {normalise(a)} " for a in one.answers if normalise(a)]
            silent = not any(w in f" {normalise(c.title + ' ' + c.text)} " for w in words)
            assert is_negative(c, one) == (elsewhere and silent)


# --- Quotes ---------------------------------------------------------------------------------------

TEXT = "The “Grey Heron” sails\n  at 07:30 – daily.  It costs 150 euros; a child pays 5 euros."


@pytest.mark.parametrize(
    "quote",
    [
        'The "Grey Heron" sails at 07:30',
        "it COSTS 150",
        "07:30 - DAILY",
        "  sails at\t07:30 ",
        '"...at 07:30 – daily…"',
    ],
)
def test_white_space_case_quotes_and_dashes_do_not_matter(quote: str) -> None:
    span = locate(quote, TEXT)
    assert span is not None
    assert (
        TEXT[span[0] : span[1]]
        .casefold()
        .startswith(quote.strip(' ".').casefold()[:3].replace('"', "“"))
    )


def test_an_exact_match_comes_before_a_normalised_one() -> None:
    assert occurrences("Ola", "ola and Ola") == [(8, 11)]


@pytest.mark.parametrize("quote", ["", "  ", "…", "the green heron", "50", "sail", "eur"])
def test_what_is_not_there_as_words_is_not_found(quote: str) -> None:
    assert locate(quote, TEXT) is None


def test_the_occurrence_nearest_to_the_focus_is_taken() -> None:
    text = "Ola came. Berit left. Ola stayed."
    assert locate("Ola", text) == (0, 3)
    assert locate("Ola", text, near=(22, 33)) == (22, 25)


def test_scripts_without_spaces_need_no_word_boundary() -> None:
    assert locate("北京", "中国的首都是北京市。") == (6, 8)


def test_letters_that_fold_to_two_keep_offsets_right() -> None:
    text = "Große STRASSE. Der Weg"
    span = locate("grosse strasse", text)
    assert span is not None and text[span[0] : span[1]] == "Große STRASSE"


def test_offsets_of_evidence_count_in_the_document() -> None:
    document = "Title\n\nOla leads the yard."
    chunk = Chunk("d#0", "d", "t", document[7:], 7, len(document), 5, "train")
    evidence = evidence_in_chunk(chunk, (0, 3))
    assert document[evidence.start : evidence.end] == evidence.text == "Ola"


def test_accents_are_found_however_they_are_written() -> None:
    text = unicodedata.normalize("NFD", "Die Chefin heißt Zoë Brontë. 박물관은 열다.")
    start, end = locate("Zoë Brontë", text) or (0, 0)
    assert unicodedata.normalize("NFC", text[start:end]) == "Zoë Brontë"
    assert not unicodedata.combining(text[end]), "the last accent belongs to the quote"
    assert locate("박물관은", text) is not None
    assert locate(unicodedata.normalize("NFD", "Brontë"), "bei Zoë Brontë.") == (8, 14)


def test_a_letter_without_its_accent_is_another_letter() -> None:
    text = unicodedata.normalize("NFD", "Der Wirt heißt René. ばら")
    assert locate("Rene", text) is None and locate("はら", text) is None
    assert locate("René", text) is not None and locate("ばら", text) is not None
    assert locate("\u0995\u09cb", "\u0995\u09c7\u09be") == (0, 3)


def test_a_number_or_name_is_found_beside_letters_of_another_script() -> None:
    assert locate("7", "渡船は7隻あります") == (3, 4)
    assert locate("1931", "등대는 1931년에 섰다.") == (4, 8)
    assert locate("이하나", "선장은 이하나였다.") == (4, 7)
    assert (
        locate("7", "渡船は17隻あります") is None and locate("하나", "선장은 이하나였다.") is None
    )
