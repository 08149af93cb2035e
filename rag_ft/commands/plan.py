"""What a configuration will take before anything is run: tokens, steps, memory by part, disk and
hours. Imports torch only where there is a GPU to ask."""

from __future__ import annotations

import argparse
import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rag_ft.commands.arguments import checked_config_of, config_of
from rag_ft.config import Config, GenerateConfig, TrainGeneratorConfig
from rag_ft.config_loader import make_config, moved_settings
from rag_ft.corpus_plan import (
    BYTES_PER_WORD,
    CHARACTERS_PER_DOCUMENT,
    Gpus,
    plan_corpus,
    read_gpus,
    read_size,
    shapes,
)
from rag_ft.errors import ConfigError
from rag_ft.freshness import read_done
from rag_ft.hardware import (
    CPU_BFLOAT16_FLAGS,
    GIB,
    choose_dtype,
    num_cores,
    num_threads,
    processor,
    total_memory_gb,
)
from rag_ft.model_files import transformer_folder
from rag_ft.model_hub import resolve
from rag_ft.report.rendering import aligned
from rag_ft.run_dir import RunDir
from rag_ft.stage_runs import has_gpu
from rag_ft.terminal import say
from rag_ft.training.memory_estimate import (
    SPARE,
    divisors,
    largest_pass,
    reranker_memory,
    retriever_memory,
    training_memory,
)
from rag_ft.training.model_shape import ModelShape, shape_from_files
from rag_ft.training.work_estimate import (
    ANSWER_TOKENS,
    QUESTION_TOKENS,
    Work,
    count_corpus,
    example_tokens,
    stage_work,
)

# Dense bfloat16 TFLOP/s by name, and the share of it that a well-fed training or server reaches
# (measured: see benchmarks/results; where there is no measurement, what others report).
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
# Of a core with AVX512_BF16, small models, measured.
CPU_GFLOPS_PER_CORE = {"bfloat16": 80.0, "float32": 45.0}


@dataclass(frozen=True)
class Device:
    """`count` devices of `memory_gb` (GiB) each, together `flops` floating point operations a
    second at the rate planned with; `dtype` is what "auto" means on it."""

    name: str
    count: int
    memory_gb: float
    flops: float
    gpu: bool
    dtype: str = "bfloat16"


def plan(config: Config) -> str:
    """A table of what each stage will take on the visible devices, and the settings chosen for the
    training.

    Raises:
        ConfigError: the training does not fit, with the change that would make it fit.
        DataError: nothing is ingested yet and a source does not exist.
    """
    run_dir = RunDir(config.run_path)
    shape = shape_from_files(resolve(config.llm.required_model, "llm"))
    encoder = shape_from_files(transformer_folder(resolve(config.encoder.model, "encoder")))
    device = visible_device(config.llm.dtype)
    # From here on the type is known, so that nothing below asks torch for it.
    llm = config.llm.model_copy(update={"dtype": device.dtype})
    config = config.model_copy(update={"llm": llm})
    corpus = count_corpus(config.ingest, config.generate, run_dir)

    memory, note = memory_of(config, device, shape, encoder, corpus.num_chunks)

    # A measurement in this run folder counts more than a rate assumed for the device.
    work = stage_work(config, shape, encoder, corpus)
    done_files = {name: done for name in work if (done := read_done(run_dir, name))}
    seconds = dict[str, float]()
    for name, done in done_files.items():
        then = config_of_then(config, done)
        before = stage_work(then, shape, encoder, corpus).get(name) if then else None
        if before and before.flops:
            seconds[name] = float(done["seconds"]) * work[name].flops / before.flops
    rows = stage_rows(work, seconds, done_files, device, memory)
    # The run folder need not exist yet: its disk is that of the nearest folder that does.
    existing = config.run_path
    while not existing.exists():
        existing = existing.parent
    disk = disk_gb(config.train_generator, config.generate, shape, corpus.num_chunks)
    return "\n".join(
        [
            f"{device.count} x {device.name}, {device.memory_gb:.1f} GiB each; model "
            f"{shape.parameters / 1e9:.3g} billion parameters in {device.dtype}; "
            f"{corpus.num_chunks} chunks ({'counted' if corpus.counted else 'estimated'})",
            "",
            *aligned(rows),
            "",
            "A rate is measured in this run folder, or assumed for the device. "
            "Memory by part (GiB):",
            *(f"{name}: {in_words(parts)}" for name, parts in memory.items()),
            note,
            f"disk: about {disk:.2f} GiB, free {shutil.disk_usage(existing).free / GIB:.0f} GiB",
        ]
    )


