"""The generator's training: what moves, what is refused, and that a killed run ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from generator_run import NAMES, ROOT, TOWNS, Make, documents, prepare, with_copies

from rag_ft.commands.ask import ask
from rag_ft.commands.merge import merge
from rag_ft.commands.preview import preview
from rag_ft.errors import ConfigError, DataError
from rag_ft.pipeline import run_stage
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.session import Session
from rag_ft.stage_table import NAMES as STAGE_NAMES
from rag_ft.stages import train_generator
from rag_ft.storage import ChunkStore, read_jsonl, read_rows, write_jsonl
from rag_ft.training.generator.completion_trainer import (
    AnswerTrainer,
    ArrangementSampler,
    answer_loss,
)
from rag_ft.training.generator.dataset import build_training_set, read_training_set, select_pairs
from rag_ft.training.generator.lora import load_base
from rag_ft.training.generator.tokenization import IGNORED, load_chat_tokens
from rag_ft.training.generator.trainer import Schedule, arguments, dataset_of, plan_schedule
from rag_ft.training.retriever.dataset import select_pairs as pairs_of_retriever


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_training_lowers_the_loss_and_leaves_an_adapter_that_changes_the_model(
    prepared: Make,
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, run_dir = prepared(knobs={"epochs": 15, "replay_share": 0.2})
    counts = train_generator.run(Session(config, run_dir))
    losses = [
        row["loss"] for row in read_rows(run_dir.training_log("train_generator")) if "loss" in row
    ]
    assert sum(losses[-3:]) < 0.98 * sum(losses[:3])
    assert (counts["num_train_pairs"], counts["num_answer"], counts["num_abstain"]) == (
        14,
        15 * 7,
        15 * 2,
    )
    assert counts["num_supervised_tokens"] < counts["num_tokens"] / 4
    assert counts["plain_text_loss_base"] > 0 and counts["plain_text_loss_tuned"] > 0
    assert not run_dir.checkpoints("train_generator").exists()
    names = {path.name for path in run_dir.generator.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "tokenizer.json",
    } <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    settings = json.loads((run_dir.generator / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == config.llm.model
    card = (run_dir.generator / "README.md").read_text()
    assert "## Limits" in card and config.llm.model in card and "None" not in card
    ids = AutoTokenizer.from_pretrained(run_dir.generator)(
        "Where does Ada live?", return_tensors="pt"
    )
    base = AutoModelForCausalLM.from_pretrained(config.llm.model, dtype=torch.float32)
    before = base(**ids).logits
    assert not torch.allclose(
        PeftModel.from_pretrained(base, run_dir.generator)(**ids).logits, before, atol=1e-3
    )


def test_each_pass_over_the_pairs_arranges_their_chunks_anew(
    prepared: Make, tmp_path: Path
) -> None:
    config, run_dir = prepared(knobs={"epochs": 2.5, "replay_share": 0.2, "batch_size": 4})
    tokens = load_chat_tokens(config.llm.required_model)
    build_training_set(Session(config, run_dir), tokens.encode, tmp_path / "set")
    train = read_training_set(tmp_path / "set").train
    passes = [[e for e in train if e.arrangement == number] for number in range(3)]
    assert sum(map(len, passes)) == len(train)
    answered = [{e.id for e in part if e.kind == "answer"} for part in passes]
    assert answered[0] == answered[1] == answered[2] != set()
    shown = [{e.id: e.chunk_ids for e in part if e.kind == "answer"} for part in passes]
    assert shown[0] != shown[1] != shown[2]
    replayed = [[(e.id, e.answer) for e in part if e.kind == "replay"] for part in passes]
    assert replayed[0] == replayed[1] == replayed[2]
    used = {e.id for e in train}
    assert not used & {
        reject.item for reject in read_jsonl(run_dir.rejects("train_generator"), Reject)
    }
    schedule = plan_schedule(config, load_base(config), train, 1)
    assert schedule.epochs == pytest.approx(2.5 / 3)
    assert schedule.num_steps == math.ceil(2.5 / 3 * math.ceil(len(train) / 4))


def test_there_are_no_more_evaluations_than_asked_for(prepared: Make, tmp_path: Path) -> None:
    config, run_dir = prepared(knobs={"max_steps": 18, "evaluations": 12})
    build_training_set(
        Session(config, run_dir),
        load_chat_tokens(config.llm.required_model).encode,
        tmp_path / "set",
    )
    schedule = plan_schedule(
        config, load_base(config), read_training_set(tmp_path / "set").train, 1
    )
    assert (schedule.num_steps, schedule.evaluate_every) == (18, 2)


def test_the_loss_of_a_step_is_the_mean_over_its_answer_tokens_however_it_is_split(
    prepared: Make,
) -> None:
    first = {}
    for device_batch in (1, 4):
        config, run_dir = prepared(knobs={"device_batch_size": device_batch, "max_steps": 1})
        train_generator.run(Session(config, run_dir))
        first[device_batch] = next(read_rows(run_dir.training_log("train_generator")))["loss"]
    assert first[1] == pytest.approx(first[4], abs=2e-4)


def test_every_pair_is_seen_once_before_any_is_seen_again(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[AnswerTrainer, list[list[int]]]] = []

    def look(trainer: AnswerTrainer, **_: Any) -> None:
        seen.append((trainer, list(trainer._get_train_sampler())))
        raise InterruptedError

    monkeypatch.setattr(AnswerTrainer, "train", look)
    config, run_dir = prepared(knobs={"epochs": 2.5, "replay_share": 0.2})
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
    model = load_base(config).eval()
    total, count = 0.0, 0
    for example in rows:
        ids, learned = list(example.encoded.input_ids), example.encoded.num_answer_tokens
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        total -= sum(
            float(logprobs[place - 1, ids[place]]) for place in range(len(ids) - learned, len(ids))
        )
        count += learned
    for device_batch in (1, 4, 16):
        trainer = AnswerTrainer(
            model=model,
            args=arguments(config, Schedule(device_batch, 1, 1.0, 1, 1, False), "loss", tmp_path / "out"),
            train_dataset=dataset_of(rows), eval_dataset=dataset_of(rows), processing_class=tokens.tokenizer,
        )  # fmt: skip
        assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-5)


def test_packed_rows_are_trained_on_and_evaluated_as_others(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses() -> list[float]:
        train_generator.run(Session(config, run_dir))
        return [
            row["eval_loss"]
            for row in read_rows(run_dir.training_log("train_generator"))
            if "eval_loss" in row
        ]

    config, run_dir = prepared(knobs={"max_steps": 2, "evaluations": 2, "learning_rate": 1e-7})
    padded = losses()
    monkeypatch.setattr("rag_ft.training.generator.trainer.can_pack", lambda _: True)
    assert losses() == pytest.approx(padded, rel=1e-4)


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
    loss = answer_loss(model, padded, labels, fused)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_preview_marks_what_is_learned(prepared: Make) -> None:
    config, run_dir = prepared()
    text = preview(Session(config, run_dir), n=4)
    learned = [line for line in text.splitlines() if line.startswith("> ")]
    assert len(learned) == 4 and all(line.endswith("<|im_end|>") for line in learned)
    assert text.count("| Question: ") == 4 and not any("Question" in line for line in learned)
    assert not run_dir.generator.exists()


def test_a_preview_shows_what_the_training_keeps(prepared: Make) -> None:
    config, run_dir = prepared(knobs={"gold_share": 0.5})
    pairs = sorted(read_jsonl(run_dir.qa, QAPair), key=lambda p: p.answerable)
    write_jsonl(run_dir.qa, pairs)  # the first pairs alone would be far too many to abstain from
    assert "left out" not in preview(Session(config, run_dir), n=3)
    with pytest.raises(ConfigError, match="--num 0 shows nothing: give 1 or more"):
        preview(Session(config, run_dir), n=0)


def test_a_run_without_train_pairs_says_what_to_do(prepared: Make) -> None:
    config, run_dir = prepared()
    write_jsonl(run_dir.qa, [p for p in read_jsonl(run_dir.qa, QAPair) if p.split == "test"])
    with pytest.raises(
        DataError, match=r"lower ingest.test_share, add .*train_generator\.enabled=false"
    ):
        train_generator.run(Session(config, run_dir))


def test_the_precision_is_what_the_configuration_says_whatever_the_launcher_says(
    prepared: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, _ = prepared(run__dtype="float32")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    settings = arguments(config, Schedule(1, 1, 1.0, 1, 1, False), None, tmp_path)
    assert (settings.bf16, settings.mixed_precision) == (False, "no")
    files = list((ROOT / "configs" / "accelerate").glob("*.yaml"))
    assert len(files) == 3 and {
        yaml.safe_load(file.read_text())["mixed_precision"] for file in files
    } == {"no"}


def test_the_merged_model_answers_as_base_and_adapter_together(
    prepared: Make, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, run_dir = prepared()
    with pytest.raises(DataError, match="run train_generator first"):
        merge(config, tmp_path / "merged")
    train_generator.run(Session(config, run_dir))
    merged = merge(config, tmp_path / "merged")
    assert (merged / "model.safetensors").exists() and not (merged / "adapter_config.json").exists()
    ids = AutoTokenizer.from_pretrained(merged)("Where?", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(config.llm.model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, run_dir.generator)
    alone = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert torch.allclose(alone(**ids).logits, tuned(**ids).logits, atol=1e-4)
    with pytest.raises(ConfigError, match="is there already"):
        merge(config, tmp_path / "merged")


def test_an_adapter_is_merged_into_its_own_base_alone(
    prepared: Make, tmp_path: Path, tiny_lm_dir: Path
) -> None:
    config, run_dir = prepared(knobs={"max_steps": 1})
    train_generator.run(Session(config, run_dir))
    copy = shutil.copytree(tiny_lm_dir, tmp_path / "other-lm")
    other, _ = prepared(llm__model=str(copy))
    with pytest.raises(
        ConfigError, match=rf"was trained on {tiny_lm_dir}, and llm.model is {copy}: set llm.model="
    ):
        merge(other, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    (tmp_path / "link").symlink_to(tiny_lm_dir)
    same, _ = prepared(llm__model=str(tmp_path / "link"))
    assert merge(same, tmp_path / "merged").is_dir()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_base_with_sampling_values_and_without_sampling_is_trained_and_merged(
    prepared: Make, tmp_path: Path, tiny_lm_dir: Path, method: str
) -> None:
    base = shutil.copytree(tiny_lm_dir, tmp_path / "base")
    settings = {
        "do_sample": False,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "eos_token_id": 2,
    }
    (base / "generation_config.json").write_text(json.dumps(settings))
    config, run_dir = prepared(knobs={"max_steps": 1, "method": method}, llm__model=str(base))
    train_generator.run(Session(config, run_dir))
    written = json.loads(
        (merge(config, tmp_path / "merged") / "generation_config.json").read_text()
    )
    assert written["eos_token_id"] == 2 and "temperature" not in written


def test_dev_documents_are_taken_from_train_where_there_are_none(prepared: Make) -> None:
    _, run_dir = prepared()
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if p.split != "dev"]
    write_jsonl(run_dir.qa, pairs)
    train, dev, _ = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    assert dev and not {p.document_id for p in train} & {p.document_id for p in dev}
    assert {p.split for p in [*train, *dev]} == {"train"}


def test_near_duplicates_are_held_out_together(tmp_path: Path) -> None:
    run_dir = with_copies(tmp_path)
    train, dev, _ = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    trained, held = (
        {(p.document_id or "").removesuffix("-copy") for p in pairs} for pairs in (train, dev)
    )
    assert held and not trained & held
    assert len(dev) == 6, "15 % of 40 documents"


@pytest.mark.parametrize("num_dev", [0, 1, 3])
def test_retriever_and_generator_hold_out_the_same_documents(tmp_path: Path, num_dev: int) -> None:
    """Whether there is no dev document, one with too few questions, or unanswerable ones beside them."""
    run_dir = with_copies(tmp_path)
    chunks = [dataclasses.replace(c, split="dev") if c.document_id in {f"d{n}" for n in range(num_dev)} else c
              for c in read_jsonl(run_dir.chunks, Chunk)]  # fmt: skip
    split_of = {c.document_id: c.split for c in chunks}
    pairs = [
        dataclasses.replace(p, split=split_of[p.document_id or ""])
        for p in read_jsonl(run_dir.qa, QAPair)
    ]
    empty = [
        dataclasses.replace(p, id=f"u{p.id}", kind="unanswerable", chunk_id=None)
        for p in pairs[10:]
    ]
    write_jsonl(run_dir.chunks, chunks)
    write_jsonl(run_dir.qa, [*pairs, *empty])
    train, dev, _ = select_pairs(run_dir, 0.8)
    of_retriever = pairs_of_retriever(run_dir, 0.8)
    held = {p.document_id for p in dev}
    assert held == {p.document_id for p in of_retriever.dev} and len(held) > num_dev
    assert {p.document_id for p in train} == {p.document_id for p in of_retriever.train}
    assert not held & {p.document_id for p in train}


def test_a_pair_of_a_test_document_stops_the_training(prepared: Make) -> None:
    config, run_dir = prepared()
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    leak = next(p for p in pairs if p.split == "test")
    write_jsonl(
        run_dir.qa,
        [*pairs, dataclasses.replace(leak, id="leak", question="Who is at home?", split="train")],
    )
    with pytest.raises(DataError, match="leak"):
        train_generator.run(Session(config, run_dir))
    assert not run_dir.generator.exists()


def test_what_cannot_be_trained_is_refused_before_any_work_with_a_remedy(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, knobs: dict[str, Any] | None = None, **overrides: Any) -> None:
        config, run_dir = prepared(knobs=knobs or {}, **overrides)
        with pytest.raises(ConfigError, match=match) as error:
            train_generator.run(Session(config, run_dir))
        assert "\n" not in str(error.value) and not run_dir.generator.exists()

    import torch

    if not torch.cuda.is_available():
        refused("needs a CUDA GPU", {"method": "qlora"})
    refused("vLLM does not serve DoRA", {"method": "dora"}, llm__backend="vllm")
    refused("folds=1 leaves nothing to train on", {"folds": 1})
    refused(
        "report_to=mlflow, which is not installed: pip install mlflow", {"report_to": ["mlflow"]}
    )
    refused("cannot be trained", llm__backend="openai", llm__base_url="http://localhost:1/v1")
    refused("no multiple of device_batch_size=3", {"device_batch_size": 3})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    refused("8 GPUs are visible and one process was started: use `accelerate launch")


def test_a_disabled_training_says_so_and_does_nothing(prepared: Make) -> None:
    config, run_dir = prepared(knobs={"enabled": False})
    assert train_generator.run(Session(config, run_dir)) == {
        "trained": 0,
        "reason": "train_generator.enabled is false",
    }
    assert not run_dir.generator.exists()


def test_the_best_weights_by_dev_f1_are_kept_and_its_time_is_told(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from rag_ft.training.generator import trainer as sft

    knobs = {
        "max_steps": 6,
        "evaluations": 6,
        "select_by": "f1",
        "patience": 2,
        "learning_rate": 1e-3,
    }
    config, run_dir = prepared(knobs=knobs)
    seen: list[Any] = []

    def scripted(model: Any, *_: Any) -> float:
        seen.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_B" in n})
        return [0.2, 0.9, 0.5, 0.9][len(seen) - 1]

    monkeypatch.setattr(sft, "mean_f1", scripted)
    counts = train_generator.run(Session(config, run_dir))
    assert (counts["dev_f1_first"], counts["dev_f1_best"], counts["num_steps"]) == (0.2, 0.9, 4)
    assert 0 <= counts["dev_f1_time_share"] < 1
    kept = load_file(run_dir.generator / "adapter_model.safetensors")
    name = next(n for n in seen[0] if "layers.1" in n)
    saved = kept[name.replace(".default", "")]
    assert [bool((saved == weights[name]).all()) for weights in seen] == [False, True, False, False]


@pytest.mark.parametrize(("patience", "steps"), [(2, 4), (0, 5)])
@pytest.mark.parametrize("kill", ["before the last step", "after it"])
def test_a_killed_training_stops_where_an_undisturbed_one_does(
    prepared: Make, monkeypatch: pytest.MonkeyPatch, patience: int, steps: int, kill: str
) -> None:
    from rag_ft.training.generator import trainer as sft

    knobs = {"max_steps": 5, "epochs": 3, "evaluations": 5, "select_by": "f1", "patience": patience}
    config, run_dir = prepared(knobs=knobs)
    scores: list[float] = []
    monkeypatch.setattr(
        sft,
        "mean_f1",
        lambda *_: scores.append(0) or [0.2, 0.9, 0.5, 0.5, 0.5, 1.0][len(scores) - 1],
    )
    assert train_generator.run(Session(config, run_dir))["num_steps"] == steps
    weights = (run_dir.generator / "adapter_model.safetensors").read_bytes()
    log = list(read_rows(run_dir.training_log("train_generator")))
    scores.clear()
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        if kill == "after it":
            patch.setattr(train_generator, "_save", interrupt)
        else:
            patch.setattr(AnswerTrainer, "training_step", interrupt_at(steps - 1))
        train_generator.run(Session(config, run_dir))
    assert train_generator.run(Session(config, run_dir))["num_steps"] == steps
    assert (run_dir.generator / "adapter_model.safetensors").read_bytes() == weights
    assert list(read_rows(run_dir.training_log("train_generator"))) == log


def interrupt(*_: Any) -> None:
    raise InterruptedError


def interrupt_at(step: int) -> Callable[..., Any]:
    training_step = AnswerTrainer.training_step

    def stepping(trainer: AnswerTrainer, *args: Any, **rest: Any) -> Any:
        if trainer.state.global_step == step:
            raise InterruptedError
        return training_step(trainer, *args, **rest)

    return stepping


def test_answers_during_training_are_scored_as_those_of_the_evaluation(prepared: Make) -> None:
    from rag_ft.evaluation.metrics.answers import score_answer
    from rag_ft.llm.factory import open_language_model
    from rag_ft.llm.interface import ChatRequest
    from rag_ft.prompts.prompt_set import is_abstention
    from rag_ft.training.generator.dataset import find_contexts, layout_of, make_questions
    from rag_ft.training.generator.dev_f1 import answer_f1, mean_f1
    from rag_ft.training.generator.lora import load_base

    config, run_dir = prepared(llm__model="data/models/demo-lm")
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    session, tokens = Session(config, run_dir), load_chat_tokens(config.llm.required_model)
    contexts, prompt = find_contexts(session, pairs), session.answer_prompt
    questions = list(make_questions(prompt, contexts, pairs, tokens.encode, layout_of(config)))
    requests = []
    for pair in pairs:
        shown = [contexts.chunks[i] for i in contexts.hits[pair.id][: config.retrieval.top_k]]
        requests.append(ChatRequest(pair.id, prompt.messages(pair.question, shown), 12))
    with open_language_model(config.llm, 0) as model:
        said = {reply.id: reply.text for reply in model.chat(requests)}
    wanted = [
        score_answer(
            said[p.id],
            p.answers if p.answerable else (),
            is_abstention(said[p.id], config.llm.advanced.abstain),
        )["f1"]
        for p in pairs
    ]
    base = load_base(config)
    assert answer_f1(base, tokens.tokenizer, questions, config.llm.advanced.abstain, 12) == wanted
    assert (
        0
        < mean_f1(base, tokens.tokenizer, questions, config.llm.advanced.abstain, 12)
        == sum(wanted) / len(wanted)
        < 1
    )


def test_folds_hold_out_documents(prepared: Make) -> None:
    config, run_dir = prepared(knobs={"max_steps": 1, "folds": 2})
    counts = train_generator.run(Session(config, run_dir))
    rows = list(read_rows(run_dir.folds))
    assert [row["fold"] for row in rows] == [0, 1] and set(rows[0]) == {
        "fold", "num_train", "num_dev", "dev_loss", "f1_base", "f1_tuned", "delta",
    }  # fmt: skip
    assert all(
        0 < row["num_train"] < counts["num_examples"] and row["dev_loss"] > 0 for row in rows
    )
    assert sum(row["num_dev"] for row in rows) == counts["num_train_pairs"]
    assert sum(counts["num_examples"] - row["num_train"] for row in rows) == counts["num_examples"]
    mean = sum(row["dev_loss"] for row in rows) / 2
    assert counts["folds"] == 2 and counts["folds_dev_loss"] == pytest.approx(mean, abs=1e-4)


@pytest.mark.slow
def test_folds_are_resumed_and_leave_the_generator_as_it_would_be_without_them(
    prepared: Make,
) -> None:
    train_generator.run(Session(*prepared(knobs={"max_steps": 2})))
    config, run_dir = prepared(knobs={"max_steps": 2, "folds": 2})
    weights = (run_dir.generator / "adapter_model.safetensors").read_bytes()
    train_generator.run(Session(config, run_dir))
    assert (run_dir.generator / "adapter_model.safetensors").read_bytes() == weights
    rows = list(read_rows(run_dir.folds))
    run_dir.folds.write_text(
        run_dir.folds.read_text().splitlines(keepends=True)[0]
    )  # as a kill in fold 1 leaves it
    train_generator.run(Session(config, run_dir))
    assert list(read_rows(run_dir.folds)) == rows


def test_near_duplicates_share_a_fold_and_too_few_documents_are_refused() -> None:
    from rag_ft.training.generator.cross_validation import folds_of

    texts = {f"d{n}": " ".join(f"word{n}-{m}" for m in range(40)) for n in range(9)}
    texts["copy"] = texts["d3"] + " end"
    folds = folds_of(texts, set(texts), 3, 0.8)
    assert folds["copy"] == folds["d3"] and {list(folds.values()).count(n) for n in range(3)} <= {
        3,
        4,
    }
    folds = folds_of(texts, set(texts) - {"copy"}, 3, 0.8)
    assert folds["copy"] == folds["d3"], "a copy nobody asked about is held out too"
    assert set(folds_of(texts, {"d0", "copy"}, 2, 0.8)) == {"d0", "d3", "copy"}, (
        "the others are always trained on"
    )
    with pytest.raises(ConfigError, match="folds=10: only 9 train documents"):
        folds_of(texts, set(texts), 10, 0.8)


@pytest.mark.slow
def test_a_run_with_all_weights_tuned_is_evaluated_asked_and_merged_as_a_model_of_its_own(
    make_run: Make, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    questions = [
        {
            "id": f"q{n}",
            "question": f"Where does {name} live?",
            "answers": [town],
            "document_id": f"d{n}",
        }
        for n, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True))
    ]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    config, run_dir = make_run(
        documents(), generate__pairs_per_chunk=0, generate__questions=[tmp_path / "questions.jsonl"],
        train_retriever__enabled=False, train_generator__method="full", train_generator__advanced__max_steps=4,
        evaluate__advanced__num_resamples=100, evaluate__advanced__max_tokens=8,
    )  # fmt: skip
    done = {name: run_stage(name, config)["counts"] for name in STAGE_NAMES}
    assert done["evaluate"]["generator_tuned"] == 1 and run_dir.report_html.exists()
    systems = json.loads(run_dir.metrics.read_text())["systems"]
    assert "f1" in systems["closed_book"] and "f1" in systems["closed_book_tuned"]
    trained = done["train_generator"]
    assert trained["plain_text_loss_base"] != trained["plain_text_loss_tuned"]
    names = {path.name for path in run_dir.generator.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    base, tuned = (
        load_file(Path(f) / "model.safetensors") for f in (config.llm.model, run_dir.generator)
    )
    assert {n: t.dtype for n, t in base.items()} == {n: t.dtype for n, t in tuned.items()}
    assert any(not torch.equal(base[name], tuned[name]) for name in base)
    assert "is a whole model" in (run_dir.generator / "README.md").read_text()
    assert "[1] d" in ask(config, "Where does Ada live?")
    AutoModelForCausalLM.from_pretrained(merge(config, tmp_path / "merged"))


def test_trackers_are_off_by_default_and_never_get_the_environment(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[str] = []

    class Tracker(TrainerCallback):
        """Takes what transformers' own trackers take."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            told.extend(
                [
                    args.to_json_string(),
                    str(args.to_sanitized_dict()),
                    rest["model"].config.to_json_string(),
                ]
            )

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            told.append(str(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr("rag_ft.training.generator.lora.find_spec", lambda name: name)
    monkeypatch.setenv("SOME_SECRET", "hunter2-of-the-mill")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    config, run_dir = prepared(knobs={"max_steps": 1})
    train_generator.run(Session(config, run_dir))
    assert not told
    config, run_dir = prepared(knobs={"max_steps": 1, "report_to": ["tensorboard"]})
    train_generator.run(Session(config, run_dir))
    assert len(told) > 3 and "learning_rate" in told[0]
    assert not any("hunter2" in text or "SOME_SECRET" in text for text in told)


@pytest.mark.parametrize("method", ["rslora", "dora", "full"])
def test_every_method_trains_on_a_cpu(prepared: Make, method: str) -> None:
    config, run_dir = prepared(knobs={"method": method, "max_steps": 2, "learning_rate": 1e-3})
    assert train_generator.run(Session(config, run_dir))["num_steps"] == 2
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (run_dir.generator / name).exists()


def test_float32_weights_on_a_gpu_are_asked_in_the_precision_of_their_training(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rag_ft.training.generator import dev_f1 as questions
    from rag_ft.training.generator import trainer as sft
    from rag_ft.training.generator.dataset import TrainingSet

    config, in_float32 = prepared(run__dtype="bfloat16")[0], prepared(run__dtype="float32")[0]

    def bfloat16() -> float:
        return float(torch.is_autocast_enabled("cuda"))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(sft, "plain_text_loss", lambda *_: bfloat16())
    monkeypatch.setattr(questions, "mean_f1", lambda *_: bfloat16())
    monkeypatch.setattr(train_generator, "longest_answer", lambda _: 1)
    data = TrainingSet([], [], [], [], [questions.Question("q", None, (), 0, ())], [])

    def probed(device: str, dtype: torch.dtype, asked: Any = config) -> set[Any]:
        model = SimpleNamespace(device=torch.device(device), dtype=dtype)
        return set(train_generator._probe(asked, model, None, data, "base").values())

    assert probed("cuda", torch.float32) == {1.0}
    assert probed("cuda", torch.bfloat16) == probed("cpu", torch.float32) == {0.0}
    assert probed("cuda", torch.float32, in_float32) == {0.0}


def test_flash_attention_is_chosen_where_it_can_compute(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rag_ft.training.generator import lora as adapters

    configs = {dtype: prepared(run__dtype=dtype)[0] for dtype in ("bfloat16", "float32")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(adapters, "find_spec", lambda _: object())
    chosen = {dtype: adapters.attention(config) for dtype, config in configs.items()}
    assert chosen == {"bfloat16": "flash_attention_2", "float32": "sdpa"}


def test_a_packed_step_is_the_same_however_many_rows_a_pass_holds(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.training.generator import trainer as sft

    monkeypatch.setattr(sft, "can_pack", lambda _: True)
    monkeypatch.setattr("rag_ft.training.memory_estimate.CPU_PASS_TOKENS", 100_000)
    planned, first = {}, {}
    plan = sft.plan_schedule

    def planning(*args: Any) -> Any:
        planned[device_batch] = plan(*args)
        return planned[device_batch]

    monkeypatch.setattr(sft, "plan_schedule", planning)
    for device_batch in (1, 0):
        knobs = {
            "batch_size": 8,
            "device_batch_size": device_batch,
            "max_tokens": 512,
            "max_steps": 2,
        }
        config, run_dir = prepared(knobs=knobs)
        train_generator.run(Session(config, run_dir))
        first[device_batch] = next(read_rows(run_dir.training_log("train_generator")))["loss"]
    one, several = planned[1], planned[0]
    assert one.packed and one.device_batch_size == 1 and several.device_batch_size > 1
    assert one.accumulation == several.device_batch_size * several.accumulation
    assert first[1] == pytest.approx(first[0], rel=1e-3)
