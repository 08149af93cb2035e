"""evaluate: systems x test questions -> hits, predictions, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.evaluation.answering import Answered, answer_all, tuned_generator
from rag_ft.evaluation.ensemble import combine, part_asks
from rag_ft.evaluation.given import index_given, with_given
from rag_ft.evaluation.judge import judge
from rag_ft.evaluation.robustness import probes
from rag_ft.evaluation.similarity import similarity_scores
from rag_ft.evaluation.systems import MIN_HITS, Ask, asks_of
from rag_ft.metrics.answers import citation_scores, faithfulness, score_answer
from rag_ft.metrics.retrieval import score_ranking
from rag_ft.paths import RunDir
from rag_ft.qa.prompts import is_abstention
from rag_ft.records import (
    Chunk,
    Hit,
    Prediction,
    QAPair,
    Score,
    content_hash,
    read_jsonl,
    write_jsonl,
)
from rag_ft.relevance import evidence_shown, gold_by_pair, second_chunk_id
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.search import chunk_text, open_retriever, served_tuned
from rag_ft.training.leakage import check_no_leakage, without_test_questions

Rankings = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Material:
    """The questions, what each retriever finds for them (retriever -> question id -> chunk ids, best first), the
    chunks that prove their answers, and every chunk that may be shown."""

    pairs: list[QAPair]
    rankings: Rankings
    gold: dict[str, set[str]]
    chunks: dict[str, Chunk]


def run(config: Config, run_dir: RunDir) -> dict[str, int | float]:
    """Asks every system the questions of the test documents and scores what it finds and says.

    The tuned halves are those the configuration names by path, else the run's own. A half that was not tuned, or
    whose tuning was refused, is evaluated as the base half under both names. A prompt that several systems share is
    answered once, and its seconds count for each of them; they are the request's own in a server and a batch's time
    divided by its size in process. A reply that failed is a reject, never a score.

    Raises:
        DataError: no test question is left, training pairs leak, or every reply failed.
        ConfigError: a path given in `evaluate` does not hold what it should.
    """
    run_dir = with_given(config, run_dir)
    index_given(config, run_dir)
    pairs = _questions(config, run_dir)
    counts: dict[str, int | float] = {"questions": len(pairs)}
    counts |= _check_leakage(run_dir, pairs) | _halves(config, run_dir)
    material = _material(run_dir, pairs, _retrieve(config, run_dir, pairs))
    counts["located_questions"] = sum(1 for gold in material.gold.values() if gold)
    scores: Iterable[Score] = _retrieval_scores(material)
    if config.evaluate.answers:
        answers, found = _answer(config, run_dir, material)
        counts, scores = counts | found, chain(scores, answers)
    counts["scores"] = write_jsonl(run_dir.scores, scores)
    return counts


def _halves(config: Config, run_dir: RunDir) -> dict[str, int]:
    """Which halves are tuned, and which of them came by path."""
    return {
        "retriever_tuned": int(served_tuned(run_dir)),
        "retriever_given": int(bool(config.evaluate.encoder)),
        "generator_tuned": int(tuned_generator(run_dir) is not None),
        "generator_given": int(bool(config.evaluate.adapter)),
    }


def _questions(config: Config, run_dir: RunDir) -> list[QAPair]:
    """Test pairs of the chosen origins, at most `max_questions` of them, spread over the documents."""
    chosen = [
        p
        for p in read_jsonl(run_dir.qa, QAPair)
        if p.split == "test" and p.origin in config.evaluate.origins
    ]
    if not chosen:
        raise DataError(
            f"{run_dir.qa} has no test question of origin {' or '.join(config.evaluate.origins)}: "
            "raise ingest.test_share, add generate.questions, or widen evaluate.origins"
        )
    limit = config.evaluate.advanced.max_questions
    return spread(chosen, limit, config.run.seed) if limit else chosen


def spread(pairs: Sequence[QAPair], limit: int, seed: int) -> list[QAPair]:
    """`limit` pairs in the order given: one of each document, then a second, and so on, chosen by the seed."""
    turns: dict[str | None, int] = {}
    order = []
    for pair in sorted(pairs, key=lambda p: content_hash(seed, p.id)):
        turns[pair.document_id] = turns.get(pair.document_id, 0) + 1
        order.append((turns[pair.document_id], content_hash(seed, pair.document_id), pair.id))
    kept = {pair_id for _, _, pair_id in sorted(order)[:limit]}
    return [pair for pair in pairs if pair.id in kept]


def _check_leakage(run_dir: RunDir, pairs: list[QAPair]) -> dict[str, int]:
    training = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.split != "test"]
    kept, asked_twice = without_test_questions(training, pairs)
    checked = check_no_leakage(kept, pairs, read_jsonl(run_dir.chunks, Chunk))
    return {f"leakage_{name}": count for name, count in checked.items()} | {
        "leakage_left_out": len(asked_twice)
    }


def _retrieve(config: Config, run_dir: RunDir, pairs: list[QAPair]) -> Rankings:
    """Rankings of all retrievers, written to hits/. Where no tuned encoder is served, tuned is base."""
    k = max(MIN_HITS, config.retrieval.top_k + 10)
    questions = [pair.question for pair in pairs]
    rankings: Rankings = {}
    for half in ("base", "tuned") if served_tuned(run_dir) else ("base",):
        retriever = open_retriever(config, run_dir, tuned=half == "tuned")
        modes = {half: None, f"dense_{half}": "dense"} | (
            {"lexical": "lexical"} if half == "base" else {}
        )
        for name, mode in modes.items():
            found = retriever.search(questions, k, mode=mode)
            _write_hits(run_dir, name, pairs, found)
            rankings[name] = {
                p.id: [chunk_id for chunk_id, _ in hits]
                for p, hits in zip(pairs, found, strict=True)
            }
    return {**rankings, "tuned": rankings.get("tuned", rankings["base"])}


def _write_hits(
    run_dir: RunDir, name: str, pairs: list[QAPair], found: list[list[tuple[str, float]]]
) -> None:
    rows = (
        Hit(pair.id, rank, chunk_id, round(score, 6))
        for pair, hits in zip(pairs, found, strict=True)
        for rank, (chunk_id, score) in enumerate(hits, 1)
    )
    write_jsonl(run_dir.hits(name), rows)


def _material(run_dir: RunDir, pairs: list[QAPair], rankings: Rankings) -> Material:
    """One pass over the chunks keeps those of the questions' documents and those that were found."""
    documents = {pair.document_id for pair in pairs}
    found = {i for ranking in rankings.values() for ranked in ranking.values() for i in ranked}
    found |= {i for pair in pairs if (i := second_chunk_id(pair))}
    chunks = {
        c.id: c
        for c in read_jsonl(run_dir.chunks, Chunk)
        if c.document_id in documents or c.id in found
    }
    return Material(pairs, rankings, gold_by_pair(pairs, chunks.values()), chunks)


