"""Which linear layers get no LoRA adapter, by what a model is built of."""

from __future__ import annotations

import re
from typing import Any

import torch


def unfit_layers(model: Any) -> list[str]:
    """Regular expressions of the linear layers that an adapter cannot stand beside: those of
    state-space mixers whose weights the mixers' kernels read past it, and those that return
    something else than a linear layer does, such as the routers of Llama 4."""
    named = dict(model.named_modules())
    found = set()
    for name, module in named.items():
        mixer, _, own = name.rpartition(".")
        if not isinstance(module, torch.nn.Linear):
            continue
        # A_log is what makes a mixer a state space (Mamba and its relatives).
        is_inside = hasattr(named.get(mixer), "A_log") and not own.startswith("in_proj")
        if is_inside or _computes_otherwise(module):
            found.add(rf".*\.{re.escape(mixer.rpartition('.')[2])}\.{re.escape(own)}")
    return sorted(found)


def _computes_otherwise(module: torch.nn.Linear) -> bool:
    """A model's own kind of linear layer; those of quantised weights are the libraries'."""
    kind = type(module)
    of_model = kind.__module__.startswith(("transformers.models.", "transformers_modules."))
    return of_model and kind.forward is not torch.nn.Linear.forward
