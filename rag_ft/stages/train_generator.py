"""Pairs + what the retriever finds for them -> an adapter that answers from retrieved chunks."""

from __future__ import annotations

import logging
import math
import os
import shutil
from typing import TYPE_CHECKING, Any

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.storage import write_jsonl, write_text
from rag_ft.training.generator.context_layouts import count_kinds, longest_answer
from rag_ft.version import __version__

if TYPE_CHECKING:
    from rag_ft.training.distributed import Processes
    from rag_ft.training.generator.dataset import TrainingSet
    from rag_ft.training.generator.trainer import Trained

logger = logging.getLogger(__name__)
STAGE = "train_generator"
PART_WAYS = 1.1  # a last dev loss so many times the best one is called overfitting
Counts = dict[str, int | float | str]


def run(session: Session) -> Counts:
    """Writes generator/ (adapter or model, tokenizer, model card) and the training log; checkpoints go when it is done.

    Raises:
        ConfigError: a method, device or batch size that cannot work, found before the training.
        DataError: no pairs to train on, something of a test document among them, or examples lost on the way.
    """
    from rag_ft.training.distributed import join_processes
    from rag_ft.training.generator.cross_validation import cross_validate
    from rag_ft.training.generator.dataset import build_training_set, read_training_set
    from rag_ft.training.generator.lora import check_method, load_base
    from rag_ft.training.generator.tokenization import load_chat_tokens
    from rag_ft.training.generator.trainer import train

    config, run_dir = session.config, session.run_dir
    if not config.train_generator.enabled:
        return {"trained": 0, "reason": "train_generator.enabled is false"}
    check_method(config)
    processes, tokens, work = (
        join_processes(),
        load_chat_tokens(config.llm.required_model),
        run_dir.checkpoints(STAGE),
    )
    counts: Counts = dict(
        processes.first(lambda: build_training_set(session, tokens.encode, work)) or {}
    )
    data = read_training_set(work)
    if not data.train:
        raise DataError(f"no pair gave a training example: see {run_dir.rejects(STAGE)}")
    _warn_of_long_answers(data, config.evaluate.advanced.max_tokens)
    if (
        "tensorboard" in config.train_generator.advanced.report_to
    ):  # its default lies among the checkpoints, which go
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run_dir.tensorboard))
    if config.train_generator.advanced.cross_validation_folds:
        counts |= cross_validate(config, run_dir, data, tokens.tokenizer, processes)
    model = load_base(config)
    before = _probe(config, model, tokens.tokenizer, data, "base")
    trained = train(
        config, tokens.tokenizer, data.train, data.dev, work, processes, model, data.dev_questions
    )
    after = _probe(config, trained.trainer.model, tokens.tokenizer, data, "tuned")
    counts |= _describe(data, trained) | before | after
    _save(config, run_dir, trained, counts, processes)
    return counts


def _warn_of_long_answers(data: TrainingSet, room: int) -> None:
    longest = longest_answer(data.train)
    if longest > room:
        logger.warning(
            "learned answers of %d tokens would be cut off by evaluate.advanced.max_tokens=%d: raise it",
            longest,
            room,
        )


def _probe(config: Config, model: Any, tokenizer: Any, data: TrainingSet, name: str) -> Counts:
    """What the training should leave as it is: the loss on plain text, and how many trained questions are answered
    without any context. Nothing where no process holds the whole model."""
    from rag_ft.training.generator.dev_f1 import mean_f1
    from rag_ft.training.generator.lora import sharded
    from rag_ft.training.generator.trainer import as_in_training, plain_text_loss

    if sharded():
        return {}
    with as_in_training(config, model):
        loss = plain_text_loss(model, tokenizer, data.plain_texts)
    counts: Counts = {} if math.isnan(loss) else {f"plain_text_loss_{name}": round(loss, 4)}
    if data.closed_book:
        with as_in_training(config, model):
            f1 = mean_f1(
                model,
                tokenizer,
                data.closed_book,
                config.llm.advanced.abstain,
                longest_answer(data.train),
            )
        counts[f"closed_book_f1_{name}"] = round(f1, 4)
    return counts


def _describe(data: TrainingSet, trained: Trained) -> Counts:
    """Numbers for the done-file, the model card and the report."""
    counts: Counts = {
        **count_kinds(data.train), "num_examples": len(data.train), "num_dev_examples": len(data.dev),
        "num_processes": trained.trainer.args.world_size, "num_steps": trained.num_steps,
        "tokens_per_second": round(trained.num_tokens / max(trained.seconds, 1e-9)),
    }  # fmt: skip
    losses = [row["eval_loss"] for row in trained.history if "eval_loss" in row]
    if losses:
        counts |= {"dev_loss_first": round(losses[0], 4), "dev_loss_best": round(min(losses), 4)}
        counts["overfitted"] = int(losses[-1] > PART_WAYS * min(losses))
        if counts["overfitted"]:
            logger.warning(
                "dev loss rose from %.3f to %.3f while the training loss fell: the best weights are kept; "
                "lower train_generator.epochs or learning_rate", min(losses), losses[-1],
            )  # fmt: skip
    scores = [row["eval_f1"] for row in trained.history if "eval_f1" in row]
    if scores:
        counts |= {"dev_f1_first": round(scores[0], 4), "dev_f1_best": round(max(scores), 4)}
        counts["dev_f1_time_share"] = round(trained.measure_seconds / max(trained.seconds, 1e-9), 3)
    return counts


def _save(
    config: Config, run_dir: RunDir, trained: Trained, counts: Counts, processes: Processes
) -> None:
    """generator/ appears by one rename, complete."""
    from rag_ft.training.generator.trainer import save_generator

    temporary = run_dir.generator_unfinished
    processes.first(lambda: shutil.rmtree(temporary, ignore_errors=True))
    save_generator(trained, config, temporary, processes)
    processes.wait()
    if processes.main:
        write_text(temporary / "README.md", model_card(config, counts))
        write_jsonl(run_dir.training_log(STAGE), trained.history)
        shutil.rmtree(run_dir.generator, ignore_errors=True)
        os.replace(temporary, run_dir.generator)
        shutil.rmtree(run_dir.checkpoints(STAGE), ignore_errors=True)
    processes.wait()


def model_card(config: Config, counts: Counts) -> str:
    from rag_ft.training.generator.model_card import model_card as write

    return write(config, counts, __version__)
