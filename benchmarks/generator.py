"""Fine-tuning throughput: our trainer against TRL's SFTTrainer with its defaults, same examples and
model, in one run.

    python benchmarks/generator.py [--model data/models/demo-lm] [--num-examples 128] [--threads 1]

Examples ask over three chunks of data/handbook each, as long as real ones. Both train the same LoRA
adapter once over the same examples with the same batch size, learning rate and seed; then dev loss
is measured in the same way. Useful tokens are those of the examples, padding excluded, per CPU
second on a CPU (so that other jobs matter little), per wall second on a GPU. Prints a table and
writes benchmarks/results/generator-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from hardware import processor, write_result
from transformers import AutoModelForCausalLM

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.stages.ingest import run as ingest
from rag_ft.storage import read_jsonl
from rag_ft.training.distributed import Processes
from rag_ft.training.generator.context_layouts import Example
from rag_ft.training.generator.lora import adapter_config, load_base
from rag_ft.training.generator.tokenization import load_chat_tokens
from rag_ft.training.generator.trainer import train

DEV_EXAMPLES = 32


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    work = Path(tempfile.mkdtemp(prefix="benchmark-generator-"))
    config = demo_config(args.model, work)
    tokens = load_chat_tokens(config.llm.model)
    examples = demo_examples(config, tokens, args.num_examples + DEV_EXAMPLES)
    learned, dev = examples[DEV_EXAMPLES:], examples[:DEV_EXAMPLES]
    rows = []
    for name, way in (("trl defaults", _peer), ("rag-ft", _ours)):
        seconds, model = _timed(
            way, config, tokens.tokenizer, learned, work / name.replace(" ", "-")
        )
        useful = sum(len(e.encoded.input_ids) for e in learned)
        rows.append(
            {
                "way": name,
                "seconds": round(seconds, 1),
                "useful_tokens_per_second": round(useful / seconds),
                "dev_loss": round(_dev_loss(model, dev), 4),
            }
        )
    for row in rows:
        row["times_peer"] = round(
            row["useful_tokens_per_second"] / rows[0]["useful_tokens_per_second"], 2
        )
    _report(args, rows, learned)
    shutil.rmtree(work)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tuning throughput against TRL's defaults")
    parser.add_argument("--model", default="data/models/demo-lm")
    parser.add_argument("--num-examples", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def demo_config(model: str, work: Path, dtype: str = "auto") -> Config:
    """A run in `work` over the handbook, with chunks as long as real ones."""
    return make_config(
        {
            "run": {"dir": work / "run", "dtype": dtype},
            "ingest": {
                "sources": [Path("data/handbook")],
                "chunk_tokens": 96,
                "advanced": {"chunk_overlap_tokens": 12},
            },
            "llm": {"model": model, "prompts": "compact"},
            "train_generator": {
                "epochs": 1,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "advanced": {"rank": 16, "evaluations": 1, "max_tokens": 1024},
            },
        }
    )


def demo_examples(config: Config, tokens: Any, count: int) -> list[Example]:
    """Questions that ask to go on with a sentence of one of three chunks: real lengths, something
    to learn."""
    run_dir = RunDir(config.run_path)
    run_dir.path.mkdir(parents=True)
    ingest(Session(config, run_dir))
    chunks = list(read_jsonl(run_dir.chunks, Chunk))
    prompts = load_prompts(config.llm.prompts, config.llm.advanced.abstain)
    rng, examples = random.Random(0), []
    for number in range(count):
        shown = rng.sample(chunks, 3)
        words = rng.choice(shown).text.split()
        start = rng.randrange(max(1, len(words) - 8))
        question = f"What follows {' '.join(words[start : start + 4])}?"
        answer = " ".join(words[start + 4 : start + 8]) or "nothing"
        messages = prompts.answer(question, [f"{c.title}\n{c.text}" for c in shown])
        encoded = tokens.encode(messages, answer)
        examples.append(Example(f"e{number}", "answer", messages, answer, (), encoded))
    return examples


def _peer(config: Config, tokenizer: Any, examples: Sequence[Example], folder: Path) -> Any:
    """TRL as its documentation starts: prompt-completion rows, everything else by default but what
    both share."""
    settings = config.train_generator
    rows = [
        {"prompt": list(e.messages), "completion": [{"role": "assistant", "content": e.answer}]}
        for e in examples
    ]
    model = AutoModelForCausalLM.from_pretrained(config.llm.model)
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            seed=config.run.seed,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter_config(settings, model),
    )
    trainer.train()
    return trainer.model


def _ours(config: Config, tokenizer: Any, examples: Sequence[Example], folder: Path) -> Any:
    return train(
        config,
        tokenizer,
        examples,
        [],
        folder,
        Processes(0, 1),
        load_base(config.llm, config.train_generator),
    ).trainer.model


def _timed(
    way: Callable[..., Any],
    config: Config,
    tokenizer: Any,
    examples: Sequence[Example],
    folder: Path,
) -> tuple[float, Any]:
    """Seconds of the whole way, tokenising and loading included, and the tuned model."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    model = way(config, tokenizer, examples, folder)
    return clock() - start, model


@torch.no_grad()
def _dev_loss(model: Any, dev: Sequence[Example]) -> float:
    """Nats an answer token."""
    model.eval()
    total, count = 0.0, 0
    for example in dev:
        ids = torch.tensor([example.encoded.input_ids], device=model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[
                0, example.encoded.num_prompt_tokens - 1 : -1
            ]
        target = ids[0, example.encoded.num_prompt_tokens :]
        total += float(torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum"))
        count += len(target)
    return total / count


def _report(
    args: argparse.Namespace, rows: list[dict[str, Any]], examples: Sequence[Example]
) -> None:
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    gpu = torch.cuda.is_available()
    hardware = torch.cuda.get_device_name() if gpu else processor()
    found = {
        "threads": args.threads,
        "clock": "wall" if gpu else "cpu",
        "model": args.model,
        "num_examples": len(examples),
        "mean_tokens": round(sum(len(e.encoded.input_ids) for e in examples) / len(examples)),
        "rows": rows,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
        },
    }
    write_result("generator", hardware, found)


if __name__ == "__main__":
    main()
