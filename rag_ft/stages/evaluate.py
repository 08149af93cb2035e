"""evaluate: systems x test questions -> hits, predictions, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from rag_ft.config import EvaluateConfig
from rag_ft.errors import DataError
from rag_ft.evaluation.answering import Answered, answer_all
from rag_ft.evaluation.external_models import index_given, with_given
from rag_ft.evaluation.extras.ensemble import combine, part_asks
from rag_ft.evaluation.extras.judge import judge
from rag_ft.evaluation.extras.robustness import probes
from rag_ft.evaluation.extras.similarity import similarity_scores
from rag_ft.evaluation.metrics.answers import citation_scores, faithfulness, score_answer
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.evaluation.systems import MIN_HITS, Ask, asks_of
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.relevance import evidence_shown, gold_by_pair, second_chunk_id
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.retriever import Hits
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Hit, Prediction, QAPair, Score
from rag_ft.session import Session
from rag_ft.storage import ChunkStore, content_hash, read_jsonl, write_jsonl
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


def run(session: Session) -> dict[str, int | float]:
    """Asks every system the questions of the test documents and scores what it finds and says.

    The tuned halves are those the configuration names by path, else the run's own. A half that was not tuned, or
    whose tuning was refused, is evaluated as the base half under both names. A prompt that several systems share is
    answered once, and its seconds count for each of them; they are the request's own in a server and a batch's time
    divided by its size in process. A reply that failed is a reject, never a score.

    Raises:
        DataError: no test question is left, training pairs leak, or every reply failed.
        ConfigError: a path given in `evaluate` does not hold what it should.
    """
    session = replace(session, run_dir=with_given(session.config, session.run_dir))
    settings, run_dir = session.config.evaluate, session.run_dir
    index_given(session.config, run_dir)
    pairs = _questions(run_dir, settings, session.config.run.seed)
    counts: dict[str, int | float] = {"questions": len(pairs)}
    counts |= _check_leakage(run_dir, session.chunks, pairs)
    # Which components are tuned, and which of them are named by path.
    counts["retriever_tuned"] = int(session.serves_tuned_retriever)
    counts["retriever_given"] = int(bool(settings.encoder))
    counts["generator_tuned"] = int(session.tuned_generator is not None)
    counts["generator_given"] = int(bool(settings.adapter))
    material = _material(session.chunks, pairs, _retrieve(session, pairs))
    session.close_retrievers()
    counts["located_questions"] = sum(1 for gold in material.gold.values() if gold)
    scores: Iterable[Score] = _retrieval_scores(material)
    if settings.answers:
        answers, found = _answer(session, material)
        counts, scores = counts | found, chain(scores, answers)
    counts["scores"] = write_jsonl(run_dir.scores, scores)
    return counts


def _questions(run_dir: RunDir, settings: EvaluateConfig, seed: int) -> list[QAPair]:
    """Test pairs of the chosen origins, at most `max_questions` of them, spread over the documents."""
    chosen = [
        p
        for p in read_jsonl(run_dir.qa, QAPair)
        if p.split == "test" and p.origin in settings.origins
    ]
    if not chosen:
        raise DataError(
            f"{run_dir.qa} has no test question of origin {' or '.join(settings.origins)}: "
            "raise ingest.test_share, add generate.questions, or widen evaluate.origins"
        )
    return (
        spread(chosen, settings.advanced.max_questions, seed)
        if settings.advanced.max_questions
        else chosen
    )


def spread(pairs: Sequence[QAPair], limit: int, seed: int) -> list[QAPair]:
    """`limit` pairs in the order given: one of each document, then a second, and so on, chosen by the seed."""
    turns: dict[str | None, int] = {}
    order = []
    for pair in sorted(pairs, key=lambda p: content_hash(seed, p.id)):
        turns[pair.document_id] = turns.get(pair.document_id, 0) + 1
        order.append((turns[pair.document_id], content_hash(seed, pair.document_id), pair.id))
    kept = {pair_id for _, _, pair_id in sorted(order)[:limit]}
    return [pair for pair in pairs if pair.id in kept]


def _check_leakage(run_dir: RunDir, chunks: ChunkStore, pairs: list[QAPair]) -> dict[str, int]:
    training = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.split != "test"]
    kept, asked_twice = without_test_questions(training, pairs)
    checked = check_no_leakage(kept, pairs, chunks.of_splits({"test"}))
    return {f"leakage_{name}": count for name, count in checked.items()} | {
        "leakage_left_out": len(asked_twice)
    }


def _retrieve(session: Session, pairs: list[QAPair]) -> Rankings:
    """Rankings of all retrievers, each over all questions, written to hits/. `base` and `tuned` are as served; where
    no tuned encoder is served, tuned is base."""
    k = max(MIN_HITS, session.config.retrieval.top_k + 10)
    served, questions = session.config.retrieval.mode, [pair.question for pair in pairs]
    rankings: Rankings = {}
    for component in ("base", "tuned") if session.serves_tuned_retriever else ("base",):
        modes = {component: served, f"dense_{component}": "dense"}
        if component == "base":
            modes["lexical"] = "lexical"
        # One call for all modes: questions are encoded once, and each index is searched once.
        found = session.retriever(tuned=component == "tuned").search_modes(
            questions, k, [*modes.values()]
        )
        for name, mode in modes.items():
            _write_hits(session.run_dir, name, pairs, found[mode])
            rankings[name] = {
                p.id: [chunk_id for chunk_id, _ in hits]
                for p, hits in zip(pairs, found[mode], strict=True)
            }
    return {**rankings, "tuned": rankings.get("tuned", rankings["base"])}


def _write_hits(run_dir: RunDir, name: str, pairs: list[QAPair], found: list[Hits]) -> None:
    rows = (
        Hit(pair.id, rank, chunk_id, round(score, 6))
        for pair, hits in zip(pairs, found, strict=True)
        for rank, (chunk_id, score) in enumerate(hits, 1)
    )
    write_jsonl(run_dir.hits(name), rows)


def _material(store: ChunkStore, pairs: list[QAPair], rankings: Rankings) -> Material:
    """Of the chunks only those of the questions' documents and those that were found are read."""
    of_documents = store.of_documents(pair.document_id for pair in pairs)
    found = {i for ranking in rankings.values() for ranked in ranking.values() for i in ranked}
    found |= {i for pair in pairs if (i := second_chunk_id(pair))}
    chunks = {chunk.id: chunk for chunk in of_documents}
    chunks |= store.select(found - chunks.keys())
    return Material(pairs, rankings, gold_by_pair(pairs, chunks.values()), chunks)