def memory_of(
    config: Config, device: Device, llm: ModelShape, encoder: ModelShape, num_chunks: int
) -> tuple[dict[str, dict[str, float]], str]:
    """({training: memory by part in GiB} of the enabled ones, what to know of the generator's).

    Raises:
        ConfigError: the generator's training does not fit, with the change that would make it fit.
    """
    found, chunk_tokens = dict[str, dict[str, float]](), config.ingest.chunk_tokens
    if config.train_retriever.enabled:
        longest = config.encoder.advanced.max_tokens or chunk_tokens
        texts = (longest, QUESTION_TOKENS, num_chunks)
        found["train_retriever"] = retriever_memory(
            encoder, config.train_retriever, *texts, device.gpu
        )
    if config.train_reranker.enabled and config.reranker.model:
        longest = QUESTION_TOKENS + chunk_tokens
        found["train_reranker"] = reranker_memory(
            encoder, config.train_reranker, longest, device.gpu
        )
    if not config.train_generator.enabled:
        return found, "train_generator: not enabled"
    # The pass is chosen so that it fits.
    tokens = example_tokens(config.train_generator, config.retrieval, chunk_tokens)
    found["train_generator"], passes = fit_training(config.train_generator, llm, device, tokens)
    return found, f"train_generator: {passes} examples a forward pass"


def visible_device(dtype: str) -> Device:
    """What this process could use: all GPUs, else the CPU. `dtype` is llm.dtype."""
    # torch takes seconds to import: ask it only where there may be a GPU.
    if has_gpu():
        import torch

        if torch.cuda.is_available():
            name, count = torch.cuda.get_device_name(0), torch.cuda.device_count()
            flops = count * peak_tflops(name) * 1e12 * GPU_SHARE
            memory = total_memory_gb("cuda:0")
            return Device(name, count, memory, flops, True, choose_dtype(dtype, "cuda"))
    if dtype == "auto":
        dtype = "bfloat16" if processor()[1] & CPU_BFLOAT16_FLAGS else "float32"
    cores = num_cores()
    flops = cores * CPU_GFLOPS_PER_CORE[dtype] * 1e9
    return Device(f"CPU with {cores} cores", 1, total_memory_gb("cpu"), flops, False, dtype)


def peak_tflops(name: str) -> float:
    """Of a GPU of this name, dense in bfloat16."""
    return next((t for key, t in GPU_TFLOPS.items() if key in name.upper()), OTHER_GPU_TFLOPS)


def fit_training(
    settings: TrainGeneratorConfig, shape: ModelShape, device: Device, tokens: int
) -> tuple[dict[str, float], int]:
    """(memory by part in GiB, examples of one forward pass) of examples with `tokens` tokens: the
    largest pass that fits, as the training chooses it.

    Raises:
        ConfigError: not even one example fits; names the smallest change after which one does.
    """
    dtype = device.dtype
    one_size = settings.advanced.device_batch_size
    sizes = [one_size] if one_size else divisors(settings.batch_size)
    lengths = (tokens, ANSWER_TOKENS)
    found = largest_pass(
        shape, settings, dtype, sizes, lengths, device.memory_gb, device.gpu, num_threads()
    )
    if found:
        return found[1], found[0]
    size = sizes[-1]
    parts = training_memory(shape, settings, size * tokens, size * ANSWER_TOKENS, dtype, device.gpu)

    # Try gradient checkpointing first, then methods that train less.
    remedy = "no setting would fit: choose a smaller llm.model, or spread it with "
    remedy += "configs/accelerate/fsdp.yaml"
    methods = [settings.method, "lora", *(["qlora"] if device.gpu else [])]
    checkpointing = settings.advanced.model_copy(update={"gradient_checkpointing": True})
    for method in methods:
        words = f"train_generator.method={method} "
        words += "train_generator.advanced.gradient_checkpointing=true"
        changed = settings.model_copy(update={"method": method, "advanced": checkpointing})
        need = training_memory(shape, changed, tokens, ANSWER_TOKENS, dtype, device.gpu)
        if sum(need.values()) <= SPARE * device.memory_gb:
            remedy = f"with device_batch_size=1 {words} it would need {sum(need.values()):.1f}"
            break
    largest = dict(sorted(parts.items(), key=lambda part: -part[1])[:2])
    raise ConfigError(
        f"training needs {sum(parts.values()):.1f} GiB ({in_words(largest, digits=1)}), "
        f"{device.name} has {device.memory_gb:.1f}: {remedy}"
    )