def _answer(
    config: Config, run_dir: RunDir, material: Material
) -> tuple[Iterator[Score], dict[str, int]]:
    """Writes predictions and rejects of all systems; returns the answers' scores, and counts."""
    answered, rejects, num_prompts = answer_all(
        config, run_dir, _asks(config, material), material.chunks
    )
    answered, abstains = _combine(config, run_dir, answered), _abstains(config)
    counts = {"prompts": num_prompts, "failed_prompts": len(rejects)}
    counts["predictions"] = _write_predictions(run_dir, answered)
    scores = _answer_scores(config, material, answered)
    if config.evaluate.advanced.similarity:
        scores = chain(scores, similarity_scores(load_encoder(config.encoder), answered, abstains))
    if config.evaluate.advanced.judge:
        judged = judge(config, run_dir, answered, partial(_told, config, material), abstains)
        counts |= {"judge_prompts": judged.num_asked, "judge_failed": len(judged.rejects)}
        rejects, scores = [*rejects, *judged.rejects], chain(scores, judged.scores)
    write_jsonl(run_dir.rejects("evaluate"), rejects)
    return scores, counts


def _asks(config: Config, material: Material) -> list[Ask]:
    top_k, asks = config.retrieval.top_k, []
    for pair in material.pairs:
        hits = {half: material.rankings[half][pair.id] for half in ("base", "tuned")}
        asks += asks_of(pair, hits, material.gold[pair.id], material.chunks, top_k)
    if config.evaluate.advanced.robustness:
        asks += probes(
            material.pairs, material.rankings["base"], material.gold, material.chunks, config
        )
    if config.evaluate.advanced.ensemble:
        asks += part_asks(material.pairs, material.rankings, top_k)
    return asks


