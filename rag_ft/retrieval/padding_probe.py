"""Whether an encoder gives a text the same vector in a padded batch as alone: tried on one.

Nearly all do. Where a convolution or a pooling over positions reads the padding (Funnel,
MobileBERT), a text's vector depends on the width of its batch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from rag_ft.errors import ConfigError, first_line
from rag_ft.model_loading import load_errors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)
TEXTS = ["Why?", "A text that is longer than the one before it."]
TOLERANCE, COARSE_TOLERANCE = 1e-4, 0.03  # relative error that rounding explains; of 16 bits
_IGNORES_PADDING: WeakKeyDictionary[SentenceTransformer, bool] = WeakKeyDictionary()


def ignores_padding(model: SentenceTransformer) -> bool:
    """Whether a text gets the same vector beside a longer one as alone.

    Raises:
        ConfigError: the model cannot encode a short text, or its vectors are not as wide as its
            modules say.
    """
    if model not in _IGNORES_PADDING:
        _IGNORES_PADDING[model] = _error(model) < _tolerance(model)
        if not _IGNORES_PADDING[model]:
            logger.warning(
                "The encoder's vectors change with the padding of a batch: they are those of "
                "SentenceTransformer.encode, and a text's depend on the texts beside it."
            )
    return _IGNORES_PADDING[model]


def _tolerance(model: SentenceTransformer) -> float:
    import torch

    return TOLERANCE if model.dtype == torch.float32 else COARSE_TOLERANCE


def _error(model: SentenceTransformer) -> float:
    unfit: tuple[type[Exception], ...] = (*load_errors(), IndexError)
    try:
        padded = model.encode(TEXTS, convert_to_tensor=True)[0].float()
        alone = model.encode(TEXTS[:1], convert_to_tensor=True)[0].float()
    except unfit as error:
        raise ConfigError(
            f"the encoder cannot encode a short text ({first_line(error)[:120]}): set "
            "encoder.model to another one"
        ) from error
    width, named = len(alone), model.get_embedding_dimension()
    if width != named:
        raise ConfigError(
            f"the encoder gives vectors of {width} numbers, and its modules name {named}: set "
            "encoder.model to another one"
        )
    return float((padded - alone).norm() / alone.norm().clamp(min=1e-9))
