"""Linear layers laid out for the CPU give the same numbers, or the model is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from rag_ft.fast.packed_linear import PackedLinear, pack_linears
from rag_ft.hardware import native_bfloat16


def bert(activation: str = "gelu") -> BertModel:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    return BertModel(BertConfig(vocab_size=100, hidden_act=activation, **shape)).eval()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_encoder_computes_the_same(activation: str, dtype: torch.dtype) -> None:
    if not torch.backends.mkldnn.is_available() or (
        dtype == torch.bfloat16 and not native_bfloat16("cpu")
    ):
        pytest.skip(f"this processor does not multiply {dtype} by oneDNN")
    model, ids = bert(activation).to(dtype), torch.arange(5, 29).reshape(2, 12)
    with torch.inference_mode():
        wanted = model(ids).last_hidden_state
        num = pack_linears(model)
        found = model(ids).last_hidden_state
    assert num == 2 * 6 + 1
    assert not any(type(module) is nn.Linear for module in model.modules())
    fused = [m for m in model.modules() if isinstance(m, PackedLinear) and m.activation == "gelu"]
    assert len(fused) == (2 if activation == "gelu" else 0)
    assert (found - wanted).norm() < (1e-5 if dtype == torch.float32 else 2e-2) * wanted.norm()


def test_a_model_is_left_alone_where_the_operation_is_missing_or_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such processor")

    monkeypatch.setattr(PackedLinear, "forward", refuse)
    assert pack_linears(bert()) == 0
    monkeypatch.setattr(
        PackedLinear, "forward", lambda self, x: x.new_zeros(*x.shape[:-1], self.bias.shape[0])
    )
    model = bert()
    assert pack_linears(model) == 0
    assert any(type(module) is nn.Linear for module in model.modules())
