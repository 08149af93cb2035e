"""Pairs and the chunks retrieved for them -> an adapter that answers from retrieved chunks."""

from __future__ import annotations

import logging
import math
import os
import shutil
from typing import TYPE_CHECKING, Any

from rag_ft.config import LLMConfig
from rag_ft.errors import DataError
from rag_ft.session import Session
from rag_ft.storage import write_jsonl, write_text
from rag_ft.training.generator.context_layouts import Encode, longest_answer
from rag_ft.version import __version__

if TYPE_CHECKING:
    from rag_ft.training.distributed import Processes
    from rag_ft.training.generator.dataset import TrainingSet
    from rag_ft.training.generator.trainer import Trained

logger = logging.getLogger(__name__)
STAGE = "train_generator"
OVERFITTED = 1.1  # the last dev loss is so many times the best one
Counts = dict[str, int | float | str]


def run(session: Session) -> Counts:
    """Writes generator/ (adapter or model, tokenizer, model card) and the training log. Checkpoints
    are deleted when it is done.

    Raises:
        ConfigError: a method, device or batch size that cannot work, found before the training.
        DataError: there are no pairs to train on, something of a test document is among them, or
            the trainer left out examples.
    """
    config, run_dir = session.config, session.run_dir
    settings, llm = config.train_generator, config.llm
    if not settings.enabled:
        return {"trained": 0, "reason": "train_generator.enabled is false"}
    from rag_ft.training.distributed import join_processes
    from rag_ft.training.generator.lora import check_method, load_base
    from rag_ft.training.generator.tokenization import load_chat_tokens

    # What cannot work ends the stage here, before hours of work.
    check_method(settings, llm)
    processes, work = join_processes(), run_dir.checkpoints(STAGE)
    tokens = load_chat_tokens(llm.required_model, llm.advanced.trust_remote_code)
    tokenizer = tokens.tokenizer

    counts, data = training_set(session, tokens.encode, processes)
    from rag_ft.training.generator.trainer import train  # loads TRL, so only with data to train on

    # By default tensorboard would write among the checkpoints, which are deleted.
    if "tensorboard" in settings.advanced.report_to:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run_dir.tensorboard))
    if settings.advanced.cross_validation_folds:
        from rag_ft.training.generator.cross_validation import cross_validate

        counts |= cross_validate(config, run_dir, data, tokenizer, processes)

    model = load_base(config.llm, config.train_generator)
    before = side_effects(model, tokenizer, data, llm, "base")
    trained = train(
        config, tokenizer, data.train, data.dev, work, processes, model, data.dev_questions
    )
    counts |= training_counts(data, trained)
    history = trained.history
    if settings.preference == "dpo":
        from rag_ft.training.generator.preference import replying_of, tune_by_preference

        rows, of_preference = tune_by_preference(
            trained.trainer,
            data,
            settings,
            replying_of(settings, llm, longest_answer(data.train), config.run.seed),
            work / "preference",
            processes,
        )
        history, counts = [*history, *rows], counts | of_preference
    after = side_effects(trained.trainer.model, tokenizer, data, llm, "tuned")
    counts |= before | after
    write_generator(session, trained, history, counts, processes)
    return counts


def training_set(
    session: Session, encode: Encode, processes: Processes
) -> tuple[Counts, TrainingSet]:
    """The first process makes the examples, every process reads them. Counts are empty in others.

    Raises:
        DataError: there is no example to train on, or something of a test document is among them.
    """
    from rag_ft.training.generator.dataset import build_training_set, read_training_set

    work = session.run_dir.checkpoints(STAGE)
    made = processes.first(lambda: build_training_set(session, encode, work))
    data = read_training_set(work)
    if not data.train:
        raise DataError(f"no pair gave a training example: see {session.run_dir.rejects(STAGE)}")
    longest, room = longest_answer(data.train), session.config.evaluate.advanced.max_tokens
    if longest > room:
        message = "evaluate.advanced.max_tokens=%d cuts off answers of %d tokens: raise it."
        logger.warning(message, room, longest)
    return dict(made or {}), data


def side_effects(
    model: Any, tokenizer: Any, data: TrainingSet, llm: LLMConfig, name: str
) -> Counts:
    """What training should leave as it is: the loss on plain text, and the F1 of trained questions
    without context (a model that learns answers by heart gains there). `name` is base or tuned.

    Empty where no process holds the whole model.
    """
    from rag_ft.training.distributed import sharded
    from rag_ft.training.generator.dev_f1 import mean_f1, plain_text_loss
    from rag_ft.training.generator.trainer import as_in_training

    if sharded():
        return {}
    counts: Counts = {}
    with as_in_training(model, llm.dtype):
        loss = plain_text_loss(model, tokenizer, data.plain_texts)
        if not math.isnan(loss):
            counts[f"plain_text_loss_{name}"] = round(loss, 4)
        if data.closed_book:
            longest, abstain = longest_answer(data.train), llm.advanced.abstain
            f1 = mean_f1(model, tokenizer, data.closed_book, abstain, longest)
            counts[f"closed_book_f1_{name}"] = round(f1, 4)
    return counts


def training_counts(data: TrainingSet, trained: Trained) -> Counts:
    """The numbers of a training, for the done-file, the model card and the report."""
    from rag_ft.training.generator.dataset import count_kinds

    counts: Counts = count_kinds(data.train) | {
        "num_examples": len(data.train),
        "num_dev_examples": len(data.dev),
        "num_processes": trained.trainer.args.world_size,
        "num_steps": trained.num_steps,
        "tokens_per_second": round(trained.num_tokens / max(trained.seconds, 1e-9)),
    }
    losses = [row["eval_loss"] for row in trained.history if "eval_loss" in row]
    if losses:
        counts |= {"dev_loss_first": round(losses[0], 4), "dev_loss_best": round(min(losses), 4)}
        counts["overfitted"] = int(losses[-1] > OVERFITTED * min(losses))
        if counts["overfitted"]:
            logger.warning(
                "Overfitting: dev loss rose from %.3f to %.3f. The best weights are kept; "
                "lower train_generator.epochs or train_generator.learning_rate.",
                min(losses),
                losses[-1],
            )
    scores = [row["eval_f1"] for row in trained.history if "eval_f1" in row]
    if scores:
        counts |= {"dev_f1_first": round(scores[0], 4), "dev_f1_best": round(max(scores), 4)}
        counts["dev_f1_time_share"] = round(trained.measure_seconds / max(trained.seconds, 1e-9), 3)
    return counts


def write_generator(
    session: Session,
    trained: Trained,
    history: list[dict[str, Any]],
    counts: Counts,
    processes: Processes,
) -> None:
    """Writes generator/ and the training log (`history`), and deletes the checkpoints. generator/
    appears by one rename, complete. All processes must call it."""
    from rag_ft.training.generator.model_card import model_card
    from rag_ft.training.generator.trainer import save_generator

    config, run_dir = session.config, session.run_dir
    settings, unfinished = config.train_generator, run_dir.generator_unfinished
    processes.first(lambda: shutil.rmtree(unfinished, ignore_errors=True))
    llm = config.llm
    trust_code = llm.advanced.trust_remote_code
    save_generator(trained, settings, llm.required_model, unfinished, processes, trust_code)
    processes.wait()
    if processes.main:
        write_text(unfinished / "README.md", model_card(config, counts, __version__))
        write_jsonl(run_dir.training_log(STAGE), history)
        shutil.rmtree(run_dir.generator, ignore_errors=True)
        os.replace(unfinished, run_dir.generator)
        shutil.rmtree(run_dir.checkpoints(STAGE), ignore_errors=True)
    processes.wait()
