"""What a configuration will take before anything is run: tokens, steps, memory by part, disk and hours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.errors import ConfigError
from rag_ft.paths import RunDir
from rag_ft.records import QAPair, read_jsonl, read_rows
from rag_ft.training.memory import SPARE, ModelShape, largest_pass, read_shape, training_memory

# Dense bfloat16 TFLOP/s by name, and the share of it that a well-fed training or server reaches (measured: see
# benchmarks/results; where there is no measurement, what others report).
GPU_TFLOPS = {"H200": 990, "H100": 990, "B200": 2250, "A100": 312, "L40S": 362, "A10": 125, "4090": 165, "3090": 71}
OTHER_GPU_TFLOPS = 100
GPU_SHARE = 0.4
CPU_GFLOPS_PER_CORE = {"bfloat16": 80.0, "float32": 45.0}  # of an AVX512_BF16 core, small models, measured
CHARACTERS_PER_TOKEN = 4.0
PROMPT_OVERHEAD_TOKENS = 60
ANSWER_TOKENS = 16


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
    """Counted where the run has got so far, else estimated from the sources' size."""

    num_chunks: int
    num_test_questions: int
    num_train_pairs: int
    counted: bool


def plan(config: Config) -> str:
    """A table of what each stage will take on the visible devices, and the settings chosen for the training.

    Raises:
        ConfigError: the training does not fit, with the change that would make it fit.
    """
    from rag_ft.llm.model_folder import choose_dtype, resolve_model_folder

    folder = resolve_model_folder(config.llm.model)
    shape, device = read_shape(folder), visible_device(config)
    dtype = choose_dtype(config.llm.dtype, "cuda" if device.gpu else "cpu")
    corpus = count_corpus(config, RunDir(config.run_path))
    tokens = example_tokens(config)
    parts, passes = fit_training(config, shape, device, dtype, tokens)
    rows = [("stage", "tokens", "steps", "hours"), *stage_rows(config, shape, device, corpus, tokens)]
    knobs = config.train_generator
    notes = [
        f"{device.count} x {device.name}, {device.memory_gb:.0f} GiB each; model {shape.parameters / 1e9:.3g} billion "
        f"parameters in {dtype}; {corpus.num_chunks} chunks ({'counted' if corpus.counted else 'estimated'})",
        "",
        _table(rows),
        "",
        f"train_generator: {passes} examples a forward pass, {knobs.batch_size} a step; memory by part (GiB): "
        + ", ".join(f"{name} {size:.2f}" for name, size in parts.items())
        + f"; together {sum(parts.values()):.2f} of {device.memory_gb:.1f}",
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
    from rag_ft.llm.model_folder import choose_dtype

    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    rate = CPU_GFLOPS_PER_CORE[choose_dtype(config.llm.dtype, "cpu")]
    return Device(f"CPU with {cores} cores", 1, memory, cores * rate * 1e9, False)


def count_corpus(config: Config, run_dir: RunDir) -> Corpus:
    """Chunks and pairs: those there are, else what the sources' size lets expect."""
    if run_dir.chunks.exists():
        num_chunks, counted = sum(1 for _ in read_rows(run_dir.chunks)), True
    else:
        step = max(1, config.ingest.chunk_tokens - config.ingest.chunk_overlap_tokens)
        num_chunks, counted = round(_source_bytes(config) / CHARACTERS_PER_TOKEN / step), False
    knobs = config.generate
    share = 1 - config.ingest.test_share - config.ingest.dev_share
    asked = num_chunks if not knobs.max_chunks else min(knobs.max_chunks, num_chunks)
    pairs, test = round(0.5 * asked * knobs.pairs_per_chunk * share), round(0.5 * asked * knobs.pairs_per_chunk * 0.3)
    if run_dir.qa.exists():
        splits = [pair.split for pair in read_jsonl(run_dir.qa, QAPair)]
        pairs, test = splits.count("train"), splits.count("test")
    return Corpus(num_chunks, test, pairs, counted)


def example_tokens(config: Config) -> int:
    """Tokens of a training example: its chunks, the prompt around them, the answer; at most max_tokens."""
    chunks = 1 if config.train_generator.layout == "radit" else config.retrieval.top_k
    longest = _longest_chunk(config) * chunks + PROMPT_OVERHEAD_TOKENS + ANSWER_TOKENS
    return min(longest, config.train_generator.max_tokens)


def fit_training(
    config: Config, shape: ModelShape, device: Device, dtype: str, tokens: int
) -> tuple[dict[str, float], int]:
    """(memory by part in GiB, examples of one forward pass): the largest pass that fits, as the training chooses it.

    Raises:
        ConfigError: not even one example fits; names the change that would.
    """
    knobs, lengths = config.train_generator, (tokens, ANSWER_TOKENS)
    sizes = [knobs.device_batch_size] if knobs.device_batch_size else _divisors(knobs.batch_size)
    found = largest_pass(shape, config, sizes, lengths, device.memory_gb, device.gpu)
    if found:
        return found[1], found[0]
    parts = training_memory(shape, config, sizes[-1] * tokens, sizes[-1] * ANSWER_TOKENS, dtype, device.gpu)
    raise ConfigError(
        f"training needs {sum(parts.values()):.1f} GiB ({_largest(parts)}), {device.name} has {device.memory_gb:.1f}: "
        f"{_remedy(config, shape, device, dtype, tokens)}"
    )


def stage_rows(
    config: Config, shape: ModelShape, device: Device, corpus: Corpus, tokens: int
) -> list[tuple[str, str, str, str]]:
    """A row a stage that a language model or an encoder makes costly; hours at the planned rate."""
    prompt = _longest_chunk(config) + 2 * PROMPT_OVERHEAD_TOKENS
    asked = corpus.num_chunks * config.generate.pairs_per_chunk
    written = asked * (2 * prompt + config.generate.max_tokens // 2)  # asked once, answered again in the round trip
    knobs = config.train_generator
    examples = corpus.num_train_pairs / (1 - knobs.replay_share)
    steps = knobs.max_steps or max(1, round(knobs.epochs * examples / knobs.batch_size))
    learned = steps * knobs.batch_size * tokens
    evaluated = corpus.num_test_questions * 7 * tokens
    flops = {
        "generate": written * 2.0 * shape.parameters,
        "train_generator": learned * shape.training_flops(knobs.method == "full"),
        "evaluate": evaluated * 2.0 * shape.parameters,
    }
    counts = {"generate": (written, ""), "train_generator": (learned, str(steps)), "evaluate": (evaluated, "")}
    return [
        (name, f"{counts[name][0]:,.0f}", counts[name][1], f"{work / device.flops / 3600:.2f}")
        for name, work in flops.items()
    ]


def disk_gb(config: Config, shape: ModelShape, corpus: Corpus) -> float:
    """Index twice, replies, checkpoints while training, adapter."""
    knobs = config.train_generator
    trained = shape.parameters if knobs.method == "full" else shape.adapter_parameters(knobs.rank)
    index = 2 * corpus.num_chunks * (2 * 768 * 4 + 3000)
    replies = corpus.num_chunks * config.generate.pairs_per_chunk * 2000
    return (index + replies + 3 * trained * 12) / 2**30


def _remedy(config: Config, shape: ModelShape, device: Device, dtype: str, tokens: int) -> str:
    """The smallest change after which one example fits."""
    changes: list[dict[str, Any]] = [
        {"method": method, "gradient_checkpointing": True}
        for method in (config.train_generator.method, "lora", "qlora")
    ]
    for change in changes:
        if change.get("method") == "qlora" and not device.gpu:
            continue
        tried = config.model_copy(update={"train_generator": config.train_generator.model_copy(update=change)})
        need = sum(training_memory(shape, tried, tokens, ANSWER_TOKENS, dtype, device.gpu).values())
        if need <= SPARE * device.memory_gb:
            words = " ".join(f"train_generator.{key}={str(value).lower()}" for key, value in change.items())
            return f"with device_batch_size=1 {words} it would need {need:.1f}"
    return "no setting would fit: choose a smaller llm.model, or spread it with configs/accelerate/fsdp.yaml"


def _divisors(number: int) -> list[int]:
    return [d for d in range(number, 0, -1) if number % d == 0]


def _largest(parts: dict[str, float]) -> str:
    first = sorted(parts.items(), key=lambda part: -part[1])[:2]
    return ", ".join(f"{name} {size:.1f}" for name, size in first)


def _longest_chunk(config: Config) -> int:
    """In the language model's tokens: its vocabulary is another one than the encoder's."""
    return round(1.3 * config.ingest.chunk_tokens)


def _source_bytes(config: Config) -> int:
    paths = [source if isinstance(source, Path) else source.path for source in config.ingest.sources]
    files = [f for path in paths for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    return sum(f.stat().st_size for f in files)


def _free_disk_gb(path: Path) -> float:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 2**30


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
