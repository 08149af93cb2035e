"""The losses of the retriever's training, as sentence-transformers' trainer wants them: modules over token features.

Columns of a training row: question, positive, negatives... (contrastive) or question, chunk 1..k (LSR); `label` is the
row's number, by which frozen vectors and the LM's scores are found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn

from rag_ft.training.lsr import Direction, lsr_loss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Features = Iterable[dict[str, Tensor]]
MINI_BATCH = 32  # texts encoded at once where a batch does not fit, and the largest batch taken whole


def contrastive_loss(model: SentenceTransformer, temperature: float, batch_size: int, gather: bool) -> nn.Module:
    """InfoNCE over the batch's positives and negatives; with gradient caching once the batch is large."""
    settings: dict[str, Any] = {"scale": 1 / temperature, "gather_across_devices": gather}
    if batch_size > MINI_BATCH:
        return CachedMultipleNegativesRankingLoss(model, mini_batch_size=MINI_BATCH, **settings)
    return MultipleNegativesRankingLoss(model, **settings)


class FrozenChunksLoss(nn.Module):
    """InfoNCE for the question's side alone: chunk vectors are looked up, not computed.

    Args:
        vectors: (num_rows, 1 + num_negatives, dim) unit norm, the row's positive first.
    """

    vectors: Tensor

    def __init__(self, model: SentenceTransformer, vectors: Tensor, temperature: float, gather: bool) -> None:
        super().__init__()
        self.model = model
        self.inner = MultipleNegativesRankingLoss(model, scale=1 / temperature, gather_across_devices=gather)
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, sentence_features: Features, labels: Tensor) -> Tensor:
        questions = self.model(next(iter(sentence_features)))["sentence_embedding"]
        chunks = self.vectors[labels].to(questions.dtype)
        return self.inner.compute_loss_from_embeddings([questions, *chunks.unbind(dim=1)], labels)


@dataclass(frozen=True)
class Teacher:
    """`scores` (num_rows, k): the LM's mean log-probabilities in the order of the row's chunk columns; `tau` their
    temperature; `positives` (num_rows,): a number for each row's first chunk, equal for equal chunks."""

    scores: Tensor
    tau: float
    positives: Tensor


class LsrLoss(CachedLossMixin, nn.Module):
    """`lsr_loss` of the batch's questions and their k chunks, all encoded with gradient, a mini-batch at a time.

    Args:
        mix: 0-1, share of a contrastive loss in which the first chunk column is the positive and the other
            questions' first chunks are the negatives.
        vectors: (num_rows, k, dim) frozen chunk vectors, or None to encode the chunks with gradient.
    """

    scores: Tensor
    positives: Tensor
    vectors: Tensor | None

    def __init__(
        self,
        model: SentenceTransformer,
        teacher: Teacher,
        temperature: float,
        direction: Direction,
        mix: float = 0.0,
        vectors: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.mini_batch_size = model, MINI_BATCH
        self.tau, self.temperature, self.direction, self.mix = teacher.tau, temperature, direction, mix
        self.register_buffer("scores", teacher.scores, persistent=False)
        self.register_buffer("positives", teacher.positives, persistent=False)
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, sentence_features: Features, labels: Tensor) -> Tensor:
        if self.vectors is None:
            return self.forward_cached(sentence_features, labels)
        questions = self.model(next(iter(sentence_features)))["sentence_embedding"]
        return self.of_embeddings(questions, self.vectors[labels].to(questions.dtype), labels)

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        questions, *chunks = (torch.cat(column) for column in reps)
        assert labels is not None
        loss = self.of_embeddings(questions, torch.stack(chunks, dim=1), labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def of_embeddings(self, questions: Tensor, chunks: Tensor, labels: Tensor) -> Tensor:
        """(b, dim), (b, k, dim), (b,) -> scalar."""
        questions, chunks = (nn.functional.normalize(x.float(), dim=-1) for x in (questions, chunks))
        similarities = torch.einsum("bd,bkd->bk", questions, chunks)
        loss = lsr_loss(similarities, self.scores[labels], self.tau, self.temperature, self.direction)
        if not self.mix:
            return loss
        return (1 - self.mix) * loss + self.mix * self._contrast(questions, chunks[:, 0], self.positives[labels])

    def _contrast(self, questions: Tensor, positives: Tensor, numbers: Tensor) -> Tensor:
        """InfoNCE over the batch's positives; the same chunk under another question is no negative."""
        same = (numbers[:, None] == numbers) & ~torch.eye(len(numbers), dtype=torch.bool, device=numbers.device)
        logits = (questions @ positives.T / self.temperature).masked_fill(same, -torch.inf)
        return nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