def _answer(session: Session, material: Material) -> tuple[Iterator[Score], dict[str, int]]:
    """Writes predictions and rejects of all systems; returns the answers' scores, and counts."""
    settings, run_dir, prompt = session.config.evaluate, session.run_dir, session.answer_prompt
    answered, rejects, num_prompts = answer_all(session, _asks(session, material), material.chunks)
    answered = _combine(run_dir, session.serves_tuned_retriever, answered, prompt.abstains)
    counts = {"prompts": num_prompts, "failed_prompts": len(rejects)}
    counts["predictions"] = _write_predictions(run_dir, answered)
    scores = _answer_scores(
        prompt, session.config.train_generator.advanced.cite, material, answered
    )
    if settings.advanced.similarity:
        encoder = load_encoder(session.config.encoder)
        scores = chain(scores, similarity_scores(encoder, answered, prompt.abstains))
    if settings.advanced.judge:
        judged = judge(session, answered, lambda prediction: _told(prompt, material, prediction))
        counts |= {"judge_prompts": judged.num_asked, "judge_failed": len(judged.rejects)}
        rejects, scores = [*rejects, *judged.rejects], chain(scores, judged.scores)
    write_jsonl(run_dir.rejects("evaluate"), rejects)
    return scores, counts


def _asks(session: Session, material: Material) -> list[Ask]:
    settings, top_k = session.config.evaluate, session.config.retrieval.top_k
    asks = []
    for pair in material.pairs:
        hits = {half: material.rankings[half][pair.id] for half in ("base", "tuned")}
        asks += asks_of(pair, hits, material.gold[pair.id], material.chunks, top_k)
    if settings.advanced.robustness:
        asks += probes(
            material.pairs,
            material.rankings["base"],
            material.gold,
            material.chunks,
            session.config,
        )
    if settings.advanced.ensemble:
        asks += part_asks(material.pairs, material.rankings, top_k)
    return asks


def _combine(
    run_dir: RunDir, serves_tuned: bool, answered: list[Answered], abstains: Callable[[str], bool]
) -> list[Answered]:
    """Ensembles' parts become one prediction each; without ensembles everything stays as it is."""
    tuned = "tuned" if run_dir.hits("tuned").exists() and serves_tuned else "base"
    hits = {
        "base": read_jsonl(run_dir.hits("base"), Hit),
        "tuned": read_jsonl(run_dir.hits(tuned), Hit),
    }
    return combine(answered, hits, abstains)


def _told(prompt: AnswerPrompt, material: Material, prediction: Prediction) -> list[str]:
    """The chunks a system was shown, as it read them."""
    return [prompt.text(material.chunks[i]) for i in prediction.chunk_ids]


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
    prompt: AnswerPrompt, cites: bool, material: Material, answered: Iterable[Answered]
) -> Iterator[Score]:
    """`cites`: the tuned generator learned to cite, so that citations are scored."""
    for ask, prediction in answered:
        abstained = prompt.abstains(prediction.answer)
        values = score_answer(prediction.answer, ask.answers, abstained)
        if ask.passages is None:
            covered = evidence_shown(ask.pair, [material.chunks[i] for i in prediction.chunk_ids])
            values |= {} if covered is None else {"evidence_shown": covered}
            if cites:
                values |= citation_scores(
                    prediction.citations, ask.chunk_ids, material.gold[ask.pair.id]
                )
        if not abstained and prediction.chunk_ids:
            told = ask.passages or _told(prompt, material, prediction)
            supported = faithfulness(prediction.answer, told)
            values |= {} if supported is None else {"faithfulness": supported}
        yield from _scores(ask.pair.id, ask.system, values | {"seconds": prediction.seconds})


def _scores(question_id: str, system: str, values: dict[str, float]) -> Iterator[Score]:
    for metric, value in values.items():
        yield Score(question_id, system, metric, round(value, 6))
