"""What a configuration will take before anything is run: tokens, steps, memory by part, disk and hours."""

from __future__ import annotations

import argparse
import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.config_loader import apply_override, make_config, moved_settings
from rag_ft.documents.discovery import find_files
from rag_ft.errors import ConfigError
from rag_ft.evaluation.systems import SYSTEMS
from rag_ft.pipeline import read_done
from rag_ft.report.rendering import aligned
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.storage import read_jsonl, read_rows
from rag_ft.training.memory_estimate import (
    SPARE,
    ModelShape,
    divisors,
    largest_pass,
    read_encoder_shape,
    read_shape,
    retriever_memory,
    training_memory,
)

# Dense bfloat16 TFLOP/s by name, and the share of it that a well-fed training or server reaches (measured: see
# benchmarks/results; where there is no measurement, what others report).
GPU_TFLOPS = {
    "H200": 990,
    "H100": 990,
    "B200": 2250,
    "A100": 312,
    "L40S": 362,
    "A10": 125,
    "4090": 165,
    "3090": 71,
}
OTHER_GPU_TFLOPS = 100
GPU_SHARE = 0.4
CPU_GFLOPS_PER_CORE = {
    "bfloat16": 80.0,
    "float32": 45.0,
}  # of an AVX512_BF16 core, small models, measured
CHARACTERS_PER_TOKEN = 4.0
PROMPT_OVERHEAD_TOKENS = 60
ANSWER_TOKENS = 16
QUESTION_TOKENS = 16
KEPT_SHARE = 0.5  # of the pairs that are asked for


@dataclass(frozen=True)
class Device:
    """`count` devices of `memory_gb` each, together `flops` a second at the rate planned with."""

    name: str
    count: int
    memory_gb: float
    flops: float
    gpu: bool


@dataclass(frozen=True)
class Corpus:
    """Counted where the run has got so far, else estimated from the sources' size. `num_asked_chunks`: those that pairs
    are written about; `num_train_pairs`: those with an answer, which both components learn from."""

    num_chunks: int
    num_train_chunks: int
    num_asked_chunks: int
    num_test_questions: int
    num_train_pairs: int
    counted: bool


@dataclass(frozen=True)
class Work:
    """Of one stage: tokens that models read or write, optimiser steps (0: no training), floating point operations."""

    tokens: float
    steps: int
    flops: float


def plan(config: Config) -> str:
    """A table of what each stage will take on the visible devices, and the settings chosen for the training.

    Raises:
        ConfigError: the training does not fit, with the change that would make it fit.
        DataError: nothing is ingested yet and a source does not exist.
    """
    from rag_ft.hardware import choose_dtype
    from rag_ft.model_hub import resolve

    shape, encoder = (
        read_shape(resolve(config.llm.required_model, "llm")),
        read_encoder_shape(config.encoder.model),
    )
    device, run_dir = visible_device(config), RunDir(config.run_path)
    dtype = choose_dtype(config.llm.dtype, "cuda" if device.gpu else "cpu")
    corpus = count_corpus(config, run_dir)
    memory, passes = {}, 0
    if config.train_retriever.enabled:
        chunk_tokens = config.encoder.advanced.max_tokens or config.ingest.chunk_tokens
        memory["train_retriever"] = retriever_memory(
            encoder,
            config.train_retriever,
            chunk_tokens,
            QUESTION_TOKENS,
            corpus.num_chunks,
            device.gpu,
        )
    if config.train_generator.enabled:
        memory["train_generator"], passes = fit_training(
            config, shape, device, dtype, example_tokens(config)
        )
    needed = {name: sum(parts.values()) for name, parts in memory.items()}
    rows = _stage_rows(
        lambda c: stage_work(c, shape, encoder, corpus), config, run_dir, device, needed
    )
    notes = [
        f"{device.count} x {device.name}, {device.memory_gb:.1f} GiB each; model {shape.parameters / 1e9:.3g} billion "
        f"parameters in {dtype}; {corpus.num_chunks} chunks ({'counted' if corpus.counted else 'estimated'})",
        "",
        *aligned(rows),
        "",
        "Rates are measured in this run folder, or assumed for the device. Memory by part (GiB):",
        *(f"{name}: {_parts(parts)}" for name, parts in memory.items()),
        f"train_generator: {passes} examples a forward pass"
        if passes
        else "train_generator: not enabled",
        f"disk: about {disk_gb(config, shape, corpus):.2f} GiB, free {_free_disk_gb(config.run_path):.0f}",
    ]
    return "\n".join(notes)


