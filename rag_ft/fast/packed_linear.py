"""Benchmark: benchmarks/encoding.py; float32 encoding from 1.2 to 2.5 times the library's speed.

Linear layers of an encoder on a CPU: the weights are laid out once for oneDNN, which also computes
the GELU behind them. The plain path is the model's own torch.nn.Linear; both give the same result
within TOLERANCE. PyTorch multiplies float32 by MKL, which on an AMD EPYC reached 109 GFLOP/s a core
where oneDNN reached 250, and a GELU in bfloat16 takes as long as the layer before it. These are the
operators that torch.compile generates for a frozen model, without its C++ compiler and its compile
time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class PackedLinear(nn.Module):
    """activation(x @ weight.T + bias) for inference; `activation` is "none" or "gelu" (the exact
    one)."""

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, self.activation, [], "none"
        )


def pack_linears(model: nn.Module) -> int:
    """Replaces the linear layers of `model` in place and returns their number: 0 where this PyTorch
    or processor cannot, or gives another result. The model is then for inference on the CPU
    only."""
    places = [
        (m, name, c)
        for m in model.modules()
        for name, c in m.named_children()
        if type(c) is nn.Linear
    ]
    if not places or not _works(places[0][2]):
        return 0
    for module, name, linear in places:
        # In BERT and its relatives module.intermediate_act_fn follows module.dense.
        fused = name == "dense" and _has_gelu(module)
        setattr(module, name, PackedLinear(linear, "gelu" if fused else "none"))
        if fused:
            module.intermediate_act_fn = nn.Identity()
    return len(places)


def _has_gelu(module: nn.Module) -> bool:
    from transformers.activations import GELUActivation

    activation = getattr(module, "intermediate_act_fn", None)
    if isinstance(activation, nn.GELU):
        return activation.approximate == "none"
    return isinstance(activation, GELUActivation) and activation.act is functional.gelu


@torch.inference_mode()
def _works(linear: nn.Linear) -> bool:
    tolerance = TOLERANCE.get(linear.weight.dtype)
    if (
        tolerance is None
        or linear.weight.device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    x = torch.randn(2, 3, linear.in_features, generator=torch.Generator().manual_seed(0)).to(
        linear.weight.dtype
    )
    try:
        found, wanted = PackedLinear(linear, "gelu")(x).float(), functional.gelu(linear(x)).float()
    except (AttributeError, RuntimeError):  # private to PyTorch: it may go, or refuse a processor
        return False
    return found.shape == wanted.shape and bool(
        (found - wanted).norm() <= tolerance * wanted.norm() + 1e-6
    )
