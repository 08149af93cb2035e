"""How useful a chunk is to the language model: g = mean over t of log p(answer_t | chunk, question, answer_<t).

Each (pair, chunk) is scored once by the base model and kept; a killed run goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from rag_ft.llm.interface import Messages
from rag_ft.prompts.prompt_set import Prompts
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import JsonlAppender, batched, content_hash, read_rows

logger = logging.getLogger(__name__)
BLOCK = 512  # jobs handed to the model at once: long enough to sort by length, short enough to lose little
NUM_SAMPLED = 32  # prompts counted for the estimate of the cost


class Scores(Protocol):
    """What scoring needs of a LanguageModel."""

    name: str

    def answer_logprobs(self, jobs: Sequence[tuple[Messages, str]]) -> list[np.ndarray]: ...

    def count_tokens(self, messages: Messages) -> int: ...


@dataclass(frozen=True)
class Job:
    """One answer to be scored given one chunk. `key` names everything the score depends on."""

    key: str
    pair_id: str
    chunk_id: str
    messages: Messages
    answer: str


def make_jobs(
    wanted: Iterable[tuple[QAPair, Sequence[str]]],
    chunks: Mapping[str, Chunk],
    prompts: Prompts,
    model_name: str,
    text_of: Callable[[Chunk], str],
) -> list[Job]:
    """One job for every pair and each of its chunk ids, sorted by chunk, then pair: questions over one chunk come
    together, so that the model reads their common beginning once. The prompt is the one that answers are asked with,
    over this single chunk."""
    jobs = []
    for pair, chunk_ids in wanted:
        for chunk_id in chunk_ids:
            messages = prompts.answer(pair.question, [text_of(chunks[chunk_id])])
            key = content_hash(model_name, messages, pair.answer)
            jobs.append(Job(key, pair.id, chunk_id, messages, pair.answer))
    return sorted(jobs, key=lambda job: (job.chunk_id, job.pair_id))


def missing_jobs(jobs: Iterable[Job], path: Path) -> list[Job]:
    """Those whose score is not in the cache `path`, each key once."""
    known = set(read_scores(path))
    return list({job.key: job for job in jobs if job.key not in known}.values())


def score_jobs(jobs: Sequence[Job], model: Scores, path: Path) -> int:
    """Scores `jobs` and appends {key, pair_id, chunk_id, mean_logprob, num_tokens} rows to `path`, a
    block at a time.

    An answer of no tokens has the score 0. Returns the number of jobs scored.
    """
    logger.info("%s", estimate_cost(jobs, model))
    bar = tqdm(desc="score chunks with the LM", total=len(jobs), unit="chunk")
    with JsonlAppender(path) as cache, bar:
        for block in batched(jobs, BLOCK):
            logprobs = model.answer_logprobs([(job.messages, job.answer) for job in block])
            cache.write(
                *(
                    {
                        "key": job.key,
                        "pair_id": job.pair_id,
                        "chunk_id": job.chunk_id,
                        "mean_logprob": float(np.mean(values, dtype=float)) if len(values) else 0.0,
                        "num_tokens": len(values),
                    }
                    for job, values in zip(block, logprobs, strict=True)
                )
            )
            bar.update(len(block))
    return len(jobs)


def score_retrieved(
    pairs: Sequence[QAPair],
    retrieved: Mapping[str, Sequence[str]],
    chunks: Mapping[str, Chunk],
    prompts: Prompts,
    model: Scores,
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
    return (
        {row["key"]: float(row["mean_logprob"]) for row in read_rows(path)} if path.exists() else {}
    )


def estimate_cost(jobs: Sequence[Job], model: Scores) -> str:
    """How much the model will have to read, from a sample of the prompts: a sentence for the log."""
    sample = jobs[:: max(1, len(jobs) // NUM_SAMPLED)]
    mean = sum(model.count_tokens(job.messages) for job in sample) / max(1, len(sample))
    return f"scoring {len(jobs)} answers with {model.name}: about {len(jobs) * mean / 1e6:.2f} million prompt tokens"
