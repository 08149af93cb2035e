"""LM-supervised retrieval (RA-DIT, Lin et al. 2023, equations 4 and 5): training moves the encoder
towards the chunks that make the answer likely to a language model.

The language model scores the answer given each chunk, g = mean over t of
log p(answer_t | chunk, question, answer_<t). The base model scores each (pair, chunk) once; scores
are kept, so that a killed run continues where it stopped. `lsr_loss` compares the scores with the
encoder's similarities.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rag_ft.engine.language_model import SharedModel
from rag_ft.llm.interface import LanguageModel, Messages
from rag_ft.prompts.prompt_set import Prompts
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import JsonlAppender, batched, content_hash, read_rows

if TYPE_CHECKING:
    from rag_ft.retrieval.retriever import Searcher

logger = logging.getLogger(__name__)

# Jobs handed to the model at once: long enough to sort by length, short enough to lose little.
BLOCK = 512
NUM_SAMPLED = 32  # prompts counted for the estimate of the cost

ENTROPY_TARGET = 0.45  # middle of the 0.3-0.6 that taught something on real data
# Above it targets are nearly uniform and training makes the retriever worse (recall 51.5 -> 33.0).
ENTROPY_LIMIT = 0.95
# Nats between best and median chunk: below it the scores differ by rounding alone.
LEAST_SPREAD = 1e-4
NUM_BISECTIONS = 60  # from 1e-6 to 1e6 down to the last digit of a float64


# Scoring chunks.


@dataclass(frozen=True)
class Job:
    """One answer to be scored given one chunk. `key` names everything the score depends on."""

    key: str
    pair_id: str
    chunk_id: str
    messages: Messages
    answer: str


def retrieved_chunks(
    pairs: Sequence[QAPair], retriever: Searcher, chunks: Mapping[str, Chunk], k: int, depth: int
) -> dict[str, list[str]]:
    """The k chunk ids of each pair that the language model scores, by pair id.

    The gold chunk comes first, then the closest ones that the encoder finds among `chunks` (those
    that may be trained on) in its `depth` best that the pair's filters allow. Pairs that get fewer
    than k are left out.
    """
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    rankings = retriever.search(questions, depth, "dense", filters)
    found = {}
    for pair, ranking in zip(pairs, rankings, strict=True):
        gold = [pair.chunk_id] if pair.chunk_id and pair.chunk_id in chunks else []
        closest = (chunk_id for chunk_id, _ in ranking if chunk_id in chunks)
        ids = list(dict.fromkeys([*gold, *closest]))[:k]
        if len(ids) == k:
            found[pair.id] = ids
    return found


def make_jobs(
    wanted: Iterable[tuple[QAPair, Sequence[str]]],
    chunks: Mapping[str, Chunk],
    prompts: Prompts,
    model_name: str,
    text_of: Callable[[Chunk], str],
) -> list[Job]:
    """One job for every pair and each of its chunk ids, sorted by chunk, then pair.

    Questions over one chunk come together, so that the model reads their common beginning once. The
    prompt is the one that answers are asked with, over this single chunk.
    """
    jobs = []
    for pair, chunk_ids in wanted:
        for chunk_id in chunk_ids:
            messages = prompts.answer(pair.question, [text_of(chunks[chunk_id])])
            key = content_hash(model_name, messages, pair.answer)
            jobs.append(Job(key, pair.id, chunk_id, messages, pair.answer))
    return sorted(jobs, key=lambda job: (job.chunk_id, job.pair_id))


def missing_jobs(jobs: Iterable[Job], path: Path) -> list[Job]:
    """Jobs whose score is not in the cache `path`, each key once."""
    known = read_scores(path)
    return list({job.key: job for job in jobs if job.key not in known}.values())


def score_jobs(jobs: Sequence[Job], model: LanguageModel, path: Path) -> int:
    """Scores `jobs` and appends their rows to `path`, a block at a time; workers get all at once.

    A row is {key, pair_id, chunk_id, mean_logprob, num_tokens}; the mean is in nats, and 0 for an
    answer of no tokens. Returns the number of jobs scored.
    """
    logger.info("%s", estimate_cost(jobs, model))
    block_size = max(BLOCK, len(jobs)) if isinstance(model, SharedModel) else BLOCK
    bar = tqdm(desc="score chunks with the LM", total=len(jobs), unit="chunk")
    with JsonlAppender(path) as cache, bar:
        for block in batched(jobs, block_size):
            logprobs = model.answer_logprobs([(job.messages, job.answer) for job in block])
            rows = []
            for job, values in zip(block, logprobs, strict=True):
                mean = float(np.mean(values, dtype=float)) if len(values) else 0.0
                row = {"key": job.key, "pair_id": job.pair_id, "chunk_id": job.chunk_id}
                rows.append({**row, "mean_logprob": mean, "num_tokens": len(values)})
            cache.write(*rows)
            bar.update(len(block))
    return len(jobs)


def score_retrieved(
    pairs: Sequence[QAPair],
    retrieved: Mapping[str, Sequence[str]],
    chunks: Mapping[str, Chunk],
    prompts: Prompts,
    model: LanguageModel,
    text_of: Callable[[Chunk], str],
    cache: Path,
) -> dict[tuple[str, str], float]:
    """The mean log-probability (nats) of each pair's answer by (pair id, chunk id).

    What is not in the file `cache` is scored and added to it. The other arguments are those of
    `make_jobs`, `retrieved` the chunk ids of each pair by its id.
    """
    wanted = ((pair, retrieved[pair.id]) for pair in pairs)
    jobs = make_jobs(wanted, chunks, prompts, model.name, text_of)
    score_jobs(missing_jobs(jobs, cache), model, cache)
    known = read_scores(cache)
    return {(job.pair_id, job.chunk_id): known[job.key] for job in jobs}


def read_scores(path: Path) -> dict[str, float]:
    """Mean log-probability by key; empty where nothing has been scored yet."""
    if not path.exists():
        return {}
    return {row["key"]: float(row["mean_logprob"]) for row in read_rows(path)}


def estimate_cost(jobs: Sequence[Job], model: LanguageModel) -> str:
    """How much the model has to read, from a sample of the prompts: a sentence for the log."""
    sample = jobs[:: max(1, len(jobs) // NUM_SAMPLED)]
    mean = sum(model.count_tokens(job.messages) for job in sample) / max(1, len(sample))
    millions = len(jobs) * mean / 1e6
    return (
        f"scoring {len(jobs)} answers with {model.name}: about {millions:.2f} million prompt tokens"
    )


# Learning from the scores: pure functions. Rows are questions, columns the k chunks of a question.


@dataclass(frozen=True)
class TeacherTemperature:
    """The temperature `tau` of the language model's scores.

    `entropy` is the median over questions of the target's entropy divided by ln k, 0-1. `refusal`
    says why these scores must not be trained on, or is None.
    """

    tau: float
    entropy: float
    refusal: str | None = None


def lsr_loss(
    similarities: Tensor, lm_scores: Tensor, lm_temperature: float, temperature: float
) -> Tensor:
    """Mean over questions of KL(p || q) between what the retriever (p) and the LM (q) prefer.

    p = softmax(similarities / temperature), q = softmax(lm_scores / lm_temperature), both over the
    k chunks of one question: never across the batch. KL(p || q) = sum_j p_j (log p_j - log q_j) is
    the direction of RA-DIT. q is a constant; gradients reach `similarities` alone.

    Args:
        similarities: (num_questions, k) cosines, with gradient.
        lm_scores: (num_questions, k) mean log p(answer | chunk, question) in nats.
        lm_temperature: of the LM's scores, > 0.
        temperature: of the cosines, > 0.

    Returns:
        Scalar >= 0, in nats.
    """
    log_p = torch.log_softmax(similarities / temperature, dim=-1)
    log_q = torch.log_softmax(lm_scores.detach() / lm_temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def normalised_entropy(lm_scores: Tensor, tau: float) -> Tensor:
    """Entropy of softmax(lm_scores / tau) over ln k, 0 (one chunk) to 1: (num_questions, k) ->
    (num_questions,)."""
    log_q = torch.log_softmax(lm_scores.double() / tau, dim=-1)
    return -(log_q.exp() * log_q).sum(dim=-1) / torch.log(torch.tensor(float(lm_scores.shape[-1])))


def choose_temperature(
    lm_scores: Tensor, tau: float = 0.0, target: float = ENTROPY_TARGET
) -> TeacherTemperature:
    """The temperature at which the median normalised entropy of the targets is `target`.

    Args:
        lm_scores: (num_questions, k >= 2) of the training rows.
        tau: a temperature given by the user is kept, and only checked; 0 chooses one.
        target: 0-1.
    """
    scores = lm_scores.double()
    spread = (scores.max(dim=-1).values - scores.median(dim=-1).values).median().item()
    if tau == 0 and spread < LEAST_SPREAD:
        return TeacherTemperature(1.0, 1.0, "the LM scores all chunks of a question alike")

    chosen = tau
    if tau == 0:
        # Bisection: the entropy grows with tau for every question, so its median does too.
        low, high = 1e-6, 1e6
        for _ in range(NUM_BISECTIONS):
            middle = (low * high) ** 0.5
            if normalised_entropy(scores, middle).median().item() < target:
                low = middle
            else:
                high = middle
        chosen = (low * high) ** 0.5

    entropy = normalised_entropy(scores, chosen).median().item()
    refusal = None
    if entropy > ENTROPY_LIMIT:
        refusal = (
            f"targets are nearly uniform (median entropy {entropy:.2f} of ln k, "
            f"limit {ENTROPY_LIMIT})"
        )
    return TeacherTemperature(chosen, entropy, refusal)
