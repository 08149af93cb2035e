"""Planned memory of the generator's training against a simulated one, for models that no CPU here
could hold.

    python benchmarks/memory.py [--cases 0.6b:16:1024:lora,8b:4:1024:lora,...]

One training step of a randomly shaped model runs on fake tensors, which have a shape and no data,
under PyTorch's MemTracker: it counts what is alive at every operation. Kernels' own work space, the
CUDA context and what an allocator loses between blocks are not in it, so the plan is compared
without its fixed part. A case is shape:rows:tokens a row:method, with `+ckpt` behind the method for
gradient checkpointing; 32 tokens of a row are learned. Writes
benchmarks/results/memory-<date>.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hardware import RESULTS
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional

from rag_ft.config_loader import make_config
from rag_ft.storage import write_text
from rag_ft.training.generator.lora import adapter_config
from rag_ft.training.generator.tokenization import IGNORED
from rag_ft.training.memory_estimate import training_memory
from rag_ft.training.model_shape import shape_of

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from random_models import SHAPES

CASES = (
    "0.6b:16:1024:lora,0.6b:16:1024:lora+ckpt,0.6b:4:1024:full,8b:4:1024:lora,8b:16:1024:lora+ckpt"
)
LEARNED_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Planned memory of the generator's training against a simulated one"
    )
    parser.add_argument("--cases", default=CASES)
    found = {case: measure(case) for case in parser.parse_args().cases.split(",")}
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = RESULTS / f"memory-{now}.json"
    write_text(
        path, json.dumps({"date": now, "torch": torch.__version__, "cases": found}, indent=1) + "\n"
    )
    print(f"written to {path}")


def measure(case: str) -> dict[str, Any]:
    size, rows, tokens, method = case.split(":")
    method, _, checkpointing = method.partition("+")
    settings = {
        "method": method,
        "advanced": {"gradient_checkpointing": bool(checkpointing)},
    }
    config = make_config({"run": {"dtype": "bfloat16"}, "train_generator": settings, "llm": {}})
    model = _on_meta(size, method)
    shape = shape_of(model)
    if method == "lora":
        from peft import get_peft_model

        with torch.device("meta"):
            model = get_peft_model(model, adapter_config(config.train_generator, model))
    with FakeTensorMode():
        _make_fake(model)
        simulated = _peak(model, int(rows), int(tokens), bool(checkpointing))
    planned = training_memory(
        shape,
        config.train_generator,
        int(rows) * int(tokens),
        int(rows) * LEARNED_TOKENS,
        "bfloat16",
        True,
    )
    planned.pop("fixed")
    # Made after the peak of a first step, and there at that of all others.
    simulated["optimiser"] = planned["optimiser"]
    total = sum(simulated.values())
    row = {
        "simulated_gb": round(total, 2),
        "planned_gb": round(sum(planned.values()), 2),
        "planned_share": round(sum(planned.values()) / total, 3),
        "simulated": {name: round(size, 2) for name, size in simulated.items()},
        "planned": {name: round(size, 2) for name, size in planned.items()},
    }
    print(case, row)
    return row


def _on_meta(size: str, method: str) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**SHAPES[size], max_position_embeddings=4096)
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if method == "full" else torch.bfloat16)
    try:
        with torch.device("meta"):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    return model


def _make_fake(model: Any) -> None:
    """Gives every weight and buffer a fake tensor on the CPU in place of its meta tensor; what
    trains in float32."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    store[name] = made.setdefault(id(value), (value, _fake(value)))[1]


def _fake(value: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if value.requires_grad else value.dtype
    new = torch.empty(value.shape, dtype=dtype)
    return (
        torch.nn.Parameter(new, value.requires_grad)
        if isinstance(value, torch.nn.Parameter)
        else new
    )


def _peak(model: Any, rows: int, tokens: int, checkpointing: bool) -> dict[str, float]:
    """GiB by kind of tensor at the peak of one step without the optimiser's state."""
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if hasattr(model, "enable_input_require_grads"):
            model.enable_input_require_grads()
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    labels[:, -LEARNED_TOKENS:] = 0
    tracker = MemTracker()
    tracker.track_external(model)
    with _hooks_on_frozen_weights(), tracker:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=LEARNED_TOKENS + 1).logits
        told = logits[:, :-1].flatten(0, 1).float()
        loss = functional.cross_entropy(
            told, labels[:, -LEARNED_TOKENS:].flatten(), reduction="sum"
        )
        del logits, told
        loss.backward()
        peak = next(iter(tracker.get_tracker_snapshot("peak").values()))
    names = {
        "Parameter": "weights",
        "Gradient": "gradients",
        "Activation": "activations",
        "Temp": "temporary",
    }
    found = {
        names.get(str(getattr(kind, "value", kind)), str(kind)): size / 2**30
        for kind, size in peak.items()
    }
    return {name: size for name, size in found.items() if size > 0.005 and "otal" not in name}


@contextmanager
def _hooks_on_frozen_weights() -> Any:
    """MemTracker puts gradient hooks on every weight, which those that take no gradient refuse."""

    class Nothing:
        def remove(self) -> None: ...

    names = ("register_hook", "register_post_accumulate_grad_hook")
    real = {name: getattr(torch.Tensor, name) for name in names}
    for name in names:
        setattr(
            torch.Tensor,
            name,
            lambda t, hook, put=real[name]: put(t, hook) if t.requires_grad else Nothing(),
        )
    try:
        yield
    finally:
        for name, put in real.items():
            setattr(torch.Tensor, name, put)


if __name__ == "__main__":
    main()
