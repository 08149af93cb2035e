"""Preference tuning: what replies are worth, which are compared, and what is trained."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from generator_run import Make, as_file, assert_kill_changes_nothing, prepare, start, weights

from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import train_generator
from rag_ft.storage import read_rows
from rag_ft.training.generator import preference
from rag_ft.training.generator.preference_pairs import (
    Compared,
    Judged,
    Preference,
    balance,
    judge,
    prefer,
    quadrants,
)
from rag_ft.training.generator.preference_prompts import PreferencePrompt
from rag_ft.training.generator.preference_trainer import PHASE, DevScores
from rag_ft.training.generator.tokenization import Encoded

ABSTAIN = "I don't know."
ANSWERED = PreferencePrompt("q", "gold", Encoded((1, 2, 3, 9), 2), 3, (2,), ("red dye", "red"))
WITHHELD = replace(ANSWERED, shown="withheld", gold=(), answers=())
SETTINGS = {
    "preference": "dpo",
    "preference_samples": 3,
    "preference_learning_rate": 1e-2,
    "epochs": 6,
    "evaluations": 2,
    "human_weight": 1,
}


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


@pytest.mark.parametrize(
    ("reply", "prompt", "cite", "score"),
    [
        ("red", ANSWERED, False, 1.0),
        ("a blue dye", ANSWERED, False, 0.5),
        ("green", ANSWERED, False, 0.0),
        ("I don't know.", ANSWERED, False, 0.0),
        ("", ANSWERED, False, 0.0),
        ("red [2]", ANSWERED, True, 1.0),
        ("red [1]", ANSWERED, True, 0.5),
        ("red", ANSWERED, True, 0.5),
        ("I don't know.", WITHHELD, True, 1.0),
        ("red", WITHHELD, False, 0.0),
    ],
)
def test_a_reply_is_worth_what_can_be_verified(
    reply: str, prompt: PreferencePrompt, cite: bool, score: float
) -> None:
    assert judge(reply, prompt, ABSTAIN, cite)[0] == pytest.approx(score)


def test_the_best_reply_is_preferred_to_the_worst_and_the_right_one_to_both() -> None:
    good, poor, bad = Judged((3, 9), 1.0, False), Judged((5, 9), 0.6, False), Judged((4,), 0, True)
    found = prefer(ANSWERED, [poor, good, bad], known=True)
    assert found is not None
    assert (found.chosen, found.rejected, found.teaches) == ((3, 9), (4,), "answer")
    assert found.known and found.gold_shown and not found.spare

    # No reply is all right: the right reply of the prompt is.
    found = prefer(ANSWERED, [poor, Judged((6,), 0.1, False)], known=False)
    assert found is not None
    assert (found.chosen, found.rejected, found.teaches) == ((3, 9), (6,), "read")
    found = prefer(WITHHELD, [Judged((7,), 0, False)], known=False)
    assert found is not None and (found.teaches, found.gold_shown) == ("abstain", False)

    # Without a mistake of its own the model can only learn not to abstain.
    spare = prefer(ANSWERED, [good], True, abstaining=(8, 9))
    assert spare is not None and (spare.rejected, spare.teaches, spare.spare) == (
        (8, 9),
        "answer",
        True,
    )
    assert prefer(WITHHELD, [Judged((8, 9), 1.0, True)], True, abstaining=(8, 9)) is None


def _preferences(teaches: Any, count: int, spare: bool = False) -> list[Preference]:
    return [
        Preference(f"{teaches}{n}", (n,), (1,), (2,), teaches, False, teaches != "abstain", spare)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("abstain", "answer", "spare", "each"),
    [(10, 3, 20, 10), (10, 3, 2, 5), (3, 10, 0, 3), (2, 2, 50, 2), (0, 5, 5, 0)],
)
def test_as_much_teaches_to_abstain_as_to_answer(
    abstain: int, answer: int, spare: int, each: int
) -> None:
    made = [
        *_preferences("abstain", abstain),
        *_preferences("answer", answer),
        *_preferences("answer", spare, spare=True),
        *_preferences("read", 4),
    ]
    kept = balance(made, seed=0)
    counted = {name: sum(p.teaches == name for p in kept) for name in ("abstain", "answer", "read")}
    assert counted == {"abstain": each, "answer": each, "read": 4}
    assert sum(p.spare for p in kept) == max(0, each - answer)
    assert kept == balance(made, seed=0) != balance(made, seed=1)


def test_each_quadrant_tells_its_prompts_its_score_and_its_pairs() -> None:
    one, other = _preferences("abstain", 2)
    compared = [
        Compared("a", True, True, 1.0, None),
        Compared("b", False, False, 1.0, one),
        Compared("c", False, False, 0.0, other),
    ]
    assert quadrants(compared, [one]) == [
        {"known": True, "gold_shown": True, "prompts": 1, "score": 1.0, "preferences": 0},
        {"known": False, "gold_shown": False, "prompts": 2, "score": 0.5, "preferences": 1},
    ]


def test_tuned_weights_win_only_where_no_score_falls() -> None:
    start = DevScores(0.5, 0.5)
    assert DevScores(0.6, 0.5).gain_over(start) == pytest.approx(0.05)
    assert DevScores(0.9, 0.45).gain_over(start) == pytest.approx(-0.05)
    assert start.gain_over(start) == 0


def test_preference_tuning_widens_the_margins_and_tells_its_quadrants(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, [(0.2, 0.2), (0.3, 0.3), (0.9, 0.1)])
    config, run_dir = prepared(settings=SETTINGS)
    counts = train_generator.run(Session(config, run_dir))
    rows = [r for r in read_rows(run_dir.training_log("train_generator")) if "stage" in r]
    assert {row["stage"] for row in rows} == {PHASE}
    table = [row for row in rows if "known" in row]
    assert sum(row["preferences"] for row in table) == counts["num_preferences"] >= 4
    losses = [row for row in rows if "loss" in row]
    assert losses[-1]["margin"] > losses[0]["margin"] == pytest.approx(0, abs=1e-3)
    assert counts["preference_won"] == 1
    assert (counts["dev_answered_f1_start"], counts["dev_answered_f1_best"]) == (0.2, 0.3)
    # The reference copy of the adapter is not written.
    assert not (run_dir.generator / "ref").exists()


@pytest.mark.slow
def test_weights_that_do_not_win_on_dev_questions_are_given_up(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(monkeypatch, [(0.5, 0.5), (0.9, 0.4), (0.4, 0.9)])
    config, run_dir = prepared(settings=SETTINGS)
    counts = train_generator.run(Session(config, run_dir))
    assert counts["preference_won"] == 0 and counts["num_preference_steps"] > 0
    given_up = weights(run_dir)
    config, run_dir = prepared(settings={**SETTINGS, "preference": "none"})
    train_generator.run(Session(config, run_dir))
    assert given_up == weights(run_dir)


@pytest.mark.parametrize("method", [pytest.param("lora", marks=pytest.mark.slow), "full"])
def test_the_loss_is_that_of_trl(
    prepared: Make, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    import torch
    from trl import DPOTrainer

    from rag_ft.training.generator import preference_trainer

    seen: list[tuple[float, float]] = []
    ours = preference_trainer.PreferenceTrainer.compute_loss

    def both(self: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        with torch.no_grad():
            theirs = DPOTrainer.compute_loss(self, model, inputs)
        loss = ours(self, model, inputs, *rest, **named)
        num_pairs = len(inputs["input_ids"]) / 2
        seen.append((float(loss.detach()) * self.args.train_batch_size / num_pairs, float(theirs)))
        return loss

    monkeypatch.setattr(preference_trainer, "CHOSEN_LOSS", 0.0)
    monkeypatch.setattr(preference_trainer, "_agree", lambda *_: False)
    monkeypatch.setattr(preference_trainer.PreferenceTrainer, "compute_loss", both)
    settings = {**SETTINGS, "method": method, "preference_learning_rate": 1e-3}
    config, run_dir = prepared(settings=settings, run__dtype="float32")
    train_generator.run(Session(config, run_dir))
    assert len(seen) > 2 and seen[0][0] != pytest.approx(seen[-1][0], rel=1e-3)
    for loss, of_trl in seen:
        assert loss == pytest.approx(of_trl, rel=1e-4)


def test_a_prompt_shared_by_its_replies_gives_what_each_gives_alone(tiny_lm_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from rag_ft.fast.shared_prompt import SharedPrompts, shared_logps
    from rag_ft.training.generator.preference_trainer import plain_logps

    model = AutoModelForCausalLM.from_pretrained(tiny_lm_dir, dtype=torch.float32)
    rows = [
        {
            "prompt_ids": list(range(5, 5 + prompt)),
            "chosen_ids": list(range(30, 30 + chosen)),
            "rejected_ids": list(range(40, 40 + rejected)),
            "ref_chosen_logps": 0.5,
        }
        for prompt, chosen, rejected in ((20, 3, 1), (4, 1, 6), (11, 5, 5))
    ]
    together, alone = SharedPrompts(0, 8)(rows), DataCollatorForPreference(0)(rows)
    assert together["input_ids"].shape == (3, 24) and together["ref_chosen_logps"][0] == 0.5
    for shared, plain in zip(shared_logps(model, together), plain_logps(model, alone), strict=True):
        assert torch.allclose(shared.float(), plain.float(), atol=1e-4)
    # The other reply changes nothing.
    changed = SharedPrompts(0, 8)([{**row, "chosen_ids": [50, 51, 52, 53]} for row in rows])
    assert torch.allclose(
        shared_logps(model, together)[1], shared_logps(model, changed)[1], atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", ["asking", "training"])
def test_a_killed_preference_tuning_ends_with_the_bytes_of_an_undisturbed_one(
    prepared: Make, tmp_path: Path, when: str
) -> None:
    settings = {**SETTINGS, "preference_samples": 30, "evaluations": 4, "batch_size": 2}
    config, run_dir = prepared(settings=settings)
    config_file = as_file(config, run_dir, tmp_path / "kill.yaml")
    # A checkpoint of fine-tuning: that is nearly done.
    sign = "" if when == "asking" else "preference/"
    assert_kill_changes_nothing(config_file, run_dir, f"{sign}checkpoint-*/complete")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_tune_as_one(prepared: Make, tmp_path: Path) -> None:
    import sys

    from rag_ft.llm.vllm_process import free_port

    settings = {**SETTINGS, "device_batch_size": 2}
    config, run_dir = prepared(settings=settings, run__dtype="float32")
    train_generator.run(Session(config, run_dir))
    one = _logged(run_dir)
    config_file = as_file(config, run_dir, tmp_path / "two.yaml")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    place = ("--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    process = start(config_file, "--force", launcher=(*launcher, *place))
    assert process.wait(800) == 0, config_file.with_suffix(".log").read_text()
    two = _logged(run_dir)
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for alone, shared in zip(one, two, strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=2e-3)


def _logged(run_dir: RunDir) -> list[dict[str, Any]]:
    rows = read_rows(run_dir.training_log("train_generator"))
    return [row for row in rows if row.get("stage") == PHASE and "loss" in row]


def _script(monkeypatch: pytest.MonkeyPatch, scores: list[tuple[float, float]]) -> None:
    """The scores on dev questions, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(preference, "dev_scores", lambda *_: DevScores(*next(left)))
