"""Which linear layers get no LoRA adapter, by what a model is built of."""

from __future__ import annotations

import re
from typing import Any

import torch


def state_space_layers(model: Any) -> list[str]:
    """Regular expressions of the linear layers of state-space mixers whose weights the mixers'
    kernels read past an adapter."""
    named = dict(model.named_modules())
    found = set()
    for name, module in named.items():
        mixer, _, own = name.rpartition(".")
        # A_log is what makes a mixer a state space (Mamba and its relatives).
        is_inside = isinstance(module, torch.nn.Linear) and hasattr(named.get(mixer), "A_log")
        if is_inside and not own.startswith("in_proj"):
            found.add(rf".*\.{re.escape(mixer.rpartition('.')[2])}\.{re.escape(own)}")
    return sorted(found)
