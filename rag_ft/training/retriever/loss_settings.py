"""What a loss of the retriever's training is built from. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

# Features of a column's texts, as sentence-transformers hands them to a loss.
Features = Iterable[dict[str, "Tensor"]]

# Texts that are encoded at once where a batch does not fit, and the largest batch taken whole.
MINI_BATCH = 32


@dataclass(frozen=True)
class LossSettings:
    """What a loss is built from.

    `temperature` divides the cosines of the encoder, `lm_temperature` the scores of the language
    model. `batch_size` counts the rows of all processes. `frozen_chunks`: chunk vectors come with
    the batch (as the feature `sentence_embedding`) and get no gradient. `gather`: other processes
    hold a part of the batch, whose chunks are negatives too.
    """

    temperature: float
    batch_size: int
    frozen_chunks: bool = False
    gather: bool = False
    lm_temperature: float = 1.0


MakeLoss = Callable[["SentenceTransformer", LossSettings], "nn.Module"]