def _combine(config: Config, run_dir: RunDir, answered: list[Answered]) -> list[Answered]:
    """Ensembles' parts become one prediction each; without ensembles everything stays as it is."""
    tuned = "tuned" if run_dir.hits("tuned").exists() and served_tuned(run_dir) else "base"
    hits = {
        "base": read_jsonl(run_dir.hits("base"), Hit),
        "tuned": read_jsonl(run_dir.hits(tuned), Hit),
    }
    return combine(answered, hits, _abstains(config))


def _abstains(config: Config) -> Callable[[str], bool]:
    return partial(is_abstention, abstain=config.llm.advanced.abstain)


def _told(config: Config, material: Material, prediction: Prediction) -> list[str]:
    """The chunks a system was shown, as it read them."""
    return [
        chunk_text(material.chunks[i], config.retrieval.advanced.with_title)
        for i in prediction.chunk_ids
    ]


def _write_predictions(run_dir: RunDir, answered: list[Answered]) -> int:
    by_system: dict[str, list[Answered]] = {}
    for ask, prediction in answered:
        by_system.setdefault(ask.system, []).append((ask, prediction))
    return sum(
        write_jsonl(run_dir.predictions(name), (p for _, p in rows))
        for name, rows in by_system.items()
    )


def _retrieval_scores(material: Material) -> Iterator[Score]:
    """Of questions whose gold chunk is known; the others have nothing to find."""
    for system, ranking in material.rankings.items():
        for pair in material.pairs:
            if gold := material.gold[pair.id]:
                yield from _scores(pair.id, system, score_ranking(ranking[pair.id], gold))


def _answer_scores(
    config: Config, material: Material, answered: Iterable[Answered]
) -> Iterator[Score]:
    abstains = _abstains(config)
    for ask, prediction in answered:
        abstained = abstains(prediction.answer)
        values = score_answer(prediction.answer, ask.answers, abstained)
        if ask.passages is None:
            values |= _grounding(config, material, ask, prediction)
        if not abstained and prediction.chunk_ids:
            told = ask.passages or _told(config, material, prediction)
            supported = faithfulness(prediction.answer, told)
            values |= {} if supported is None else {"faithfulness": supported}
        yield from _scores(ask.pair.id, ask.system, values | {"seconds": prediction.seconds})


def _grounding(
    config: Config, material: Material, ask: Ask, prediction: Prediction
) -> dict[str, float]:
    """How much of the evidence the context held, and where answers cite, whether they cite it."""
    covered = evidence_shown(ask.pair, [material.chunks[i] for i in prediction.chunk_ids])
    values = {} if covered is None else {"evidence_shown": covered}
    if config.train_generator.advanced.cite:
        values |= citation_scores(prediction.citations, ask.chunk_ids, material.gold[ask.pair.id])
    return values


def _scores(question_id: str, system: str, values: dict[str, float]) -> Iterator[Score]:
    for metric, value in values.items():
        yield Score(question_id, system, metric, round(value, 6))
