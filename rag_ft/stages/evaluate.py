"""evaluate: systems x test questions -> hits, predictions, scores."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import EvaluateConfig
from rag_ft.engine.shards import end_shard
from rag_ft.errors import DataError
from rag_ft.evaluation.answering import answer_all
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.evaluation.external_models import index_external_encoder, with_external_models
from rag_ft.evaluation.extras.ensemble import combine, part_asks
from rag_ft.evaluation.extras.judge import judge
from rag_ft.evaluation.extras.robustness import probes
from rag_ft.evaluation.extras.similarity import similarity_scores
from rag_ft.evaluation.metrics.answers import citation_scores, faithfulness, score_answer
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.evaluation.sampling import spread_over_documents
from rag_ft.evaluation.systems import (
    MIN_HITS,
    RANKINGS,
    SERVED,
    Answered,
    Ask,
    asks_of,
    distinct_rankings,
    ranking_name,
)
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.relevance import evidence_shown, gold_by_pair, second_chunk_id
from rag_ft.retrieval.retriever import AS_SERVED, Hits
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Hit, Prediction, QAPair, Score
from rag_ft.session import Session
from rag_ft.storage import read_jsonl, write_jsonl
from rag_ft.training.leakage import check_no_leakage, without_test_questions

Rankings = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Material:
    """The questions, what each ranking finds for them (ranking -> question id -> chunk ids, best
    first), their gold chunks (question id -> chunk ids), and every chunk that may be shown."""

    pairs: list[QAPair]
    rankings: Rankings
    gold: dict[str, set[str]]
    chunks: dict[str, Chunk]


def run(session: Session) -> dict[str, int | float]:
    """Asks every system the questions about the test documents and scores what it finds and says.

    A component that `evaluate` names by path takes the place of the run's own. A component that
    was not tuned, or whose tuning was rejected, is evaluated as base under both names. A prompt
    that several systems share is answered once, and its seconds count for each of them: those of
    the request with a server, a batch's time divided by its size in process. A failed reply is
    rejected and has no score.

    Raises:
        DataError: there is no test question, training pairs leak, or every reply failed.
        ConfigError: a path in `evaluate` does not contain what it should.
    """
    config, settings = session.config, session.config.evaluate
    run_dir = with_external_models(settings, session.run_dir)
    session = replace(session, run_dir=run_dir)
    index_external_encoder(config, run_dir)

    pairs, counts = select_questions(run_dir, session.chunks, settings, config.run.seed)

    # Which components are tuned, and which of them are named by path.
    for name, component in COMPONENTS.items():
        external = component.setting and getattr(settings, component.setting)
        counts[f"{name}_tuned"] = int(name in session.tuned_components)
        counts[f"{name}_given"] = int(bool(external))

    rankings = retrieve(session, pairs)
    material = read_material(session.chunks, pairs, rankings, shown=settings.answers)
    session.close_retrievers()
    counts["located_questions"] = sum(bool(gold) for gold in material.gold.values())
    scores: Iterable[Score] = retrieval_scores(material)
    if settings.answers:
        answers, answer_counts = _answer(session, material)
        counts, scores = counts | answer_counts, chain(scores, answers)
    end_shard(config.engine)
    counts["scores"] = write_jsonl(run_dir.scores, scores)
    shutil.rmtree(run_dir.checkpoints("evaluate"), ignore_errors=True)
    return counts


def select_questions(
    run_dir: RunDir, store: ChunkStore, settings: EvaluateConfig, seed: int
) -> tuple[list[QAPair], dict[str, int | float]]:
    """The test pairs of the chosen origins, and counts of what makes sure that nothing of the test
    documents was trained on.

    Raises:
        DataError: there is no test question, or training pairs leak.
    """
    everything = list(read_jsonl(run_dir.qa, QAPair))
    pairs = [p for p in everything if p.split == "test" and p.origin in settings.origins]
    if not pairs:
        raise DataError(
            f"{run_dir.qa} has no test question of origin {' or '.join(settings.origins)}: "
            "raise ingest.test_share, add generate.questions, or widen evaluate.origins"
        )
    if settings.advanced.max_questions:
        pairs = spread_over_documents(pairs, settings.advanced.max_questions, seed)
    training = [pair for pair in everything if pair.split != "test"]
    training, asked_twice = without_test_questions(training, pairs)
    checked = check_no_leakage(training, pairs, store.of_splits({"test"}))
    leakage = {f"leakage_{name}": count for name, count in checked.items()}
    return pairs, {"questions": len(pairs), **leakage, "leakage_left_out": len(asked_twice)}


def retrieve(session: Session, pairs: list[QAPair]) -> Rankings:
    """Every ranking over all questions (ranking -> question id -> chunk ids, best first), written
    to hits/. A question with filters is searched with them.

    Rankings as served are found for every set of tuned components that take part; without a tuned
    one `tuned` is `base`, and there is no ranking of the tuned encoder alone.
    """
    settings, there = session.config.retrieval, session.tuned_components
    k = max(MIN_HITS, settings.top_k + 10)
    questions = [pair.question for pair in pairs]
    found: dict[str, list[Hits]] = {}
    modes = {"served": AS_SERVED, "mixture": "hybrid", "dense": "dense", "lexical": "lexical"}
    distinct = [RANKINGS[name] for name in distinct_rankings(there)]
    for tuned in dict.fromkeys(row.tuned & there for row in distinct):
        retriever = session.retriever(tuned)
        rows = [row for row in distinct if row.tuned & there == tuned]
        # Without a feature ranker and a reranker the mixture is what is served.
        if not retriever.fusion.ranker and not retriever.reranker:
            rows = [row for row in rows if row.context != "mixture"]
        # Scores, and the rows of the report, follow in the order of `modes`.
        rows.sort(key=lambda row: [*modes].index(row.context))
        # One call for all modes: questions are encoded once, and each index is searched once.
        by_mode = retriever.search_modes(
            questions, k, [modes[row.context] for row in rows], [pair.filters for pair in pairs]
        )
        found |= {row.name: by_mode[modes[row.context]] for row in rows}
    rankings: Rankings = {}
    for name, hits in found.items():
        by_question = dict(zip([pair.id for pair in pairs], hits, strict=True))
        lines = (
            Hit(question_id, rank, chunk_id, round(score, 6))
            for question_id, ranked in by_question.items()
            for rank, (chunk_id, score) in enumerate(ranked, 1)
        )
        write_jsonl(session.run_dir.hits(name), lines)
        rankings[name] = {
            question_id: [chunk_id for chunk_id, _ in ranked]
            for question_id, ranked in by_question.items()
        }
    return rankings


def read_material(
    store: ChunkStore, pairs: list[QAPair], rankings: Rankings, shown: bool
) -> Material:
    """The material of these questions.

    Of the chunks only those of the questions' documents are read, and where chunks are shown to a
    model those that were found.
    """
    chunks = {c.id: c for c in store.of_documents(pair.document_id for pair in pairs)}
    needed = {i for pair in pairs if (i := second_chunk_id(pair))}
    if shown:
        needed.update(i for by_question in rankings.values() for i in chain(*by_question.values()))
    chunks |= store.select(needed - chunks.keys())
    return Material(pairs, rankings, gold_by_pair(pairs, chunks.values()), chunks)


def retrieval_scores(material: Material) -> Iterator[Score]:
    """Scores of every ranking; questions without a known gold chunk have none."""
    for system, ranking in material.rankings.items():
        for pair in material.pairs:
            if gold := material.gold[pair.id]:
                yield from _scores(pair.id, system, score_ranking(ranking[pair.id], gold))


def _answer(session: Session, material: Material) -> tuple[Iterator[Score], dict[str, int]]:
    """Writes predictions and rejects of all systems; returns the answers' scores, and counts."""
    config, settings = session.config, session.config.evaluate.advanced
    run_dir, prompt, top_k = session.run_dir, session.answer_prompt, config.retrieval.num_shown
    there = session.tuned_components

    # What every system, probe and part of an ensemble is shown.
    asks: list[Ask] = []
    chunks = {chunk_id: prompt.shown(chunk) for chunk_id, chunk in material.chunks.items()}
    for pair in material.pairs:
        # A ranking that repeats another one has its chunks.
        hits = {
            name: material.rankings[ranking_name(row.tuned, there)][pair.id]
            for name, row in SERVED.items()
        }
        asks += asks_of(pair, hits, material.gold[pair.id], chunks, top_k, there)
    if settings.robustness:
        ranking = material.rankings["base"]
        asks += probes(
            material.pairs,
            ranking,
            material.gold,
            material.chunks,
            config.retrieval,
            config.run.seed,
        )
    if settings.ensemble:
        asks += part_asks(material.pairs, material.rankings, top_k)

    answered, rejects, num_prompts = answer_all(session, asks, material.chunks)
    # The parts of an ensemble become one prediction, weighted by what the retriever served.
    served = {name: read_jsonl(run_dir.hits(name), Hit) for name in ("base", "tuned")}
    answered = combine(answered, served, prompt.abstains)
    by_system: dict[str, list[Prediction]] = {}
    for ask, prediction in answered:
        by_system.setdefault(ask.system, []).append(prediction)
    counts = {"prompts": num_prompts, "failed_prompts": len(rejects)}
    counts["predictions"] = sum(
        write_jsonl(run_dir.predictions(name), rows) for name, rows in by_system.items()
    )

    # Scores that need a model are on request.
    scores: Iterator[Score] = answer_scores(prompt, material, answered)
    if settings.similarity:
        encoder = session.base_encoder
        scores = chain(scores, similarity_scores(encoder, answered, prompt.abstains))
    if settings.judge:
        judged = judge(
            session,
            answered,
            lambda prediction: [prompt.text(material.chunks[i]) for i in prediction.chunk_ids],
        )
        counts |= {"judge_prompts": judged.num_asked, "judge_failed": len(judged.rejects)}
        rejects, scores = [*rejects, *judged.rejects], chain(scores, judged.scores)
    write_jsonl(run_dir.rejects("evaluate"), rejects)
    return scores, counts


