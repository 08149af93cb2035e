"""LM-supervised retrieval (RA-DIT, equations 4 and 5): a loss that moves the encoder towards the
chunks that make the answer likely to a language model.

Every function here is pure; rows are questions, columns the k chunks of a question.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ENTROPY_TARGET = 0.45  # middle of the 0.3-0.6 that taught something on real data
# Above it targets are nearly uniform and training makes the retriever worse (recall 51.5 -> 33.0).
ENTROPY_LIMIT = 0.95
# Nats between best and median chunk: below it the scores differ by rounding alone.
LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class TeacherTemperature:
    """`entropy` is the median over questions of the target's entropy divided by ln k, 0-1.
    `refusal` says why these scores must not be trained on, or is None."""

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
        lm_scores: (num_questions, k >= 2) calibration slice.
        tau: a temperature given by the user is kept, and only judged; 0 chooses one.
        target: 0-1.
    """
    scores = lm_scores.double()
    spread = (scores.max(dim=-1).values - scores.median(dim=-1).values).median().item()
    if tau == 0 and spread < LEAST_SPREAD:
        return TeacherTemperature(1.0, 1.0, "the LM scores all chunks of a question alike")
    chosen = tau or _bisect(scores, target)
    entropy = normalised_entropy(scores, chosen).median().item()
    refusal = None
    if entropy > ENTROPY_LIMIT:
        refusal = (
            f"targets are nearly uniform (median entropy {entropy:.2f} of ln k, "
            f"limit {ENTROPY_LIMIT})"
        )
    return TeacherTemperature(chosen, entropy, refusal)


def _bisect(scores: Tensor, target: float, steps: int = 60) -> float:
    """Entropy grows with tau for every question, so its median does too."""
    low, high = 1e-6, 1e6
    for _ in range(steps):
        middle = (low * high) ** 0.5
        if normalised_entropy(scores, middle).median().item() < target:
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5
