"""The losses of the retriever's training: modules that sentence-transformers' trainer calls with
the features of each text column and the column `label`.

A new loss is a file with a function (model, LossSettings) -> module, and its line in `LOSSES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn

from rag_ft.errors import ConfigError
from rag_ft.training.retriever.lm_supervision import lsr_loss
from rag_ft.training.retriever.loss_settings import MINI_BATCH, Features, LossSettings, MakeLoss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def contrastive_loss(model: SentenceTransformer, settings: LossSettings) -> nn.Module:
    """InfoNCE over the gold chunks and negatives of the batch (van den Oord et al. 2018)."""
    scale, gather = 1 / settings.temperature, settings.gather
    if settings.frozen_chunks:
        return FrozenChunksLoss(model, scale=scale, gather_across_devices=gather)
    if settings.batch_size > MINI_BATCH:
        # A large batch does not fit: gradient caching encodes it a part at a time.
        return CachedMultipleNegativesRankingLoss(
            model, scale=scale, gather_across_devices=gather, mini_batch_size=MINI_BATCH
        )
    return MultipleNegativesRankingLoss(model, scale=scale, gather_across_devices=gather)


# The values of train_retriever.advanced.loss. The loss reads the columns question, chunk_0 (the
# gold chunk) and chunk_1, chunk_2, ... (the mined negatives).
LOSSES: dict[str, MakeLoss] = {
    "contrastive": contrastive_loss,
}


def find_loss(name: str) -> MakeLoss:
    """The loss of that name in LOSSES.

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    if name not in LOSSES:
        known = ", ".join(LOSSES)
        raise ConfigError(
            f"there is no train_retriever.advanced.loss={name}: choose one of: {known}"
        )
    return LOSSES[name]


def lm_supervised_loss(model: SentenceTransformer, settings: LossSettings) -> nn.Module:
    """The divergence between the chunks that the encoder and the language model prefer."""
    return LMSupervisedLoss(model, settings.temperature, settings.lm_temperature)


class FrozenChunksLoss(MultipleNegativesRankingLoss):
    """InfoNCE where only the question is encoded: chunk vectors (unit norm) come with the batch."""

    def forward(self, sentence_features: Features, labels: Tensor) -> Tensor:
        """Features of the question and vectors of each chunk column -> scalar."""
        question, *chunks = sentence_features
        vectors = self.model(question)["sentence_embedding"]
        frozen = [chunk["sentence_embedding"].to(vectors.dtype) for chunk in chunks]
        loss: Tensor = self.compute_loss_from_embeddings([vectors, *frozen], labels)
        return loss


class LMSupervisedLoss(CachedLossMixin, nn.Module):
    """`lsr_loss` of the batch's questions and their k chunks; `label` is the LM's scores, (b, k).

    Questions and chunks are encoded with gradient, a mini-batch at a time. Where chunk vectors come
    with the batch, only the questions are encoded.
    """

    def __init__(
        self, model: SentenceTransformer, temperature: float, lm_temperature: float
    ) -> None:
        super().__init__()
        self.model, self.mini_batch_size = model, MINI_BATCH
        self.temperature, self.lm_temperature = temperature, lm_temperature

    def forward(self, sentence_features: Features, labels: Tensor) -> Tensor:
        """Features of the question and of each chunk column, scores (b, k) -> scalar."""
        question, *chunks = sentence_features
        if "sentence_embedding" not in chunks[0]:
            return self.forward_cached([question, *chunks], labels)
        vectors = self.model(question)["sentence_embedding"]
        frozen = torch.stack([chunk["sentence_embedding"] for chunk in chunks], dim=1)
        return self.of_embeddings(vectors, frozen, labels)

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """What the gradient cache calls: vectors of each column, in mini-batches -> scalar."""
        assert labels is not None
        questions, *chunks = (torch.cat(column) for column in reps)
        loss = self.of_embeddings(questions, torch.stack(chunks, dim=1), labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def of_embeddings(self, questions: Tensor, chunks: Tensor, lm_scores: Tensor) -> Tensor:
        """(b, dim), (b, k, dim), (b, k) -> scalar."""
        questions, chunks = (
            nn.functional.normalize(x.float(), dim=-1) for x in (questions, chunks)
        )
        similarities = torch.einsum("bd,bkd->bk", questions, chunks)
        return lsr_loss(similarities, lm_scores, self.lm_temperature, self.temperature)