def answer_scores(
    prompt: AnswerPrompt, material: Material, answered: Iterable[Answered]
) -> Iterator[Score]:
    """Scores of the answers."""
    for ask, prediction in answered:
        abstained = prompt.abstains(prediction.answer)
        shown = [prompt.shown(material.chunks[chunk_id]) for chunk_id in prediction.chunk_ids]
        values = score_answer(prediction.answer, ask.answers, abstained)
        # Where passages replace the chunks' texts, offsets of evidence and gold chunks say nothing.
        if ask.passages is None:
            covered = evidence_shown(ask.pair, shown)
            if covered is not None:
                values["evidence_shown"] = covered
            gold = material.gold[ask.pair.id]
            values |= citation_scores(prediction.citations, ask.chunk_ids, gold)
            if prediction.citations:
                values["citation_inferred"] = float(prediction.inferred)
        if shown and not abstained:
            texts = ask.passages or [prompt.text(material.chunks[i]) for i in prediction.chunk_ids]
            supported = faithfulness(prediction.answer, texts)
            if supported is not None:
                values["faithfulness"] = supported
        yield from _scores(ask.pair.id, ask.system, values | {"seconds": prediction.seconds})


def _scores(question_id: str, system: str, values: dict[str, float]) -> Iterator[Score]:
    for metric, value in values.items():
        yield Score(question_id, system, metric, round(value, 6))