def stage_rows(
    work: Mapping[str, Work],
    seconds: Mapping[str, float],
    done_files: Mapping[str, Mapping[str, Any]],
    device: Device,
    memory: Mapping[str, Mapping[str, float]],
) -> list[tuple[str, ...]]:
    """The table: a head, and a row for each stage with work. `seconds` are those that were
    measured, `memory` is by part in GiB."""
    head = ("stage", "tokens", "steps", "hours", "rate", "memory (GiB)", "measured (GiB)")
    rows: list[tuple[str, ...]] = [head]
    for name, amount in work.items():
        rate = "measured" if name in seconds else "assumed"
        hours = seconds.get(name, amount.flops / device.flops) / 3600
        needed = peak = ""
        if name in memory:
            needed = f"{sum(memory[name].values()):.2f}"
            key = "peak_gpu_memory_gb" if device.gpu else "peak_memory_gb"
            peak = str(done_files.get(name, {}).get(key, ""))
        steps = str(amount.steps or "")
        rows.append((name, f"{amount.tokens:,.0f}", steps, f"{hours:.2f}", rate, needed, peak))
    return rows


def config_of_then(config: Config, done: Mapping[str, Any]) -> Config | None:
    """The configuration that a stage ran with: today's, with the settings of its done-file. None
    where it ran with other models, or not in one go."""
    if "continued" in done:
        return None
    values, moves = config.model_dump(mode="json"), moved_settings()
    for key, value in done["config"].items():
        *parents, last = moves.get(key, key).split(".")
        functools.reduce(lambda section, name: section[name], parents, values)[last] = value
    try:
        then = make_config(values)
    except ConfigError:  # written by a version with other settings
        return None
    models = (config.llm.model, config.encoder.model)
    return then if (then.llm.model, then.encoder.model) == models else None


def disk_gb(
    settings: TrainGeneratorConfig, generate: GenerateConfig, shape: ModelShape, num_chunks: int
) -> float:
    """GiB of the index twice, of replies, and of adapter and checkpoints while training."""
    full = settings.method == "full"
    trained = shape.parameters if full else shape.adapter_parameters(settings.advanced.rank)
    index = 2 * num_chunks * (2 * 768 * 4 + 3000)
    replies = num_chunks * generate.pairs_per_chunk * 2000
    return (index + replies + 3 * trained * 12) / GIB


def in_words(parts: Mapping[str, float], digits: int = 2) -> str:
    """ "weights 1.20, gradients 0.31": GiB by part."""
    return ", ".join(f"{name} {size:.{digits}f}" for name, size in parts.items())


def plan_for_corpus(args: argparse.Namespace) -> str:
    """A table of what --corpus takes on --gpus; see corpus_plan.py.

    Raises:
        ConfigError: a size or a number of GPUs is malformed, or the language model is unknown.
    """
    config, price = config_of(args), args.price
    size, (count, name) = read_size(args.corpus), read_gpus(args.gpus)
    peak = peak_tflops(name)
    counts = (read_done(RunDir(config.run_path), "ingest") or {}).get("counts", {})
    per_document = CHARACTERS_PER_DOCUMENT
    if counts.get("num_words"):
        per_document = counts["num_words"] * BYTES_PER_WORD / counts["num_documents"]
    llm, encoder = shapes(config.llm.required_model, config.encoder.model)
    found = plan_corpus(
        size,
        per_document,
        Gpus(count, peak * 1e12 * GPU_SHARE),
        encoder,
        config.ingest,
        config.generate,
        lambda corpus: stage_work(config, llm, encoder, corpus),
    )
    rows: list[tuple[str, ...]] = [("stage", "amount", "core hours", "GPU hours", "hours", "cost")]
    for stage in found.stages:
        hours = (stage.cpu_hours, stage.gpu_hours, stage.wall_hours)
        cost = f"{price * count * stage.wall_hours:,.0f}" if price else ""
        rows.append((stage.name, stage.amount, *(f"{number:,.2f}" for number in hours), cost))
    slowest = found.bottleneck
    return "\n".join(
        [
            f"{args.corpus} of text on {count} x {name} ({peak} TFLOP/s in bfloat16, "
            f"{GPU_SHARE:.0%} of it reached), {per_document:,.0f} bytes a document",
            "",
            *aligned(rows),
            "",
            f"{found.tokens:,.0f} tokens to encode; FAISS kind {found.faiss}",
            f"memory (GB): {in_gigabytes(found.memory)}",
            f"disk (GB): {in_gigabytes(found.disk)}",
            f"bottleneck: {slowest.name}, {slowest.wall_hours:,.1f} hours",
            *(f"obstacle: {text}" for text in found.obstacles),
            "Core hours follow from measurements on two cores; for GPU hours the share of the peak "
            "is assumed.",
        ]
    )


def in_gigabytes(sizes: Mapping[str, float]) -> str:
    """ "vectors 12.3, FAISS 4.5": GB by part."""
    return ", ".join(f"{name} {size / 1e9:,.1f}" for name, size in sizes.items())


def plan_command(args: argparse.Namespace) -> None:
    """`rag-ft plan`."""
    if args.corpus:
        say(plan_for_corpus(args))
        return
    say(plan(checked_config_of(args, "ingest", "generate")))