def visible_device(config: Config) -> Device:
    """What this process could use: all GPUs, else the CPU."""
    import torch

    if torch.cuda.is_available():
        name, count = torch.cuda.get_device_name(0), torch.cuda.device_count()
        peak = next((t for key, t in GPU_TFLOPS.items() if key in name), OTHER_GPU_TFLOPS)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Device(name, count, memory, count * peak * 1e12 * GPU_SHARE, True)
    from rag_ft.hardware import choose_dtype, total_memory_gb

    cores = len(os.sched_getaffinity(0))
    memory = total_memory_gb("cpu")
    rate = CPU_GFLOPS_PER_CORE[choose_dtype(config.llm.dtype, "cpu")]
    return Device(f"CPU with {cores} cores", 1, memory, cores * rate * 1e9, False)


def count_corpus(config: Config, run_dir: RunDir) -> Corpus:
    """Chunks and pairs: those there are, else what the sources' size lets expect."""
    knobs, counted = config.generate, run_dir.chunks.exists()
    chunks = (
        Counter(row["split"] for row in read_rows(run_dir.chunks))
        if counted
        else _estimated_chunks(config)
    )
    asked = Counter({split: chunks[split] for split in knobs.advanced.splits})
    num_asked = min(asked.total(), knobs.max_chunks or asked.total())
    kept = KEPT_SHARE * num_asked * knobs.pairs_per_chunk / max(1, asked.total())
    imported = _num_lines(knobs.questions) / max(
        1, chunks.total()
    )  # as many about each chunk: not located yet
    train, test = (
        round(kept * asked[split] + imported * chunks[split]) for split in ("train", "test")
    )
    if run_dir.qa.exists():
        pairs = Counter((pair.split, pair.answerable) for pair in read_jsonl(run_dir.qa, QAPair))
        train, test = pairs["train", True], pairs["test", True] + pairs["test", False]
    return Corpus(chunks.total(), chunks["train"], num_asked, test, train, counted)


def example_tokens(config: Config) -> int:
    """Tokens of a training example: its chunks, the prompt around them, the answer; at most max_tokens."""
    chunks = 1 if config.train_generator.advanced.layout == "radit" else config.retrieval.top_k
    longest = _longest_chunk(config) * chunks + PROMPT_OVERHEAD_TOKENS + ANSWER_TOKENS
    return min(longest, config.train_generator.advanced.max_tokens)


def fit_training(
    config: Config, shape: ModelShape, device: Device, dtype: str, tokens: int
) -> tuple[dict[str, float], int]:
    """(memory by part in GiB, examples of one forward pass): the largest pass that fits, as the training chooses it.

    Raises:
        ConfigError: not even one example fits; names the change that would.
    """
    knobs, lengths = config.train_generator, (tokens, ANSWER_TOKENS)
    sizes = (
        [knobs.advanced.device_batch_size]
        if knobs.advanced.device_batch_size
        else divisors(knobs.batch_size)
    )
    found = largest_pass(shape, knobs, dtype, sizes, lengths, device.memory_gb, device.gpu)
    if found:
        return found[1], found[0]
    parts = training_memory(
        shape, knobs, sizes[-1] * tokens, sizes[-1] * ANSWER_TOKENS, dtype, device.gpu
    )
    raise ConfigError(
        f"training needs {sum(parts.values()):.1f} GiB ({_largest(parts)}), {device.name} has {device.memory_gb:.1f}: "
        f"{_remedy(config, shape, device, dtype, tokens)}"
    )


