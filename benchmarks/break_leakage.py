"""Test documents and test questions, hidden in every way that leakage_attacks.py knows: what of
them would be trained on."""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leakage_attacks import DOCUMENT_ATTACKS, QUESTION_ATTACKS, sentences

from rag_ft.config_loader import make_config
from rag_ft.generation.question_dedup import without_paraphrases
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, QAPair, Reject
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_jsonl
from rag_ft.training.leakage import without_test_questions

# So many letters in a row of a test document may be left at the edge of a chunk.
EDGE_LETTERS = 60
BEGIN, END = "Quixotically begins.", "Quixotically ends."
THINGS = ("lamp", "boat", "harp", "clock", "kite", "drum", "vase", "sled", "loom", "oar", "cart")
DEEDS = ("painted", "mended", "sold", "found", "lent", "weighed", "carried", "kept", "built", "hid")
MATERIALS = ("wood", "iron", "glass", "clay", "paper", "copper", "wool", "stone")
PLACES = ("Salt House", "Port Sorrel", "Gull Cottage", "the North Quay", "Corvin Street")


def prose(seed: int, num_sentences: int) -> str:
    """Sentences of 9 to 16 words, of which no two documents share any."""
    draw, told = random.Random(seed), []
    for number in range(num_sentences):
        name = f"{draw.choice('BCDFGKLMNPRST')}{draw.choice('aeiou')}{draw.choice('lmnrst')}"
        name += f"{draw.choice('aeiou')}{draw.choice('dknrst')}{seed % 97 or ''}"
        told.append(
            f"In {1500 + draw.randrange(500)} {name} {draw.choice(DEEDS)} the "
            f"{draw.choice(MATERIALS)} {draw.choice(THINGS)} number {number} of "
            f"{draw.choice(PLACES)}{draw.choice([' for a neighbour', '', ' with great care'])}."
        )
    return " ".join(told)


def hidden_documents(folder: Path, seed: int) -> dict[str, list[str]]:
    """Writes a test document for every attack and, as text files and lines of JSONL, the train
    files that hide it. Returns the train documents' ids by attack."""
    draw, names, rows = random.Random(seed), dict[str, list[str]](), []
    for part in ("test", "train"):
        (folder / part).mkdir(parents=True)
    for number, (attack, hide) in enumerate(DOCUMENT_ATTACKS.items()):
        text = prose(seed * 1000 + number, 24)
        (folder / f"test/t{number}.txt").write_text(text, encoding="utf-8")
        names[attack] = []
        for part, written in enumerate(hide(text, draw)):
            around = [prose(seed * 1000 + 500 + 7 * number + n, 8) for n in range(2)]
            train = written.replace("{before}", f"{around[0]} {BEGIN}")
            train = train.replace("{after}", f"{END} {around[1]}")
            suffix = ".html" if attack == "tags" else ".md" if "{" in written else ".txt"
            name = f"h{number}-{part}{suffix}"
            (folder / "train" / name).write_text(
                f"<p>{train}</p>" if suffix == ".html" else train, encoding="utf-8"
            )
            rows.append({"id": f"row-{name}", "text": train, "split": "train"})
            names[attack] += [f"train/{name}", name, f"row-{name}"]
    for number in range(40):
        text = prose(seed * 1000 + 900 + number, 20)
        (folder / f"train/other{number}.txt").write_text(text, encoding="utf-8")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return names


