"""Preference tuning throughput: our trainer against TRL's DPOTrainer, well set, on the same pairs.

    python benchmarks/preference.py [--model data/models/demo-lm] [--num-pairs 64] [--threads 1]

The prompts are those of benchmarks/generator.py: a question over three chunks of data/handbook. TRL
gets what makes it fast and changes no result: float32, no checkpointing, rows grouped by length,
reference log-probabilities computed once. Both train the same LoRA adapter once over the same pairs
with the same batch size, learning rate and seed, and the sigmoid loss alone. Pairs per CPU second
on a CPU (so that other jobs matter little), per wall second on a GPU; the loading of the model is
left out. Prints a table and writes benchmarks/results/preference-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from generator import demo_config, demo_examples
from hardware import processor, write_result
from peft import get_peft_model

from rag_ft.config import Config
from rag_ft.training.generator import preference_trainer
from rag_ft.training.generator.context_layouts import Example
from rag_ft.training.generator.lora import adapter_config, load_base
from rag_ft.training.generator.preference_pairs import Preference
from rag_ft.training.generator.preference_trainer import DevScores, arguments, tune
from rag_ft.training.generator.tokenization import load_chat_tokens


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    preference_trainer.CHOSEN_LOSS = 0.0  # TRL's sigmoid loss has none
    work = Path(tempfile.mkdtemp(prefix="benchmark-preference-"))
    config = demo_config(args.model, work, dtype="float32")
    tokens = load_chat_tokens(config.llm.required_model)
    examples = demo_examples(config, tokens, args.num_pairs)
    rows = []
    for name, way in (("trl, well set", _peer), ("rag-ft", _ours)):
        seconds, losses = way(config, tokens.tokenizer, examples, work / name[:3])
        rate = round(len(examples) / seconds, 2)
        row = {"way": name, "seconds": round(seconds, 1), "pairs_per_second": rate}
        rows.append(row | {"last_loss": round(losses[-1], 4), "steps": len(losses)})
    for row in rows:
        row["times_peer"] = round(row["pairs_per_second"] / rows[0]["pairs_per_second"], 2)
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    found = {
        "threads": args.threads,
        "clock": "wall" if torch.cuda.is_available() else "cpu",
        "model": args.model,
        "num_pairs": len(examples),
        "rows": rows,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
        },
    }
    gpu = torch.cuda.is_available()
    write_result("preference", torch.cuda.get_device_name() if gpu else processor(), found)
    shutil.rmtree(work)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Preference tuning against TRL's DPOTrainer")
    parser.add_argument("--model", default="data/models/demo-lm")
    parser.add_argument("--num-pairs", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def _adapted(config: Config) -> Any:
    """The base model with a fresh adapter: both ways start from the same weights."""
    torch.manual_seed(0)
    model = load_base(config.llm, config.train_generator)
    return get_peft_model(model, adapter_config(config.train_generator, model))


def _preferences(examples: list[Example]) -> list[Preference]:
    """The answer of each example against that of the next one."""
    found = []
    for one, other in zip(examples, [*examples[1:], examples[0]], strict=True):
        start, ids = one.encoded.num_prompt_tokens, one.encoded.input_ids
        worse = other.encoded.input_ids[other.encoded.num_prompt_tokens :]
        found.append(Preference(one.id, ids[:start], ids[start:], worse, "read", False, True))
    return found


def _ours(
    config: Config, tokenizer: Any, examples: list[Example], folder: Path
) -> tuple[float, list[float]]:
    settings, size = config.train_generator, config.train_generator.batch_size
    args = arguments(settings, "float32", 0, len(examples), 2 * size, 1, folder)
    args.logging_steps, args.save_strategy = 1, "no"
    args.load_best_model_at_end = False
    model, scores = _adapted(config), DevScores(0.0, 0.0)
    start = _clock()
    tuned = tune(model, tokenizer, _preferences(examples), lambda _: scores, args)
    return _clock() - start, [row["loss"] for row in tuned.history if "loss" in row]


def _peer(
    config: Config, tokenizer: Any, examples: list[Example], folder: Path
) -> tuple[float, list[float]]:
    rows = [
        {
            "prompt": tokenizer.decode(pair.prompt),
            "chosen": tokenizer.decode(pair.chosen),
            "rejected": tokenizer.decode(pair.rejected),
            "length": len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)),
        }
        for pair in _preferences(examples)
    ]
    advanced = config.train_generator.advanced
    model = _adapted(config)
    start = _clock()
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(
            str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=config.train_generator.batch_size,
            learning_rate=advanced.preference_learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            beta=advanced.preference_beta,
            bf16=False,
            gradient_checkpointing=False,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            remove_unused_columns=False,
            precompute_ref_log_probs=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            seed=0,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    return _clock() - start, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def _clock() -> float:
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


if __name__ == "__main__":
    main()
