"""A cross-encoder that reads question and chunk together, as one more score of the first chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_ft.config import RerankerConfig
from rag_ft.errors import ConfigError
from rag_ft.hardware import WIDTH_STEP, choose_device, choose_dtype
from rag_ft.model_files import transformer_folder
from rag_ft.model_hub import resolve
from rag_ft.model_loading import check_stored, load_errors, loading_error, quiet_loading
from rag_ft.retrieval.encoder import usable_positions
from rag_ft.retrieval.fusion import Ranking, best_first, min_max

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

TUNED = "tuned"  # the name of the reranker that train_reranker tuned
PROBE_PAIRS = [("What floats?", "A boat floats."), ("Who?", "Nobody was there at all.")]


class Reranker:
    """Any CrossEncoder of sentence-transformers with one score. It is loaded for the first
    question."""

    def __init__(
        self, config: RerankerConfig, text_of: Callable[[str], str], folder: Path | None = None
    ) -> None:
        """`text_of` gives what it reads of a chunk, by id; `folder` is that of a tuned one, in
        place of the configured model. `depth`: most chunks of a question that it may score."""
        self.config, self._text_of, self._folder = config, text_of, folder
        self.depth = config.advanced.depth
        self.name = TUNED if folder else str(config.untuned)

    def scores(self, question: str, chunk_ids: Sequence[str]) -> np.ndarray:
        """How well each chunk answers the question, 0-1.

        Raises:
            ConfigError: the model cannot be loaded, or has several scores.
        """
        if not chunk_ids:
            return np.zeros(0)
        import torch

        pairs = [(question, self._text_of(chunk_id)) for chunk_id in chunk_ids]
        # The same activation for every model: mixtures need one scale.
        logits = self._model.predict(
            pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return 1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))

    @functools.cached_property
    def _model(self) -> CrossEncoder:
        from rag_ft.fast.packed_linear import pack_linears

        folder, device = self._folder or resolve(self.name, "reranker"), choose_device()
        dtype = choose_dtype(self.config.dtype, device)
        model = load_cross_encoder(folder, self.config.advanced.max_tokens, dtype, device)
        if device == "cpu":
            pad_to_few_widths(model)
            pack_linears(model, lambda: model.predict(PROBE_PAIRS, convert_to_tensor=True))
        return model


def load_cross_encoder(
    folder: Path, max_tokens: int, dtype: str, device: str, whole: bool = True
) -> CrossEncoder:
    """The CrossEncoder in `folder`. Where it need not be `whole`, that of an encoder gets a head
    with random weights, to be trained.

    Raises:
        ConfigError: it cannot be loaded, lacks weights, or has several scores.
    """
    from sentence_transformers import CrossEncoder

    try:
        with quiet_loading():
            model = CrossEncoder(
                str(folder),
                device=device,
                max_length=max_tokens,
                model_kwargs={"dtype": dtype},
                local_files_only=True,
            )
            transformer: Any = model[0].auto_model
            if whole:
                check_stored(transformer_folder(folder), "reranker", transformer)
    except load_errors() as error:
        raise loading_error(folder, "reranker", error) from error
    # The limit of the settings may be beyond the model's positions.
    positions = usable_positions(model)
    if positions and (model.max_seq_length or positions + 1) > positions:
        model.max_seq_length = positions
    if model.num_labels != 1:
        raise ConfigError(
            f"reranker.model: {folder} has {model.num_labels} scores, a reranker has one: "
            "set reranker.model to another"
        )
    return model


def pad_to_few_widths(model: CrossEncoder) -> None:
    """Pads batches to multiples of WIDTH_STEP (see hardware.padded_width). A model whose limit is
    no multiple stays as it is: a batch could exceed its positions. So does a causal one, which
    reads its score at the last token."""
    reader: Any = model[0]
    is_classifier = reader.transformer_task == "sequence-classification"
    if is_classifier and reader.max_seq_length and reader.max_seq_length % WIDTH_STEP == 0:
        text = {"pad_to_multiple_of": WIDTH_STEP}
        reader.processing_kwargs = {**reader.processing_kwargs, "text": text}


def rerank(ranking: Ranking, scores: np.ndarray, weight: float) -> Ranking:
    """The ranking with its first `len(scores)` rows ordered by (1 - w) x their own score + w x
    `scores`, both min-max normalised; the others follow as they were. Scores 0-1."""
    rows, own = ranking
    depth = len(scores)
    mixed = (1 - weight) * min_max(own[:depth]) + weight * min_max(scores)
    first_rows, first = best_first(rows[:depth], mixed)
    # The first ones stay above the others, whatever both scores say.
    return (
        np.concatenate([first_rows, rows[depth:]]),
        np.concatenate([0.5 + 0.5 * first, 0.5 * np.clip(own[depth:], 0, 1)]),
    )