def stage_work(
    config: Config, shape: ModelShape, encoder: ModelShape, corpus: Corpus
) -> dict[str, Work]:
    """What each stage that a language model or an encoder makes costly has to do, in pipeline order."""
    prompt, tokens = _longest_chunk(config) + 2 * PROMPT_OVERHEAD_TOKENS, example_tokens(config)
    asked = corpus.num_asked_chunks * config.generate.pairs_per_chunk
    # Asked once and answered again in the round trip; what is kept then with other names, of two or three chunks.
    prompts = 2 + 2.5 * KEPT_SHARE * config.generate.advanced.swaps_per_pair
    written = asked * (prompts * prompt + config.generate.advanced.max_tokens / 2)
    work = {"generate": Work(written, 0, written * 2.0 * shape.parameters)}
    if config.train_retriever.enabled:
        work["train_retriever"] = _retriever_work(config, shape, encoder, corpus)
    knobs = config.train_generator
    if knobs.enabled:
        examples = (
            corpus.num_train_pairs
            / (knobs.advanced.gold_share or 1)
            / (1 - knobs.advanced.replay_share)
        )
        steps = (1 + knobs.advanced.cross_validation_folds) * (
            knobs.advanced.max_steps or max(1, round(knobs.epochs * examples / knobs.batch_size))
        )
        learned = steps * knobs.batch_size * tokens
        full = knobs.method == "full"
        adapter = 0 if full else shape.adapter_parameters(knobs.advanced.rank)
        a_token = shape.training_flops(full, ANSWER_TOKENS / tokens, tokens, adapter)
        work["train_generator"] = Work(learned, steps, learned * a_token)
    if config.evaluate.answers:
        evaluated = corpus.num_test_questions * len(SYSTEMS) * tokens
        work["evaluate"] = Work(evaluated, 0, evaluated * 2.0 * shape.parameters)
    return work


