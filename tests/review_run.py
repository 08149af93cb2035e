"""A run to review, without any model: documents, chunks, generated pairs, rejected pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_ft.config_loader import make_config
from rag_ft.document_store import DocumentStore
from rag_ft.review.deck import open_deck
from rag_ft.run_dir import RunDir
from rag_ft.schema import SPLITS, Chunk, Document, Evidence, QAPair
from rag_ft.serving.collections import Collection
from rag_ft.serving.review_app import ReviewState
from rag_ft.session import Session
from rag_ft.storage import write_jsonl, write_text

NAMES = ("Ola Brand", "Per Holm", "Berit Moe", "Ines Falk", "Tor Vik")


def make_review_run(folder: Path, num_documents: int = 6, pairs_each: int = 5) -> Session:
    """The session of a run in `folder`: `pairs_each` pairs a document, of which the last one is
    unanswerable, and one pair a document that a check rejected. Splits go round."""
    session = Session.of(make_config({"run": {"dir": folder}, "llm": {"prompts": "compact"}}))
    run_dir = session.run_dir
    documents, chunks, pairs, rejected = [], [], [], []
    for number in range(num_documents):
        name, split = f"d{number}.md", SPLITS[number % 3]
        sentences = [
            f"Part {part} of mill {number} was built by {NAMES[part % 5]} in {1700 + part}."
            for part in range(pairs_each)
        ]
        text = " ".join(sentences)
        documents.append(Document(name, f"Mill {number}", text, name, split))
        half = text.index(sentences[pairs_each // 2])
        for place, (start, end) in enumerate(((0, half), (half, len(text)))):
            part_text = text[start:end]
            chunks.append(
                Chunk(f"{name}#{place}", name, f"Mill {number}", part_text, start, end, 9, split)
            )
        of_document = chunks[-2:]
        for part, sentence in enumerate(sentences):
            start = text.index(sentence)
            chunk = next(c for c in of_document if c.start <= start < c.end)
            evidence = Evidence(sentence, start, start + len(sentence))
            question = f"Who built part {part} of mill {number}?"
            answerable = part < pairs_each - 1
            measured = {"round_trip_rank": 1 + part, "round_trip_f1": 1.0}
            pairs.append(
                QAPair(
                    f"p{number}-{part}",
                    question if answerable else f"Who painted mill {number}?",
                    (NAMES[part % 5],) if answerable else ("I don't know.",),
                    chunk.id if answerable else None,
                    name,
                    evidence if answerable else None,
                    "factoid" if answerable else "unanswerable",
                    split,
                    "generated",
                    checks={"evidence": "quoted", **measured},
                    provenance={"chunk_id": chunk.id, "variant": part},
                )
            )
        first = of_document[0]
        rejected.append(
            QAPair(
                f"r{number}",
                f"When was part 0 of mill {number} built?",
                ("1700",),
                None,
                name,
                None,
                "factoid",
                split,
                "generated",
                checks={"rejected": "round_trip_answer", "detail": "answered: 1800"},
                provenance={"chunk_id": first.id, "variant": 9},
            )
        )
    write_jsonl(run_dir.documents, documents)
    write_jsonl(run_dir.chunks, chunks)
    write_jsonl(run_dir.generated_pairs, pairs)
    write_jsonl(run_dir.generated_rejects, rejected)
    write_text(run_dir.generated_counts, '{"asked": 0, "imported": 0, "imported_rejected": 0}\n')
    write_jsonl(run_dir.qa, pairs)
    return session


def review_state(session: Session, **deck: Any) -> ReviewState:
    """What the page is served from."""
    run_dir: RunDir = session.run_dir
    documents = DocumentStore(run_dir.documents)
    collection = Collection("mills", session, documents, frozenset(), "review")
    opened = open_deck(run_dir, session.chunks, **deck)
    return ReviewState(opened, collection, "ann", session.config.llm.advanced.abstain)
