"""LM-supervised retrieval as numbers: the loss, its gradient, the temperature of the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_ft.training.retriever.lm_supervision import (
    ENTROPY_LIMIT,
    choose_temperature,
    lsr_loss,
    normalised_entropy,
)
from rag_ft.training.retriever.losses import LMSupervisedLoss

RNG = np.random.default_rng(0)
COSINES = RNG.uniform(-1, 1, (3, 5))
SCORES = RNG.normal(-2, 1, (3, 5))
TAU, TAU_S = 0.7, 0.05


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def reference(cosines: np.ndarray) -> tuple[float, np.ndarray]:
    """KL(p || q) and its gradient with respect to the cosines, by hand in float64."""
    p, q = softmax(cosines / TAU_S), softmax(SCORES / TAU)
    terms = np.log(p) - np.log(q)
    per_query = (p * terms).sum(axis=-1)
    gradient = p * (terms - per_query[:, None])
    return per_query.mean(), gradient / TAU_S / len(cosines)


def test_loss_and_gradient_equal_a_float64_computation_by_hand() -> None:
    cosines = torch.tensor(COSINES, requires_grad=True)
    loss = lsr_loss(cosines, torch.tensor(SCORES), TAU, TAU_S)
    loss.backward()
    wanted, gradient = reference(COSINES)
    assert loss.item() == pytest.approx(wanted, abs=1e-12)
    assert cosines.grad is not None
    np.testing.assert_allclose(cosines.grad.numpy(), gradient, atol=1e-10)


def test_the_gradient_equals_finite_differences() -> None:
    step = 1e-6
    _, gradient = reference(COSINES)
    moved = COSINES.copy()
    moved[1, 2] += step
    slope = (reference(moved)[0] - reference(COSINES)[0]) / step
    assert slope == pytest.approx(gradient[1, 2], abs=1e-4)


def test_each_question_has_its_own_distribution_whatever_else_is_in_the_batch() -> None:
    cosines, scores = torch.tensor(COSINES), torch.tensor(SCORES)
    alone = torch.stack(
        [lsr_loss(cosines[i : i + 1], scores[i : i + 1], TAU, TAU_S) for i in range(3)]
    )
    assert lsr_loss(cosines, scores, TAU, TAU_S).item() == pytest.approx(
        alone.mean().item(), abs=1e-12
    )
    shifted = scores + torch.tensor(
        [[0.0], [5.0], [-3.0]]
    )  # a constant per question changes no distribution
    assert lsr_loss(cosines, shifted, TAU, TAU_S).item() == pytest.approx(
        alone.mean().item(), abs=1e-12
    )


def test_a_batch_as_large_as_k_is_not_normalised_along_the_batch() -> None:
    square, scores = torch.tensor(COSINES[:, :3]), torch.tensor(SCORES[:, :3])
    assert lsr_loss(square, scores, TAU, TAU_S).item() != pytest.approx(
        lsr_loss(square.T, scores.T, TAU, TAU_S).item()
    )


def test_a_retriever_that_agrees_with_the_lm_has_no_loss() -> None:
    scores = torch.tensor(SCORES)
    assert lsr_loss(scores / TAU * TAU_S, scores, TAU, TAU_S).item() == pytest.approx(0, abs=1e-12)


def test_no_gradient_reaches_the_language_model() -> None:
    scores = torch.tensor(SCORES, requires_grad=True)
    lsr_loss(torch.tensor(COSINES, requires_grad=True), scores, TAU, TAU_S).backward()
    assert scores.grad is None


def test_entropy_is_one_for_equal_scores_and_near_zero_for_one_clear_winner() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0], [100.0, 0.0, 0.0, 0.0]])
    entropy = normalised_entropy(scores, 1.0)
    assert entropy[0].item() == pytest.approx(1.0)
    assert entropy[1].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_the_chosen_temperature_hits_the_target_entropy_whatever_the_scale_of_the_scores(
    scale: float,
) -> None:
    chosen = choose_temperature(torch.tensor(SCORES) * scale)
    assert chosen.refusal is None
    assert 0.3 <= chosen.entropy <= 0.6
    assert chosen.entropy == pytest.approx(
        normalised_entropy(torch.tensor(SCORES) * scale, chosen.tau).median().item()
    )


def test_scores_that_do_not_differ_are_refused() -> None:
    refused = choose_temperature(torch.full((10, 4), -2.5))
    assert refused.refusal is not None
    assert "scores all chunks of a question alike" in refused.refusal


def test_the_papers_temperature_on_probabilities_is_refused_as_uniform() -> None:
    """exp(mean log-probability) of long answers at tau 0.01: with such targets recall fell from
    51.5 to 33.0."""
    probabilities = torch.exp(torch.tensor(RNG.normal(-6.5, 0.3, (20, 10))))
    refused = choose_temperature(probabilities, tau=0.01)
    assert refused.entropy > ENTROPY_LIMIT
    assert refused.refusal is not None
    assert "uniform" in refused.refusal


def test_a_temperature_given_by_the_user_is_kept_where_it_teaches() -> None:
    chosen = choose_temperature(torch.tensor(SCORES), tau=0.5)
    assert (chosen.tau, chosen.refusal) == (0.5, None)


def test_the_loss_of_a_batch_is_the_mean_over_its_parts_so_processes_need_no_gathering() -> None:
    torch.manual_seed(0)
    questions, chunks, scores = torch.randn(8, 16), torch.randn(8, 3, 16), torch.randn(8, 3)
    module = LMSupervisedLoss(torch.nn.Identity(), TAU_S, TAU)  # type: ignore[arg-type]
    whole = module.of_embeddings(questions, chunks, scores)
    parts = [
        module.of_embeddings(questions[n : n + 4], chunks[n : n + 4], scores[n : n + 4])
        for n in (0, 4)
    ]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-5)
    shuffled = module.of_embeddings(questions, chunks, scores.flip(0))
    assert shuffled.item() != pytest.approx(whole.item(), rel=1e-2), (
        "each row is compared with its own scores"
    )
