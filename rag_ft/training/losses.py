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
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad, get_rank
from torch import Tensor, nn

from rag_ft.training.lsr import Direction, lsr_loss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Features = Iterable[dict[str, Tensor]]
MINI_BATCH = (
    32  # texts encoded at once where a batch does not fit, and the largest batch taken whole
)


def contrastive_loss(
    model: SentenceTransformer, temperature: float, batch_size: int, gather: bool
) -> nn.Module:
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

    def __init__(
        self, model: SentenceTransformer, vectors: Tensor, temperature: float, gather: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.inner = MultipleNegativesRankingLoss(
            model, scale=1 / temperature, gather_across_devices=gather
        )
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, sentence_features: Features, labels: Tensor) -> Tensor:
        questions = self.model(next(iter(sentence_features)))["sentence_embedding"]
        chunks = self.vectors[labels].to(questions.dtype)
        return self.inner.compute_loss_from_embeddings([questions, *chunks.unbind(dim=1)], labels)


@dataclass(frozen=True)
class Teacher:
    """`scores` (num_rows, k): the LM's mean log-probabilities in the order of the row's chunk columns; `tau` their
    temperature; `proving` (num_rows, m): the numbers of the chunks that prove the row's answer, its first chunk first,
    filled up with -1."""

    scores: Tensor
    tau: float
    proving: Tensor


class LsrLoss(CachedLossMixin, nn.Module):
    """`lsr_loss` of the batch's questions and their k chunks, all encoded with gradient, a mini-batch at a time.

    Args:
        mix: 0-1, share of a contrastive loss in which the first chunk column is the positive and the other
            questions' first chunks are the negatives.
        vectors: (num_rows, k, dim) frozen chunk vectors, or None to encode the chunks with gradient.
        gather: whether other processes hold a part of the batch: their positives count too.
    """

    scores: Tensor
    proving: Tensor
    vectors: Tensor | None

    def __init__(
        self,
        model: SentenceTransformer,
        teacher: Teacher,
        temperature: float,
        direction: Direction,
        mix: float = 0.0,
        vectors: Tensor | None = None,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.mini_batch_size = model, MINI_BATCH
        self.tau, self.temperature, self.direction, self.mix = (
            teacher.tau,
            temperature,
            direction,
            mix,
        )
        self.gather = gather
        self.register_buffer("scores", teacher.scores, persistent=False)
        self.register_buffer("proving", teacher.proving, persistent=False)
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
        questions, chunks = (
            nn.functional.normalize(x.float(), dim=-1) for x in (questions, chunks)
        )
        similarities = torch.einsum("bd,bkd->bk", questions, chunks)
        loss = lsr_loss(
            similarities, self.scores[labels], self.tau, self.temperature, self.direction
        )
        if not self.mix:
            return loss
        return (1 - self.mix) * loss + self.mix * self._contrast(
            questions, chunks[:, 0], self.proving[labels]
        )

    def _contrast(self, questions: Tensor, positives: Tensor, proving: Tensor) -> Tensor:
        """InfoNCE over the positives of the whole batch; one that proves the question's answer too is no negative."""
        numbers, own = proving[:, 0], torch.arange(len(questions), device=questions.device)
        targets = own
        if self.gather:
            positives, numbers = all_gather_with_grad(positives), all_gather(numbers.contiguous())
            targets = own + get_rank() * len(own)
        proves = (proving[:, :, None] == numbers).any(dim=1)
        proves[own, targets] = False
        logits = (questions @ positives.T / self.temperature).masked_fill(proves, -torch.inf)
        return nn.functional.cross_entropy(logits, targets)
