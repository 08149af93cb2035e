"""Which linear layers get no LoRA adapter, by what a model is built of and by trying it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

NUMBER = re.compile(r"\d+")


def unfit_layers(model: Any, read: Callable[[], object] | None) -> list[str]:
    """Regular expressions of the linear layers that an adapter would not help, or not fit.

    Those are the layers of state-space mixers whose weights the mixers' kernels read past an
    adapter, and those that a text does not go through, such as layers for images, or that give
    something else than a linear layer does, such as Llama 4's routers. Layers in the same place of
    other blocks, or of other experts, count together.

    Args:
        model: a transformers model.
        read: sends a short text through it. None where it cannot be tried: only the mixers are
            found.
    """
    named = dict(model.named_modules())
    found = set()
    for name in _linear(model):
        mixer, _, own = name.rpartition(".")
        # A_log is what makes a mixer a state space (Mamba and its relatives).
        if hasattr(named.get(mixer), "A_log") and not own.startswith("in_proj"):
            found.add(_place(name))
    if read is not None:
        found |= _unread(model, read)
    return sorted(found)


def _unread(model: Any, read: Callable[[], object]) -> set[str]:
    fits: dict[str, bool] = {}
    hooks = []

    def watch(place: str) -> Callable[..., None]:
        def called(module: Any, inputs: Any, output: Any) -> None:
            fits[place] = fits.get(place, True) and isinstance(output, torch.Tensor)

        return called

    linear = _linear(model)
    try:
        for name, module in linear.items():
            hooks.append(module.register_forward_hook(watch(_place(name))))
        with torch.no_grad():
            read()
    finally:
        for hook in hooks:
            hook.remove()
    return {_place(name) for name in linear if not fits.get(_place(name), False)}


def _linear(model: Any) -> dict[str, torch.nn.Linear]:
    found = model.named_modules()
    return {name: module for name, module in found if isinstance(module, torch.nn.Linear)}


def _place(name: str) -> str:
    """A regular expression of a layer's name, whatever the numbers of block and expert."""
    return NUMBER.sub(r"\\d+", re.escape(name))
