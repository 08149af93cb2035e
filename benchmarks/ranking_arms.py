"""Ways that are said to beat tuning, over the retriever of a finished run: generated questions in
the index, several wordings of a question, a made-up answer beside it (HyDE), sentences in the
index.

Each adds a ranking, or moves the vector of the question. How much of it counts is chosen on
people's questions about train and dev documents, and measured on those about test documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rag_ft.documents.sentences import split_sentences
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.llm.interface import ChatRequest
from rag_ft.relevance import gold_by_pair
from rag_ft.retrieval.fusion import Ranking, best_first, fuse
from rag_ft.retrieval.retriever import Retriever
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.storage import read_jsonl
from rag_ft.training.leakage import without_test_questions
from rag_ft.training.retriever.fusion_choice import gain_of, nearest_certain

SHOWN = ("recall@1", "recall@5", "mrr@10")
DEPTH, MRR = 100, SHOWN.index("mrr@10")
SHARES = tuple(n / 10 for n in range(8))  # of what an arm adds
LEAST_WORDS = 4  # of a sentence in the index
WORDINGS, REPLY_TOKENS = 3, 48
REWORD = "Ask the same question in other words.\n\nQuestion: {question}"
IMAGINE = "Write a sentence that answers the question. Invent what you do not know.\n\n{question}"
Arm = Callable[[float], list[np.ndarray]]  # share of what it adds -> the rows of each question


class Asked(NamedTuple):
    """Questions with their vectors, what is served for each, the rows of their gold chunks, and
    their documents."""

    pairs: list[QAPair]
    vectors: np.ndarray
    served: list[Ranking]
    gold: list[set[int]]

    @property
    def documents(self) -> list[str]:
        return [pair.document_id or pair.id for pair in self.pairs]


def measure_arms(session: Session, llm: Session | None) -> dict[str, Any]:
    """Every arm over base and tuned retriever: what is chosen, and its gain over what is served.
    `llm`: a session whose language model rewords and imagines; None: neither is tried."""
    everything = [pair for pair in read_jsonl(session.run_dir.qa, QAPair) if pair.answerable]
    people = [pair for pair in everything if pair.origin != "generated"]
    written = [pair for pair in everything if pair.origin == "generated" and pair.chunk_id]
    # A question in the index that people ask of the retriever would be its own answer.
    written, _ = without_test_questions(written, people)
    replies = ask_model(llm, people) if llm else {}

    results: dict[str, Any] = {"num_written": len(written)}
    for tuned in [[], ["retriever"]] if session.serves_tuned_retriever else [[]]:
        retriever = session.retriever(tuned)
        parts = [
            ask(session, retriever, [p for p in people if (p.split == "test") == test])
            for test in (False, True)
        ]
        for name, arms in arms_of(session, retriever, parts, written, replies).items():
            found = compare(arms, parts)
            results[f"{'tuned' if tuned else 'base'} {name}"] = found
            print(tuned, name, found, flush=True)
    return results


def ask(session: Session, retriever: Retriever, pairs: Sequence[QAPair]) -> Asked:
    """The questions whose gold chunk is known, as the retriever serves them."""
    gold = gold_by_pair(pairs, session.chunks)
    located = [pair for pair in pairs if gold[pair.id]]
    rows, questions = retriever.row_of, [pair.question for pair in located]
    served = [
        (np.array([rows[i] for i, _ in hits]), np.array([score for _, score in hits]))
        for hits in retriever.search(questions, DEPTH)
    ]
    vectors = retriever.encoder.encode_queries(questions)
    return Asked(located, vectors, served, [{rows[i] for i in gold[p.id]} for p in located])


def arms_of(
    session: Session,
    retriever: Retriever,
    parts: Sequence[Asked],
    written: Sequence[QAPair],
    replies: dict[str, dict[str, list[str]]],
) -> dict[str, list[Arm]]:
    """{name: the arm over each part}."""
    encoder, rows = retriever.encoder, retriever.row_of
    sentences = [
        (rows[chunk.id], chunk.text[start:end])
        for chunk in session.chunks
        for start, end in split_sentences(chunk.text)
        if len(chunk.text[start:end].split()) >= LEAST_WORDS
    ]
    pointers = {
        "sentences": (encoder.encode_chunks([text for _, text in sentences]), sentences),
        "written questions": (
            encoder.encode_queries([pair.question for pair in written]),
            [(rows[pair.chunk_id or ""], pair.question) for pair in written],
        ),
    }
    arms = {
        name: [second_index(part, vectors, np.array([row for row, _ in texts])) for part in parts]
        for name, (vectors, texts) in pointers.items()
        if texts
    }
    for name, texts_of in replies.items():
        encode = encoder.encode_queries if name == "wordings" else encoder.encode_chunks
        arms[name] = [moved(retriever, part, texts_of, encode) for part in parts]
    return arms


def second_index(part: Asked, vectors: np.ndarray, owners: np.ndarray) -> Arm:
    """Mixes in the chunks to which the closest of `vectors` point: `owners` are their rows."""
    found = []
    for vector in part.vectors:
        best = np.full(owners.max() + 1, -1.0)
        np.maximum.at(best, owners, vectors @ vector)
        rows, scores = best_first(np.unique(owners), best[np.unique(owners)])
        found.append((rows[:DEPTH], scores[:DEPTH]))
    return lambda share: [
        fuse(served, second, share)[0] for served, second in zip(part.served, found, strict=True)
    ]


def moved(
    retriever: Retriever,
    part: Asked,
    texts_of: dict[str, list[str]],
    encode: Callable[[Sequence[str]], np.ndarray],
) -> Arm:
    """Mixes in the chunks closest to the mean vector of the texts for each question."""
    chunks = np.asarray(retriever.vectors[np.arange(len(retriever.chunk_ids))])
    found = []
    for pair in part.pairs:
        texts = texts_of.get(pair.id) or [pair.question]
        scores = chunks @ encode(texts).mean(axis=0)
        rows, scores = best_first(np.arange(len(chunks)), scores)
        found.append((rows[:DEPTH], scores[:DEPTH]))
    return lambda share: [
        fuse(served, other, share)[0] for served, other in zip(part.served, found, strict=True)
    ]


def ask_model(llm: Session, pairs: Sequence[QAPair]) -> dict[str, dict[str, list[str]]]:
    """{"wordings", "HyDE": {pair id: texts of the language model}}, without empty ones."""
    requests = []
    for pair in pairs:
        reword = ({"role": "user", "content": REWORD.format(question=pair.question)},)
        imagine = ({"role": "user", "content": IMAGINE.format(question=pair.question)},)
        for number in range(WORDINGS):
            requests.append(
                ChatRequest(f"wordings/{number}/{pair.id}", reword, REPLY_TOKENS, temperature=0.7)
            )
        requests.append(ChatRequest(f"HyDE/0/{pair.id}", imagine, REPLY_TOKENS))
    texts: dict[str, dict[str, list[str]]] = {"wordings": {}, "HyDE": {}}
    with llm.language_model() as model:
        for reply in model.chat(requests):
            arm, _, pair_id = reply.id.split("/", 2)
            if text := " ".join(reply.text.split()):
                texts[arm].setdefault(pair_id, []).append(text)
    return texts


def compare(arms: Sequence[Arm], parts: Sequence[Asked]) -> dict[str, Any]:
    """The share that train and dev questions choose where its gain is certain, the best one on them
    in the mean, and what both bring on test questions. On train and dev questions themselves the
    gain of the best one is a little too high, and with an encoder tuned on them says nothing."""
    choosing, measured = (
        np.array([score(part, arm(share)) for share in SHARES])
        for arm, part in zip(arms, parts, strict=True)
    )
    chosen, _ = nearest_certain(choosing[:, :, MRR].T, 0, parts[0].documents)
    best = int(choosing[:, :, MRR].mean(axis=1).argmax())
    found: dict[str, Any] = {"chosen": SHARES[chosen], "best_on_train_and_dev": SHARES[best]}
    tables = {
        "served": (measured, 0, 1),
        "chosen": (measured, chosen, 1),
        "best": (measured, best, 1),
        "best, train and dev": (choosing, best, 0),
    }
    for name, (table, share, part) in tables.items():
        for column, metric in enumerate(SHOWN):
            gain = gain_of((table[share] - table[0])[:, column], parts[part].documents)
            value = float(table[share][:, column].mean())
            found[f"{name} {metric}"] = {
                "value": round(value, 4),
                "gain": round(gain.value, 4),
                "ci95": [round(bound, 4) for bound in gain.ci95 or ()],
            }
    return found


def score(part: Asked, orders: Sequence[np.ndarray]) -> np.ndarray:
    """SHOWN of each question (num_questions, 3)."""
    found = [
        score_ranking([str(row) for row in order[:10]], {str(row) for row in gold})
        for order, gold in zip(orders, part.gold, strict=True)
    ]
    return np.array([[row[metric] for metric in SHOWN] for row in found])