def documents(encoder: str, seed: int, chunk_tokens: int = 60) -> dict[str, Any]:
    """The share of each attack's chunks that would be trained on, and of other chunks left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        attacks = hidden_documents(folder / "in", seed)
        sources = [
            {"path": str(folder / "in/test"), "split": "test"},
            {"path": str(folder / "in/train"), "split": "train"},
            str(folder / "in/rows.jsonl"),
        ]
        config = make_config(
            {
                "name": "leakage",
                "run": {"dir": folder / "run"},
                "ingest": {"sources": sources, "chunk_tokens": chunk_tokens},
                "encoder": {"model": encoder},
            }
        )
        run_dir = RunDir(config.run_path)
        ingest.run(Session(config, run_dir))
        texts = {d.id: d.text for d in read_jsonl(run_dir.documents, Document)}
        chunks = list(read_jsonl(run_dir.chunks, Chunk))
        rejects = list(read_jsonl(run_dir.rejects("ingest"), Reject))
    left_out = {r.item for r in rejects if r.reason == "part of a test document"}
    kept = [c for c in chunks if c.split != "test"]
    trained = {
        attack: [c.id for c in kept if c.document_id in ids and leaked(c, texts[c.document_id])]
        for attack, ids in attacks.items()
    }
    needless = [i for i in left_out if "other" in i]
    return {
        "attacks": len(attacks),
        "documents": len(texts),
        "chunks_left_out": len(left_out),
        "trained_on": {attack: found for attack, found in trained.items() if found},
        "other_chunks_left_out": len(needless),
    }


def leaked(chunk: Chunk, text: str) -> bool:
    """Whether a chunk of a train document holds more of a hidden text than an edge of it."""
    begin, end = text.find(BEGIN), text.find(END)
    first = begin + len(BEGIN) if begin >= 0 else 0
    last = end if end >= 0 else len(text)
    shared = text[max(first, chunk.start) : max(first, min(last, chunk.end))]
    return len(re.findall(r"[^\W_]", shared)) > EDGE_LETTERS


def questions(asked: Sequence[str], seed: int) -> dict[str, Any]:
    """Which attacks bring a test question past the check, and how many other questions it takes.

    `asked` are questions of people: half are the test questions, the others are train questions.
    """
    draw = random.Random(seed)
    shuffled = draw.sample(list(asked), len(asked))
    test, train = shuffled[::2], shuffled[1::2]
    heldout = [pair(f"t{n}", question, "test") for n, question in enumerate(test)]
    passed: dict[str, list[str]] = {}
    for attack, hide in QUESTION_ATTACKS.items():
        hidden = [
            pair(f"h{n}", hide(question, draw), "train", document="wrong.md", answer="reworded")
            for n, question in enumerate(test)
        ]
        kept, _ = without_test_questions(hidden, heldout)
        if kept:
            passed[attack] = [found.question for found in kept]
    ordinary = [pair(f"o{n}", question, "train") for n, question in enumerate(train)]
    _, rejects = without_test_questions(ordinary, heldout)
    return {
        "attacks": len(QUESTION_ATTACKS),
        "questions": len(test),
        "trained_on": {attack: (len(found), found[0]) for attack, found in passed.items()},
        "other_questions_left_out": [reject.detail for reject in rejects],
        "other_questions": len(train),
    }


def paraphrases(encoder: str, reworded: Path, handbook: Path) -> dict[str, Any]:
    """How many test questions in other words are left out, by the least cosine, and how many train
    questions that people wrote. `reworded` has {id of a test question, question} lines."""
    opened = load_encoder(make_config({"encoder": {"model": encoder}}).encoder)
    asked = {
        path.stem: [json.loads(line)["question"] for line in path.open(encoding="utf-8")]
        for path in (reworded, handbook / "questions.jsonl", handbook / "questions_train.jsonl")
    }
    heldout = [pair(f"t{n}", q, "test") for n, q in enumerate(asked["questions"])]
    found: dict[str, dict[float, int]] = {}
    for name in (reworded.stem, "questions_train"):
        train = [pair(f"h{n}", question, "train") for n, question in enumerate(asked[name])]
        found[name] = {
            least: len(without_paraphrases([*train, *heldout], opened, least)[1])
            for least in (0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
        }
    return {"questions": {name: len(asked[name]) for name in found}, "left_out": found}


def pair(name: str, question: str, split: str, document: str = "d", answer: str = "a") -> QAPair:
    """A pair without evidence."""
    fields: Mapping[str, Any] = {
        "id": name, "question": question, "answers": (answer,), "chunk_id": None,
        "document_id": document, "evidence": None, "kind": "factoid", "split": split,
        "origin": "imported",
    }  # fmt: skip
    return QAPair(**fields)


def made_up_questions(number: int, seed: int) -> list[str]:
    """Questions about sentences of `prose`."""
    told = (sentences(prose(seed + n, 1))[0].split() for n in range(number))
    return [
        f"Who {w[3]} the {w[5]} {w[6]} of {' '.join(w[10:12]).strip('.')} in {w[1]}?" for w in told
    ]
