"""What a train document holds of a test document is not trained on."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from rag_ft.documents import containment
from rag_ft.documents.containment import MANY_DOCUMENTS, REASON, TestParts, grams
from rag_ft.schema import Document, Reject

WORDS = [f"{a}{b}" for a in ("har", "mil", "bri", "fer", "gar", "lan") for b in "abcdefghijklmnop"]


def prose(seed: int, num: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num)).capitalize() + "."


def document(name: str, text: str, split: str) -> Document:
    return Document(name, name, text, name, split, {})  # type: ignore[arg-type]


def parts_of(documents: list[Document]) -> TestParts:
    return TestParts((d.id, d.split, grams(d.text)) for d in documents)


def chunks_of(owner: Document, size: int = 60) -> list[dict[str, Any]]:
    words, made = owner.text.split(), []
    for n, start in enumerate(range(0, len(words), size)):
        text = " ".join(words[start : start + size])
        made.append({"id": f"{owner.id}#{n}", "text": text, "split": owner.split})
    return made


def left_out(test_text: str, train_text: str, others: int = 3) -> list[str]:
    """The ids of the train document's chunks that are rejects."""
    test, train = document("test", test_text, "test"), document("train", train_text, "train")
    more = [document(f"other{n}", prose(100 + n), "train") for n in range(others)]
    parts, rejects = parts_of([test, train, *more]), list[Reject]()
    kept = list(parts.without(chunks_of(train), 1, rejects))
    assert parts.touches(1) == bool(rejects)
    assert len(kept) + len(rejects) == len(chunks_of(train))
    assert kept == [c for c in chunks_of(train) if c["id"] not in {r.item for r in rejects}]
    assert all(reject.reason == REASON and "test" in reject.detail for reject in rejects)
    for number, other in enumerate(more, 2):
        assert not parts.touches(number)
        assert list(parts.without(chunks_of(other), number, rejects)) == chunks_of(other)
    return [reject.item for reject in rejects]


def changed(text: str, share: float) -> str:
    draw = random.Random(1)
    return " ".join(w if draw.random() > share else "another" for w in text.split())


HIDDEN = {
    "whole": lambda text: text,
    "half": lambda text: " ".join(text.split()[:60]),
    "a paragraph": lambda text: " ".join(text.split()[40:70]),
    "2 % changed": lambda text: changed(text, 0.02),
    "homoglyphs": lambda text: text.replace("a", "\u0430").replace("e", "\u0435"),
    "soft hyphens": lambda text: text.replace("r", "r\u00ad"),
    "upper case": str.upper,
    "accents": lambda text: text.replace("a", "a\u0301"),
    "line breaks": lambda text: text.replace(" ", "\n  "),
    "punctuation": lambda text: text.replace(" ", ", "),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_test_document_inside_a_longer_train_document_is_found(how: str) -> None:
    test = prose(1)
    train = f"{prose(2, 180)} {HIDDEN[how](test)} {prose(3, 180)}"
    found = left_out(test, train)
    assert found and "train#0" not in found and len(found) <= 4
    assert left_out(test, f"{prose(2, 180)} {prose(3, 180)}") == []


def test_sentences_in_another_order_are_found_where_a_document_is_hidden() -> None:
    sentences = [prose(n, 8) for n in range(50, 74)]
    hidden = random.Random(1).sample(sentences, len(sentences))
    found = left_out(" ".join(sentences), f"{prose(2, 180)} {' '.join(hidden)} {prose(3, 180)}")
    assert set(found) >= {f"train#{n}" for n in range(3, 6)} and "train#0" not in found
    # A fifth of it is not hidden: no 60 letters in a row are equal.
    few = " ".join(hidden[:4:2])
    assert left_out(" ".join(sentences), f"{prose(2, 180)} {few} {prose(3, 180)}") == []


def test_a_changed_chunk_between_two_parts_of_a_hidden_document_is_left_out() -> None:
    test = prose(1)
    words = test.split()
    garbled = " ".join(word[::-1] for word in words[60:75])
    train = " ".join([*words[:60], garbled, *words[75:]])
    owner = document("train", train, "train")
    parts, rejects = parts_of([document("test", test, "test"), owner]), list[Reject]()
    assert list(parts.without(chunks_of(owner, 15), 1, rejects)) == []
    assert len(rejects) == 8


def test_scripts_without_spaces_are_compared_too() -> None:
    text = "路德的著作广为流传早在一五一九年就传到了法国英格兰和意大利学生们涌入去听演讲"
    assert left_out(prose(4) + text, f"{prose(2)} {text} {prose(3)}")


def test_a_long_text_is_hashed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grams(prose(1, 400))
    monkeypatch.setattr(containment, "BLOCK_LETTERS", 700)
    in_blocks = grams(prose(1, 400))
    assert set(whole.tolist()) <= set(in_blocks.tolist())
    assert len(in_blocks) <= 1.1 * len(whole) and np.all(np.diff(in_blocks.astype(object)) > 0)


def test_what_stands_in_many_documents_is_a_template() -> None:
    licence = prose(9, 40)
    texts = [f"{licence} {prose(n)}" for n in range(20, 20 + MANY_DOCUMENTS + 2)]
    documents = [document(f"d{n}", t, "train" if n else "test") for n, t in enumerate(texts)]
    documents += [document("licence", licence, "train"), document("copy", texts[0], "train")]
    parts = parts_of(documents)
    assert [parts.touches(len(texts) + n) for n in (0, 1)] == [False, True]


def test_no_test_document_and_short_texts_have_no_parts() -> None:
    parts = parts_of([document("a", prose(1), "train")])
    assert not parts.touches(0) and len(grams("a few words")) == 0


def test_parts_are_the_same_however_the_sequences_are_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tests = [document(f"test{n}", prose(n), "test") for n in range(4)]
    mixed = [f"{prose(50 + n)} {prose(n)[n * 200 :]} {prose(60 + n)}" for n in range(4)]
    trains = [document(f"train{n}", text, "train") for n, text in enumerate(mixed)]
    documents = [d for pair in zip(tests, trains, strict=True) for d in pair]

    def left_out_of(number: int) -> list[Reject]:
        rejects: list[Reject] = []
        list(parts_of(documents).without(chunks_of(documents[number]), number, rejects))
        return rejects

    whole = [left_out_of(number) for number in (1, 3, 5, 7)]
    assert whole[0] and whole[1] and all("train0#" in reject.item for reject in whole[0])
    monkeypatch.setattr(containment, "BLOCK_SEQUENCES", 50)
    monkeypatch.setattr(containment, "MANY_WAITING", 3)
    assert [left_out_of(number) for number in (1, 3, 5, 7)] == whole