def _retriever_work(config: Config, shape: ModelShape, encoder: ModelShape, corpus: Corpus) -> Work:
    """The rows of each phase, trained on; all chunks encoded once more; what the LM reads where it scores chunks."""
    knobs, pairs = config.train_retriever, corpus.num_train_pairs
    chunk = (
        config.ingest.chunk_tokens if knobs.advanced.sides == "both" else 0
    )  # else their vectors are looked up
    scored = min(knobs.advanced.lsr_top_k, corpus.num_train_chunks)  # chunks of a question
    phases = [  # (steps, chunks of a row)
        (corpus.num_train_chunks // knobs.batch_size if knobs.advanced.self_supervised else 0, 1),
        (
            knobs.advanced.rounds * int(knobs.epochs * pairs / knobs.batch_size),
            1 + knobs.advanced.num_negatives,
        ),
        (knobs.advanced.rounds * knobs.advanced.lsr_steps if pairs else 0, scored),
    ]
    learned = knobs.batch_size * sum(
        steps * (QUESTION_TOKENS + number * chunk) for steps, number in phases
    )
    encoded = corpus.num_chunks * chunk
    # Scores are kept: a later round pays for the chunks alone that it finds anew.
    read = (
        pairs * scored * (_longest_chunk(config) + PROMPT_OVERHEAD_TOKENS + ANSWER_TOKENS)
        if knobs.advanced.lsr_steps
        else 0
    )
    moved, factor = (
        encoder.parameters - encoder.vocabulary * encoder.hidden,
        6.0 if knobs.advanced.method == "full" else 4.0,
    )
    flops = moved * (factor * learned + 2.0 * encoded) + 2.0 * shape.parameters * read
    return Work(learned + encoded + read, sum(steps for steps, _ in phases), flops)


def measured_seconds(
    config: Config, run_dir: RunDir, name: str, work_of: Callable[[Config], dict[str, Work]]
) -> float | None:
    """What the stage took in this run folder, scaled to what it has to do now; None where it has not run with these
    models, or not in one go."""
    done = read_done(run_dir, name)
    if done is None or "continued" in done:
        return None
    values, moves = config.model_dump(mode="json"), moved_settings()
    for key, value in done["config"].items():
        *parents, last = moves.get(key, key).split(".")
        functools.reduce(lambda section, name: section[name], parents, values)[last] = value
    try:
        then = make_config(values)
    except ConfigError:  # written by a version with other knobs
        return None
    if (then.llm.model, then.encoder.model) != (config.llm.model, config.encoder.model):
        return None
    before, now = work_of(then).get(name), work_of(config)[name]
    return float(done["seconds"]) * now.flops / before.flops if before and before.flops else None


def _stage_rows(
    work_of: Callable[[Config], dict[str, Work]], config: Config, run_dir: RunDir, device: Device,
    memory: dict[str, float],
) -> list[tuple[str, ...]]:  # fmt: skip
    rows: list[tuple[str, ...]] = [
        ("stage", "tokens", "steps", "hours", "rate", "memory (GiB)", "measured (GiB)")
    ]
    for name, work in work_of(config).items():
        seconds = measured_seconds(config, run_dir, name, work_of)
        hours = (work.flops / device.flops if seconds is None else seconds) / 3600
        done = (read_done(run_dir, name) or {}) if name in memory else {}
        peak = done.get("peak_gpu_memory_gb" if device.gpu else "peak_memory_gb", "")
        rows.append((name, f"{work.tokens:,.0f}", str(work.steps or ""), f"{hours:.2f}",
                     "assumed" if seconds is None else "measured", f"{memory[name]:.2f}" if name in memory else "",
                     str(peak)))  # fmt: skip
    return rows


def disk_gb(config: Config, shape: ModelShape, corpus: Corpus) -> float:
    """Index twice, replies, checkpoints while training, adapter."""
    knobs = config.train_generator
    trained = (
        shape.parameters
        if knobs.method == "full"
        else shape.adapter_parameters(knobs.advanced.rank)
    )
    index = 2 * corpus.num_chunks * (2 * 768 * 4 + 3000)
    replies = corpus.num_chunks * config.generate.pairs_per_chunk * 2000
    return (index + replies + 3 * trained * 12) / 2**30


def _remedy(config: Config, shape: ModelShape, device: Device, dtype: str, tokens: int) -> str:
    """The smallest change after which one example fits."""
    changes: list[dict[str, Any]] = [
        {"method": method, "advanced.gradient_checkpointing": True}
        for method in (config.train_generator.method, "lora", "qlora")
    ]
    for change in changes:
        if change.get("method") == "qlora" and not device.gpu:
            continue
        words = " ".join(
            f"train_generator.{key}={str(value).lower()}" for key, value in change.items()
        )
        values = config.model_dump()
        for word in words.split():
            apply_override(values, word)
        tried = make_config(values).train_generator
        need = sum(training_memory(shape, tried, tokens, ANSWER_TOKENS, dtype, device.gpu).values())
        if need <= SPARE * device.memory_gb:
            return f"with device_batch_size=1 {words} it would need {need:.1f}"
    return "no setting would fit: choose a smaller llm.model, or spread it with configs/accelerate/fsdp.yaml"


def _parts(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {size:.2f}" for name, size in parts.items())


def _largest(parts: dict[str, float]) -> str:
    first = sorted(parts.items(), key=lambda part: -part[1])[:2]
    return ", ".join(f"{name} {size:.1f}" for name, size in first)


def _longest_chunk(config: Config) -> int:
    """In the language model's tokens: its vocabulary is another one than the encoder's."""
    return round(1.3 * config.ingest.chunk_tokens)


def _estimated_chunks(config: Config) -> Counter[str]:
    """By split: that of their source, else by the shares of the splits."""
    knobs, found = config.ingest, dict.fromkeys(("train", "dev", "test"), 0.0)
    shares = {
        "test": knobs.test_share,
        "dev": knobs.dev_share,
        "train": 1 - knobs.test_share - knobs.dev_share,
    }
    step = max(1, knobs.chunk_tokens - knobs.advanced.chunk_overlap_tokens)
    for file in find_files(knobs.sources):
        number = (
            file.path.stat().st_size / CHARACTERS_PER_TOKEN / step if file.path.is_file() else 0
        )
        for split, share in ({file.split: 1.0} if file.split else shares).items():
            found[split] += share * number
    return Counter({split: round(number) for split, number in found.items()})


def _num_lines(files: Sequence[Path]) -> int:
    return sum(path.read_bytes().count(b"\n") for path in files if path.is_file())


def _free_disk_gb(path: Path) -> float:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 2**30


def plan_command(args: argparse.Namespace) -> None:
    """`rag-ft plan`."""
    print(plan(checked_config_of(args, "ingest", "generate")))
