"""Benchmark: benchmarks/encoding.py; AMD EPYC: float32 2.1, bfloat16 1.1 times; Intel: no gain.

These are times the encoding speed without it. On an Intel Xeon without bfloat16, encoding with it
is 1.00 times as fast as the library.

Linear layers of an encoder on a CPU: the weights are laid out once for oneDNN, which also computes
the GELU behind them. The plain path is the model's own torch.nn.Linear; both give the same result
within TOLERANCE. PyTorch multiplies float32 by MKL, which on an AMD EPYC reached 109 GFLOP/s a core
where oneDNN reached 250, and a GELU in bfloat16 takes as long as the layer before it. These are the
operators that torch.compile generates for a frozen model, without its C++ compiler and its compile
time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class PackedLinear(nn.Module):
    """activation(x @ weight.T + bias) for inference; `activation` is "none" or "gelu" (exact)."""

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features), in the type of the weights."""
        return torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, self.activation, [], "none"
        )


def pack_linears(model: nn.Module, run: Callable[[], torch.Tensor] | None = None) -> int:
    """Replaces the linear layers of `model` in place and returns their number.

    It is 0 where this PyTorch or processor cannot do it or gives another result. The model is then
    for inference on the CPU only.

    Args:
        model: is changed.
        run: computes something by the model. Where it fails or gives something else afterwards, all
            layers are put back and 0 is returned: the code of some models (T5) reads the weights of
            its layers itself.
    """
    from transformers.activations import GELUActivation

    places = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]
    if not places or not _gives_the_same(places[0][2]):
        return 0
    wanted = run() if run else None
    activations: list[tuple[nn.Module, Any]] = []
    for module, name, linear in places:
        # In BERT and its relatives module.intermediate_act_fn follows module.dense. oneDNN computes
        # the exact GELU only, not its tanh approximation.
        following = getattr(module, "intermediate_act_fn", None) if name == "dense" else None
        if isinstance(following, nn.GELU):
            fused = following.approximate == "none"
        else:
            fused = isinstance(following, GELUActivation) and following.act is functional.gelu
        setattr(module, name, PackedLinear(linear, "gelu" if fused else "none"))
        if fused:
            activations.append((module, following))
            module.intermediate_act_fn = nn.Identity()
    if run is None or wanted is None or _alike(run, wanted, places[0][2].weight.dtype):
        return len(places)
    for module, name, linear in places:
        setattr(module, name, linear)
    for module, activation in activations:
        module.intermediate_act_fn = activation
    return 0


def _alike(run: Callable[[], torch.Tensor], wanted: torch.Tensor, dtype: torch.dtype) -> bool:
    try:
        found = run().float()
    except (AttributeError, TypeError, RuntimeError, ValueError):
        return False
    # Rounding adds up over the layers.
    largest = 5 * TOLERANCE[dtype] * wanted.float().norm() + 1e-6
    return bool((found - wanted.float()).norm() <= largest)


@torch.inference_mode()
def _gives_the_same(linear: nn.Linear) -> bool:
    """Tries one layer on random numbers: the operators are private to PyTorch and may be wrong."""
    weight = linear.weight
    if weight.dtype not in TOLERANCE or weight.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.randn(2, 3, linear.in_features, generator=torch.Generator().manual_seed(0))
    x = x.to(weight.dtype)
    try:
        found, wanted = PackedLinear(linear, "gelu")(x).float(), functional.gelu(linear(x)).float()
    # A later PyTorch may lack the operators, and they may not support this processor.
    except (AttributeError, RuntimeError):
        return False
    largest = TOLERANCE[weight.dtype] * wanted.norm() + 1e-6
    return found.shape == wanted.shape and bool((found - wanted).norm() <= largest)
