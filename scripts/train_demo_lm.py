"""Trains, exports and evaluates the demo language model.

    python scripts/train_demo_lm.py --minutes 75 --work build/demo_lm --out data/models/demo-lm
    python scripts/train_demo_lm.py --evaluate data/models/demo-lm

Every text is generated from scripts/demo_lm/relations.txt and words.txt; nothing is downloaded.
With --tokens instead of --minutes the schedule follows the tokens seen, so that a run with the same
seed can be repeated on any machine.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent))
from demo_lm import evaluate, model, report, tokenizer
from demo_lm.batches import ANSWER_WEIGHT, BatchStream

WARM_UP_STEPS = 30
FLOOR = 0.02  # of the learning rate, at the end


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--evaluate", type=Path, metavar="DIR", help="evaluate a checkpoint and print one JSON line"
    )
    parser.add_argument("--items", type=int, default=200, help="questions per evaluation set")
    parser.add_argument(
        "--out", type=Path, default=Path("data/models/demo-lm"), help="folder of the exported model"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/demo_lm"),
        help="folder of tokenizer and checkpoint",
    )
    parser.add_argument("--minutes", type=float, default=75.0, help="wall time of the schedule")
    parser.add_argument(
        "--tokens",
        type=float,
        default=0.0,
        help="million tokens of the schedule (instead of --minutes)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    parser.add_argument(
        "--restart-schedule",
        action="store_true",
        help="with --resume: keep weights, begin a new schedule",
    )
    parser.add_argument(
        "--start", type=Path, metavar="DIR", help="go on from an exported model (and its tokenizer)"
    )
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--feed-forward", type=int, default=704)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--matrix-lr", type=float, default=2e-3, help="Muon, for the matrices")
    parser.add_argument(
        "--vector-lr", type=float, default=4e-3, help="AdamW, for embedding and norms"
    )
    parser.add_argument(
        "--decay",
        type=float,
        default=0.4,
        help="last share of the schedule with a linearly falling rate",
    )
    parser.add_argument(
        "--curriculum",
        type=float,
        nargs=2,
        default=(0.03, 0.09),
        help="ends of the easy and middle stage",
    )
    parser.add_argument("--log-items", type=int, default=96, help="items per score of the log")
    parser.add_argument("--export-minutes", type=float, default=8.0)
    return parser.parse_args()


def load_tokenizer(work: Path, start: Path | None) -> PreTrainedTokenizerFast:
    """That of the model to start from, else that in the work folder, trained when missing."""
    if start:
        return AutoTokenizer.from_pretrained(start)
    folder = work / "tokenizer"
    if not folder.exists():
        tokenizer.build().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


class Trainer:
    """Model, optimisers, schedule, log and checkpoints of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        torch.manual_seed(options.seed)
        self.tokenizer = load_tokenizer(options.work, options.start)
        shape = model.Shape(
            len(self.tokenizer),
            options.width,
            options.layers,
            options.width // 64,
            options.feed_forward,
        )
        self.model = model.DemoLM(shape)
        model.CircuitInit(self.model).apply()
        if options.start:
            model.load_exported(self.model, options.start)
        self.forward = self.model if options.eager else torch.compile(self.model, dynamic=True)
        self.optimisers = self._optimisers()
        self.tokens = self.steps = 0
        self.spent = 0.0  # seconds of training, over resumed runs
        self.scheduled_tokens, self.scheduled_spent = 0, 0.0  # where this schedule began
        self.answer_loss = 0.0
        if options.resume:
            self._load()
        self.stream = BatchStream(
            self.tokenizer,
            options.batch_tokens,
            options.seed + 100 + self.steps,
            options.curriculum,
        )
        self.validation = evaluate.quick_sets(self.tokenizer, options.log_items)

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        named = list(self.model.named_parameters())
        matrices = [p for n, p in named if p.dim() == 2 and "embedding" not in n]
        others = [p for n, p in named if p.dim() != 2 or "embedding" in n]
        muon = torch.optim.Muon(
            matrices,
            lr=self.options.matrix_lr,
            weight_decay=0.05,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        adam = torch.optim.AdamW(
            others, lr=self.options.vector_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        return [muon, adam]

    def _load(self) -> None:
        state = torch.load(self.options.work / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.tokens, self.steps, self.spent = state["tokens"], state["steps"], state["spent"]
        if self.options.restart_schedule:
            self.scheduled_tokens, self.scheduled_spent = self.tokens, self.spent

    def progress(self) -> float:
        """Share of the schedule that is done."""
        if self.options.tokens:
            return (self.tokens - self.scheduled_tokens) / (self.options.tokens * 1e6)
        return (self.spent - self.scheduled_spent) / (self.options.minutes * 60)

    def _set_rate(self, progress: float) -> None:
        warm = min(1.0, (self.steps + 1) / WARM_UP_STEPS)
        factor = warm * min(1.0, max(FLOOR, (1 - progress) / self.options.decay))
        for optimiser, rate in zip(
            self.optimisers, (self.options.matrix_lr, self.options.vector_lr), strict=True
        ):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
        """One update; the output matrix is applied only where a token carries loss."""
        chosen = (weights.reshape(-1) > 0).nonzero()[:, 0]
        weight, target = weights.reshape(-1)[chosen], targets.reshape(-1)[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.forward(inputs).reshape(-1, self.model.shape.width)[chosen]
            logits = self.model.logits(hidden)
        losses = functional.cross_entropy(logits.float(), target, reduction="none")
        ((losses * weight).sum() / weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        answers = losses.detach()[weight == ANSWER_WEIGHT]
        if len(answers):
            self.answer_loss += (0.05 if self.steps else 1.0) * (
                answers.mean().item() - self.answer_loss
            )

    def run(self) -> None:
        """Trains to the end of the schedule, exporting now and then."""
        last_export = self.spent
        for inputs, targets, weights, number in self.stream:
            started = time.monotonic()
            progress = self.progress()
            if progress >= 1:
                break
            self.stream.progress = progress
            self._set_rate(progress)
            self.step(inputs, targets, weights)
            self.tokens, self.steps = self.tokens + number, self.steps + 1
            self.spent += time.monotonic() - started
            if self.steps % 20 == 0:
                self._report(progress)
            wait = self.options.export_minutes
            if not self.options.start:  # more often at first
                wait = min(wait, 1 + self.spent / 180)
            if self.spent - last_export > 60 * wait:
                last_export = self.spent
                self.save()
        self.save()

    def _report(self, progress: float) -> None:
        rate = self.tokens / max(self.spent, 1e-9)
        print(
            f"step {self.steps} tokens {self.tokens / 1e6:.2f}M {rate:.0f}/s progress "
            f"{progress:.3f} "
            f"answer loss {self.answer_loss:.3f}",
            flush=True,
        )

    def save(self) -> None:
        """Measures, appends a line to the log, writes checkpoint and export, each by renaming."""
        scores = evaluate.teacher_forced(self.model, self.validation)
        line = {
            "tokens": self.tokens,
            "minutes": round(self.spent / 60, 1),
            "answer_loss": round(self.answer_loss, 4),
            **scores,
        }
        print("EVAL " + json.dumps(line), flush=True)
        state = {
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "tokens": self.tokens,
            "steps": self.steps,
            "spent": self.spent,
        }
        partial = self.options.work / "checkpoint.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.options.work / "checkpoint.pt")
        with (self.options.work / "training.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self._export()

    def _export(self) -> None:
        staging = self.options.out.parent / f".{self.options.out.name}.partial"
        model.export(self.model, self.tokenizer, staging)
        (staging / "training.jsonl").write_bytes(
            (self.options.work / "training.jsonl").read_bytes()
        )
        self.options.out.mkdir(parents=True, exist_ok=True)
        for path in sorted(staging.iterdir()):
            os.replace(path, self.options.out / path.name)
        staging.rmdir()


def main() -> None:
    """Entry point."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    if options.evaluate:
        print(json.dumps(report.full_report(options.evaluate, options.items)))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options)
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{size / 1e6:.2f}M parameters, {vars(options)}", flush=True)
    trainer.run()


if __name__ == "__main__":
    main()
