"""evaluate: systems x test questions -> hits, predictions, scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from rag_ft.errors import DataError
from rag_ft.evaluation.answering import Answered, answer_all
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.evaluation.external_models import index_external_encoder, with_external_models
from rag_ft.evaluation.extras.ensemble import combine, part_asks
from rag_ft.evaluation.extras.judge import judge
from rag_ft.evaluation.extras.robustness import probes
from rag_ft.evaluation.extras.similarity import similarity_scores
from rag_ft.evaluation.metrics.answers import citation_scores, faithfulness, score_answer
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.evaluation.systems import MIN_HITS, RANKINGS, SERVED, Ask, asks_of
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.relevance import evidence_shown, gold_by_pair, second_chunk_id
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.schema import Chunk, Hit, QAPair, Score
from rag_ft.session import Session
from rag_ft.storage import content_hash, read_jsonl, write_jsonl
from rag_ft.training.leakage import check_no_leakage, without_test_questions

Found = dict[str, dict[str, list[tuple[str, float]]]]


@dataclass(frozen=True)
class Material:
    """The questions, what each ranking finds for them (ranking -> question id -> chunk ids, best
    first), their gold chunks (question id -> chunk ids), and every chunk that may be shown."""

    pairs: list[QAPair]
    rankings: dict[str, dict[str, list[str]]]
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

    # The questions: test pairs of the chosen origins.
    everything = list(read_jsonl(run_dir.qa, QAPair))
    pairs = [p for p in everything if p.split == "test" and p.origin in settings.origins]
    if not pairs:
        raise DataError(
            f"{run_dir.qa} has no test question of origin {' or '.join(settings.origins)}: "
            "raise ingest.test_share, add generate.questions, or widen evaluate.origins"
        )
    if settings.advanced.max_questions:
        pairs = spread(pairs, settings.advanced.max_questions, config.run.seed)
    counts: dict[str, int | float] = {"questions": len(pairs)}

    # Nothing of the test documents may have been trained on.
    training, asked_twice = without_test_questions(
        [pair for pair in everything if pair.split != "test"], pairs
    )
    checked = check_no_leakage(training, pairs, session.chunks.of_splits({"test"}))
    counts |= {f"leakage_{name}": count for name, count in checked.items()}
    counts["leakage_left_out"] = len(asked_twice)

    # Which components are tuned, and which of them are named by path.
    for name, component in COMPONENTS.items():
        external = component.setting and getattr(settings, component.setting)
        counts[f"{name}_tuned"] = int(name in session.tuned_components)
        counts[f"{name}_given"] = int(bool(external))

    material = read_material(session, pairs, retrieve(session, pairs))
    session.close_retrievers()
    counts["located_questions"] = sum(bool(gold) for gold in material.gold.values())
    scores: Iterable[Score] = retrieval_scores(material)
    if settings.answers:
        answers, answer_counts = _answer(session, material)
        counts, scores = counts | answer_counts, chain(scores, answers)
    counts["scores"] = write_jsonl(run_dir.scores, scores)
    return counts
