"""plan: measured rates where there are any, and memory close to what is measured afterwards."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from generator_run import ROOT, Make, prepare, start_process

import rag_ft.commands.plan
from rag_ft.commands.plan import plan, visible_device
from rag_ft.config import RerankerConfig, TrainRerankerConfig
from rag_ft.config_loader import load_config
from rag_ft.config_training import TrainRerankerAdvanced
from rag_ft.errors import ConfigError
from rag_ft.hardware import choose_dtype
from rag_ft.model_hub import transformer_folder
from rag_ft.pipeline import read_done, run_stage
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import read_jsonl, write_jsonl
from rag_ft.training.model_shape import ModelShape, read_shape, shape_from_files, shape_of
from rag_ft.training.work_estimate import count_corpus


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def row_of(text: str, stage: str) -> list[str]:
    return re.split(
        r"\s{2,}", next(line for line in text.splitlines() if line.startswith(f"{stage} "))
    )


def test_the_plan_names_steps_and_memory_and_refuses_what_does_not_fit(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = prepared()
    text = plan(config)
    assert "train_generator" in text and "optimiser" in text and "(counted)" in text
    assert row_of(text, "train_retriever")[4] == row_of(text, "train_generator")[4] == "assumed"
    small = rag_ft.commands.plan.Device("tiny card", 1, 0.5, 1e12, True)
    monkeypatch.setattr(rag_ft.commands.plan, "visible_device", lambda _: small)
    with pytest.raises(
        ConfigError, match=r"training needs .* tiny card has 0.5: no setting would fit"
    ):
        plan(config)


def test_a_reranker_is_planned_where_there_is_one(prepared: Make) -> None:
    config, _ = prepared()
    assert "train_reranker" not in plan(config)
    named = config.model_copy(update={"reranker": RerankerConfig(model="auto")})
    row = row_of(plan(named), "train_reranker")
    assert int(row[2]) > 0 and float(row[5]) > 0

    def tokens(**settings: Any) -> int:
        section = TrainRerankerConfig(advanced=TrainRerankerAdvanced(**settings))
        changed = named.model_copy(update={"train_reranker": section})
        return int(row_of(plan(changed), "train_reranker")[1].replace(",", ""))

    assert tokens(labels="lm") > tokens() > tokens(num_negatives=1)


def test_hours_are_scaled_from_what_a_stage_took_in_the_run_folder(prepared: Make) -> None:
    config, run_dir = prepared(settings={"epochs": 2, "gold_share": 1.0})

    def took(**settings: Any) -> None:
        chosen = {f"train_generator.{key}": value for key, value in settings.items()}
        done = {
            "fingerprint": "",
            "config": chosen,
            "counts": {},
            "seconds": 3600,
            "peak_memory_gb": 1.5,
        }
        run_dir.done("train_generator").write_text(json.dumps(done))

    took(epochs=1)
    hours, rate, _, measured = row_of(plan(config), "train_generator")[3:]
    assert (rate, measured) == ("measured", "1.5") and float(hours) == pytest.approx(2, abs=0.2)
    took(epochs=2, folds=3)
    assert float(row_of(plan(config), "train_generator")[3]) == pytest.approx(0.25, abs=0.01)
    took(epochs=2, setting_of_another_version=1)
    assert row_of(plan(config), "train_generator")[4] == "assumed"


def test_stages_that_will_do_nothing_are_not_planned(prepared: Make) -> None:
    config, _ = prepared(
        settings={"enabled": False}, train_retriever__enabled=False, evaluate__answers=False
    )
    stages = [line.split()[0] for line in plan(config).splitlines() if "  assumed" in line]
    assert stages == ["generate"]


def test_only_the_chunks_that_pairs_are_written_about_count(prepared: Make) -> None:
    def tokens(**generate: Any) -> float:
        config, _ = prepared(**{f"generate__{key}": value for key, value in generate.items()})
        return float(row_of(plan(config), "generate")[1].replace(",", ""))

    _, run_dir = prepared()
    splits = Counter(chunk.split for chunk in read_jsonl(run_dir.chunks, Chunk))
    assert splits["train"] > 1 and splits["test"]
    share = tokens(splits=["train"]) / tokens(splits=["train", "dev", "test"])
    assert share == pytest.approx(splits["train"] / splits.total(), rel=1e-4)
    assert tokens(splits=["train"]) == pytest.approx(
        splits["train"] * tokens(max_chunks=1), rel=1e-4
    )


def test_training_is_planned_on_the_pairs_with_an_answer(prepared: Make) -> None:
    config, run_dir = prepared(settings={"gold_share": 0.5})
    steps = int(row_of(plan(config), "train_generator")[2])
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    unanswerable = [replace(pair, id=f"{pair.id}-", kind="unanswerable") for pair in pairs]
    write_jsonl(run_dir.qa, [*pairs, *unanswerable])
    assert int(row_of(plan(config), "train_generator")[2]) == steps
    answered = sum(pair.split == "train" and pair.answerable for pair in pairs)
    assert steps == round(
        config.train_generator.epochs * answered / 0.5 / config.train_generator.batch_size
    )


def test_every_phase_of_the_retriever_is_planned_and_what_the_language_model_reads_for_it(
    prepared: Make,
) -> None:
    def planned(**settings: Any) -> tuple[float, int]:
        config, _ = prepared(
            **{f"train_retriever__{key}": value for key, value in settings.items()}
        )
        _, tokens, steps, *_ = row_of(plan(config), "train_retriever")
        return float(tokens.replace(",", "")), int(steps)

    settings = {"epochs": 2, "batch_size": 2, "crossfit": "never"}
    config, run_dir = prepared()
    pairs = sum(
        pair.split == "train" and pair.answerable for pair in read_jsonl(run_dir.qa, QAPair)
    )
    train_chunks = sum(chunk.split == "train" for chunk in read_jsonl(run_dir.chunks, Chunk))
    tokens, steps = planned(**settings)
    assert steps == pairs
    more, lsr_steps = planned(**settings, lsr_steps=1, lsr_top_k=4)
    assert lsr_steps == steps + 1 and more > tokens + pairs * 4 * config.ingest.chunk_tokens, (
        "each scored by the LM"
    )
    assert planned(**settings, self_supervised=True)[1] == steps + train_chunks // 2
    assert planned(**{**settings, "crossfit": "always"})[1] == 2 * steps, "once more, on halves"


def test_imported_questions_are_shared_out_by_split_before_there_are_pairs(
    make_run: Make, tmp_path: Path
) -> None:
    long = [{"text": "word " * 20_000}]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("{}\n" * 200)
    config, run_dir = make_run(
        long, generate__pairs_per_chunk=0, generate__questions=[questions], ingest__test_share=0.5,
        ingest__dev_share=0.1,
    )  # fmt: skip
    corpus = count_corpus(config.ingest, config.generate, run_dir)
    assert corpus.num_train_pairs == pytest.approx(
        80, abs=5
    ) and corpus.num_test_questions == pytest.approx(100, abs=5)
    fixed = [{"path": config.ingest.sources[0], "split": "test"}]
    config, run_dir = make_run(long, generate__pairs_per_chunk=0, generate__questions=[questions],
                               ingest__sources=fixed)  # fmt: skip
    corpus = count_corpus(config.ingest, config.generate, run_dir)
    assert (corpus.num_train_pairs, corpus.num_test_questions) == (0, 200)


def test_a_plan_for_a_cpu_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("a GPU is asked through torch")
    code = (
        "import sys; from pathlib import Path; from rag_ft.commands.plan import plan; "
        "from rag_ft.config_loader import load_config; "
        f"print(plan(load_config(Path('configs/demo.yaml'), ['run.dir={tmp_path / 'run'}']))); "
        "print(*{'torch', 'transformers'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "(estimated)" in done.stdout and "train_generator" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_files_alone_show_the_shape_that_transformers_builds(
    tiny_lm_dir: Path, tiny_encoder_dir: Path
) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    for folder, kind in (
        (tiny_lm_dir, AutoModelForCausalLM),
        (transformer_folder(tiny_encoder_dir), AutoModel),
        (ROOT / "data/models/demo-lm", AutoModelForCausalLM),
    ):
        with torch.device("meta"):
            built = shape_of(kind.from_config(AutoConfig.from_pretrained(folder)))
        found = shape_from_files(folder)
        assert replace(found, adapted=()) == replace(built, adapted=())
        assert sorted(found.adapted) == sorted(built.adapted)


def test_a_model_whose_files_hide_its_layers_is_built_by_transformers(
    tiny_lm_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_lm_dir / "config.json").read_bytes())
    assert shape_from_files(tmp_path) == read_shape(tiny_lm_dir)


def test_a_plan_needs_no_list_of_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag_ft.commands.plan, "has_gpu", lambda: False)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # macOS has none
    assert visible_device("float32").name == f"CPU with {os.cpu_count()} cores"


def test_a_plan_uses_the_numbers_that_the_training_uses() -> None:
    device = visible_device("auto")
    assert device.dtype == choose_dtype("auto", "cuda" if device.gpu else "cpu")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_planned_memory_is_within_a_quarter_of_the_measured_peak_on_the_demo(
    demo_encoder: str, tmp_path: Path
) -> None:
    overrides = [
        f"run.dir={tmp_path / 'run'}",
        "generate.pairs_per_chunk=0",  # people's questions alone
        "train_retriever.epochs=0.5",
        "train_retriever.advanced.crossfit=never",
    ]
    config = load_config(
        ROOT / "configs/demo.yaml", [*overrides, "train_generator.advanced.max_steps=12"]
    )
    for stage in ("ingest", "index", "generate"):
        run_stage(stage, config)
    for stage in (
        "train_retriever",
        "train_generator",
    ):  # processes of their own: a peak is that of a process
        words = [
            "-m",
            "rag_ft",
            stage,
            "configs/demo.yaml",
            *overrides,
            "train_generator.advanced.max_steps=12",
        ]
        assert start_process([sys.executable, *words], tmp_path / "log").wait(600) == 0
        done = read_done(RunDir(config.run_path), stage)
        planned = float(row_of(plan(config), stage)[5])
        assert done and 0.8 < planned / done["peak_memory_gb"] < 1.25, (
            stage,
            planned,
            done["peak_memory_gb"],
        )


def test_training_flops_are_what_torch_counts() -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen3Config, Qwen3ForCausalLM

    for tied, trains_all in ((True, False), (False, False), (False, True)):
        sizes = {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
        }
        config = Qwen3Config(
            **sizes, num_key_value_heads=2, head_dim=64, vocab_size=4096, tie_word_embeddings=tied
        )
        config._attn_implementation = "eager"
        model = Qwen3ForCausalLM(config)
        shape, length, answer, rank = shape_of(model), 64, 8, 4
        trained = (
            model
            if trains_all
            else get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear"))
        )
        ids = torch.randint(4096, (2, length))
        with FlopCounterMode(display=False) as counted:
            trained(input_ids=ids, use_cache=False, logits_to_keep=answer).logits.sum().backward()
        adapter = 0 if trains_all else shape.adapter_parameters(rank)
        # eager attention computes the half that causality hides too: its length counts twice
        # and a frozen first layer passes nothing back to its inputs, which is not taken off
        ours = shape.training_flops(trains_all, answer / length, 2 * length, adapter) * ids.numel()
        assert ours == pytest.approx(counted.get_total_flops(), rel=0.03)
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            model.get_decoder()(input_ids=ids, use_cache=False)
        base = 0 if trains_all else 2 * adapter
        assert (shape.forward_flops(0, 2 * length) + base) * ids.numel() == pytest.approx(
            counted.get_total_flops(), rel=0.03
        )


def test_four_bit_weights_are_planned_with_their_tables_in_bfloat16() -> None:
    from rag_ft.training.memory_estimate import stored_bytes

    qwen_8b = ModelShape(8_190_735_360, 2 * 151936 * 4096, 36, 4096, 12288, 4096, 1024, 151936, ())
    assert stored_bytes(qwen_8b, "nf4") / 2**30 == pytest.approx(5.7, abs=0.1)
    assert stored_bytes(qwen_8b, "bfloat16") == 2 * qwen_8b.parameters
