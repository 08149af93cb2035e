"""Benchmark: benchmarks/preference.py, AMD EPYC, float32; 3.2 times TRL's DPOTrainer, well set.

Log-probabilities of two replies to one prompt, which is computed once: a row is prompt, chosen and
rejected reply. The rejected one has the positions of the chosen one and does not see it. The plain
path computes the prompt once for each reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from rag_ft.hardware import padded_width


@dataclass(frozen=True)
class SharedPrompts:
    """Makes a batch of rows: a collator for `shared_logps`. Rows are padded on the right to
    multiples of `width_step`."""

    pad: int
    width_step: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows have prompt_ids, chosen_ids and rejected_ids; numbers beside them are kept.

        Returns input_ids and position_ids (rows, width); attention_mask (rows, 1, width, width),
        true where a token is seen; and for each token of a reply, in one list: its row, its label,
        the column that predicts it, and whether it is of the chosen reply.
        """
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        parts = [tuple(len(row[name]) for name in names) for row in rows]
        width = padded_width(max(map(sum, parts)), self.width_step)
        ids = torch.full((len(rows), width), self.pad)
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        seen = causal.repeat(len(rows), 1, 1)
        tokens: list[tuple[int, int, int, bool]] = []
        for number, (row, (start, num_chosen, num_rejected)) in enumerate(
            zip(rows, parts, strict=True)
        ):
            middle, end = start + num_chosen, start + num_chosen + num_rejected
            ids[number, :end] = torch.tensor([i for name in names for i in row[name]])
            positions[number, :middle] = torch.arange(middle)
            positions[number, middle:end] = torch.arange(start, start + num_rejected)
            seen[number, middle:end, start:middle] = False
            before = [start - 1, *range(start, middle - 1)]
            tokens += [(number, t, b, True) for t, b in zip(row["chosen_ids"], before, strict=True)]
            before = [start - 1, *range(middle, end - 1)]
            tokens += [
                (number, t, b, False) for t, b in zip(row["rejected_ids"], before, strict=True)
            ]
        columns = list(zip(*tokens, strict=True))
        batch = {
            "input_ids": ids,
            "position_ids": positions,
            "attention_mask": seen[:, None],
            "row": torch.tensor(columns[0]),
            "label": torch.tensor(columns[1]),
            "column": torch.tensor(columns[2]),
            "is_chosen": torch.tensor(columns[3]),
        }
        others = {name for name in rows[0] if name not in names}
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in sorted(others)}


def shared_logps(
    model: Any, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p (nats, float32) of the chosen and of the rejected reply of each row, and the tokens of
    the chosen one.

    `model` reads a mask of four dimensions, as with attention by PyTorch's SDPA.
    """
    first = int(batch["column"].min())
    num_kept = batch["input_ids"].shape[1] - first
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
        logits_to_keep=num_kept,
    ).logits[:, -num_kept:]
    predicting = logits[batch["row"], batch["column"] - first].float()
    logps = -functional.cross_entropy(predicting, batch["label"], reduction="none")
    num_rows, place = len(batch["input_ids"]), (batch["is_chosen"].long(), batch["row"])
    sums = torch.zeros(2, num_rows, device=logps.device).index_put(place, logps, accumulate=True)
    return sums[1], sums[0], batch["row"][batch["is_chosen"]].bincount(minlength=num_rows)
