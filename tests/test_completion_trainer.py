"""The trainer's loss and the order of its rows, against plain computations."""

from __future__ import annotations

import functools
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from generator_run import Make, prepare

from rag_ft.session import Session
from rag_ft.stages import train_generator
from rag_ft.training.generator.completion_trainer import (
    ArrangementSampler,
    CompletionTrainer,
    answer_losses,
)
from rag_ft.training.generator.dataset import build_training_set, read_training_set
from rag_ft.training.generator.lora import load_base
from rag_ft.training.generator.tokenization import IGNORED, load_chat_tokens
from rag_ft.training.generator.trainer import Schedule, arguments, dataset_of


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_every_pair_is_seen_once_before_any_is_seen_again(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[CompletionTrainer, list[list[int]]]] = []

    def look(trainer: CompletionTrainer, **_: Any) -> None:
        seen.append((trainer, list(trainer._get_train_sampler())))
        raise InterruptedError

    monkeypatch.setattr(CompletionTrainer, "train", look)
    config, run_dir = prepared(settings={"epochs": 2.5, "replay_share": 0.2})
    with pytest.raises(InterruptedError):
        train_generator.run(Session(config, run_dir))
    [(trainer, steps)] = seen
    order = [
        number for step in steps for number in sorted(trainer.arrangements[row] for row in step)
    ]
    assert (
        set(order) == {0, 1, 2}
        and len(order) == len(trainer.train_dataset)
        and order == sorted(order)
    )


@pytest.mark.parametrize(("num_processes", "accumulation"), [(1, 1), (1, 4), (2, 2), (4, 1)])
def test_a_step_holds_the_same_rows_however_many_processes_share_them(
    num_processes: int, accumulation: int
) -> None:
    lengths, arrangements = [5 + 7 * n % 40 for n in range(41)], [n % 3 for n in range(41)]

    def steps(count: int, passes: int) -> list[list[int]]:
        settings = {
            "lengths": lengths,
            "effective_batch_size": 8,
            "dp_size": count,
            "grad_accum": passes,
            "seed": 3,
        }
        shares = [
            list(ArrangementSampler(arrangements, **settings, rank=r, drop_last=False))
            for r in range(count)
        ]
        slots = [[row for share in shares for row in share[slot]] for slot in range(len(shares[0]))]
        return [
            sorted(chain(*slots[start : start + passes])) for start in range(0, len(slots), passes)
        ]

    alone, shared = steps(1, 1), steps(num_processes, accumulation)
    assert shared[:-1] == alone[:-1] and set(shared[-1]) >= set(alone[-1])
    assert sorted(chain(*alone)) == list(range(41)) and len(shared) == 6


def test_the_dev_loss_is_nats_a_token_whatever_the_batch(prepared: Make, tmp_path: Path) -> None:
    import torch

    config, run_dir = prepared(llm__model="data/models/demo-lm")
    tokens = load_chat_tokens(config.llm.required_model)
    build_training_set(Session(config, run_dir), tokens.encode, tmp_path / "set")
    rows = read_training_set(tmp_path / "set").train[:11]
    settings, model = config.train_generator, load_base(config.llm, config.train_generator).eval()
    total, count = 0.0, 0
    for example in rows:
        ids, learned = list(example.encoded.input_ids), example.encoded.num_answer_tokens
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        total -= sum(
            float(logprobs[place - 1, ids[place]]) for place in range(len(ids) - learned, len(ids))
        )
        count += learned
    for device_batch in (1, 4, 16):
        schedule = Schedule(device_batch, 1, 1.0, 1, 1, False)
        trainer = CompletionTrainer(
            model=model,
            args=arguments(settings, "float32", 0, schedule, "loss", tmp_path / "out"),
            train_dataset=dataset_of(rows),
            eval_dataset=dataset_of(rows),
            processing_class=tokens.tokenizer,
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_the_loss_is_that_of_each_answer_alone(tiny_lm_dir: Path, fused: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    model = AutoModelForCausalLM.from_pretrained(tiny_lm_dir, dtype=torch.float32)
    add_fused_lm_head(model)
    rows = [
        (list(range(5, 5 + length)), learned) for length, learned in ((70, 3), (40, 9), (64, 1))
    ]
    total = torch.zeros(())
    for ids, learned in rows:
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        total -= sum(
            logprobs[place - 1, ids[place]] for place in range(len(ids) - learned, len(ids))
        )
    padded = torch.tensor([ids + [0] * (70 - len(ids)) for ids, _ in rows])
    labels = torch.full_like(padded, IGNORED)
    for row, (ids, learned) in enumerate(rows):
        labels[row, len(ids) - learned : len(ids)] = torch.tensor(ids[-learned:])
    loss = answer_losses(model, padded, labels, fused).sum()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
