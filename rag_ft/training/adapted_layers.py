"""Which linear layers get no LoRA adapter, by what a model is built of and by trying it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch


def unfit_layers(model: Any, read: Callable[[], object] | None) -> list[str]:
    """Regular expressions of the linear layers that an adapter would not help, or not fit.

    Those are the layers of state-space mixers whose weights the mixers' kernels read past an
    adapter, and those that a text does not go through, such as layers for images, or that give
    something else than a linear layer does, such as Llama 4's routers.

    Args:
        model: a transformers model.
        read: sends a short text through it. None where it cannot be tried: only the mixers are
            found.
    """
    named = dict(model.named_modules())
    linear = {n: m for n, m in named.items() if isinstance(m, torch.nn.Linear)}
    unfit = set()
    for name in linear:
        mixer, _, own = name.rpartition(".")
        # A_log is what makes a mixer a state space (Mamba and its relatives).
        if hasattr(named.get(mixer), "A_log") and not own.startswith("in_proj"):
            unfit.add(name)
    if read is not None:
        fit = _read_layers(linear, read)
        unfit |= {name for name in linear if _place(name, 1) not in fit}

    # One expression for all blocks, where they are alike.
    some_fit = {_place(name, 0) for name in linear if name not in unfit}
    wide = {_place(name, 0): _place(name, 0) not in some_fit for name in unfit}
    return sorted({_place(name, 0) if wide[_place(name, 0)] else re.escape(name) for name in unfit})


def _read_layers(linear: dict[str, torch.nn.Linear], read: Callable[[], object]) -> set[str]:
    """The places of the layers that a text goes through and that give one tensor."""
    fits: dict[str, bool] = {}

    def watch(place: str) -> Callable[..., None]:
        def called(module: Any, inputs: Any, output: Any) -> None:
            fits[place] = fits.get(place, True) and isinstance(output, torch.Tensor)

        return called

    # A short text does not reach every expert, so those of a block count together.
    hooks = [
        module.register_forward_hook(watch(_place(name, 1))) for name, module in linear.items()
    ]
    try:
        with torch.no_grad():
            read()
    finally:
        for hook in hooks:
            hook.remove()
    return {place for place, fit in fits.items() if fit}


def _place(name: str, kept: int) -> str:
    """A regular expression of a layer's name, whatever the numbers in it after the first `kept`:
    the first is that of its block, the next one that of an expert."""
    parts = []
    for part in name.split("."):
        kept -= part.isdigit()
        parts.append(r"\d+" if part.isdigit() and kept < 0 else re.escape(part))
    return r"\.".join(parts)
