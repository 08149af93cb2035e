"""What a corpus of any size would take on any number of GPUs: `rag-ft plan CONFIG --corpus 10TB
--gpus 64xH100`. Nothing is read or run; models need not be there.

Rates of CPU work are measured (benchmarks/scale.py), in seconds of one core. Rates of GPU work are
the device's bfloat16 peak times the share of it that well-fed work reaches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from rag_ft.config import GenerateConfig, IngestConfig
from rag_ft.errors import ConfigError
from rag_ft.model_files import transformer_folder
from rag_ft.model_hub import resolve
from rag_ft.retrieval.buckets import CHUNKS_PER_BUCKET
from rag_ft.retrieval.stores.faiss_store import LADDER
from rag_ft.training.model_shape import ModelShape, shape_from_files
from rag_ft.training.work_estimate import (
    ACCEPTED_SHARE,
    CHARACTERS_PER_TOKEN,
    Corpus,
    Work,
)

# Measured CPU seconds of one core: reading and chunking of a MB of text, with near-duplicates;
# a million chunks read, hashed and put into BM25; a GFLOP of FAISS (k-means and assignment).
INGEST_S_PER_MB = 2.7
LEXICAL_S_PER_MILLION = 60.0
FAISS_S_PER_GFLOP = 1 / 65
# Measured memory in bytes: of ingest for each document, of the index for each chunk (ids, keys,
# BM25 while it is built).
INGEST_BYTES_PER_DOCUMENT = 2500
INDEX_BYTES_PER_CHUNK = 1500
CHARACTERS_PER_DOCUMENT = 5000  # where the run has no documents to count
BYTES_PER_WORD = 6
# Of machines with such GPUs: cores and memory for each GPU.
CORES_PER_GPU, MEMORY_GB_PER_GPU, GPUS_PER_MACHINE = 24, 256, 8
# An encoder that is not on this machine is taken for all-MiniLM-L6-v2.
MINI_LM = ModelShape(
    parameters=22_700_000,
    table_parameters=11_720_448,
    layers=6,
    hidden=384,
    feed_forward=1536,
    query_width=384,
    key_width=384,
    vocabulary=30_522,
    adapted=(),
)
_UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}


@dataclass(frozen=True)
class StageCost:
    """Of one stage: hours of cores and of GPUs, and hours from its begin to its end. Reading and
    the last steps of the index run on one machine, BM25 on one core, all else on all GPUs."""

    name: str
    amount: str
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    wall_hours: float = 0.0


@dataclass(frozen=True)
class Gpus:
    """`number` GPUs that reach `flops` floating point operations a second each, in machines of
    eight."""

    number: int
    flops: float

    @property
    def machine_cores(self) -> int:
        """The cores of one machine."""
        return min(self.number, GPUS_PER_MACHINE) * CORES_PER_GPU

    @property
    def machine_memory(self) -> float:
        """The bytes of memory of one machine."""
        return min(self.number, GPUS_PER_MACHINE) * MEMORY_GB_PER_GPU * 1e9


@dataclass(frozen=True)
class CorpusPlan:
    """The stages, sizes in bytes by what they are of, and what stands in the way."""

    documents: float
    chunks: float
    tokens: float
    faiss: str
    stages: list[StageCost]
    memory: dict[str, float]
    disk: dict[str, float]
    obstacles: list[str]

    @property
    def bottleneck(self) -> StageCost:
        """The stage that takes longest."""
        return max(self.stages, key=lambda stage: stage.wall_hours)


def read_size(text: str) -> float:
    """The bytes in "10TB". Raises ConfigError where it is something else."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([MGTP]B)", text.strip(), re.IGNORECASE)
    if not found:
        raise ConfigError(f"--corpus {text}: write a size of text such as 500GB or 10TB")
    return float(found[1]) * _UNITS[found[2].upper()]


def read_gpus(text: str) -> tuple[int, str]:
    """(number, name) of "64xH100". Raises ConfigError where it is something else."""
    found = re.fullmatch(r"(\d+)\s*x\s*([\w-]+)", text.strip())
    if not found or not int(found[1]):
        raise ConfigError(f"--gpus {text}: write a number and a name such as 64xH100")
    return int(found[1]), found[2]


def shape_of_name(name: str) -> ModelShape:
    """The rough shape of a language model whose name says its size, such as Qwen3-8B.

    Raises:
        ConfigError: the name says no size.
    """
    found = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", name, re.IGNORECASE)
    if not found:
        raise ConfigError(
            f"the size of {name} is unknown: it is not on this machine, and its name does not say "
            "it (8B); set llm.model to a folder, or to a name that does"
        )
    parameters = float(found[1]) * (1e9 if found[2].lower() == "b" else 1e6)
    layers = 32
    hidden = int(math.sqrt(parameters / (12 * layers)))
    adapted = ((hidden, hidden),) * 4 * layers + ((hidden, 4 * hidden),) * 2 * layers
    table = 128_000 * hidden
    return ModelShape(
        parameters=int(parameters),
        table_parameters=table,
        layers=layers,
        hidden=hidden,
        feed_forward=4 * hidden,
        query_width=hidden,
        key_width=hidden,
        vocabulary=128_000,
        adapted=adapted,
    )


def shapes(llm: str, encoder: str) -> tuple[ModelShape, ModelShape]:
    """Of both models: read from their files where they are here; else of the name, and an encoder
    is taken for MINI_LM."""
    try:
        llm_shape = shape_from_files(resolve(llm, "llm"))
    except ConfigError:
        llm_shape = shape_of_name(llm)
    try:
        encoder_shape = shape_from_files(transformer_folder(resolve(encoder, "encoder")))
    except ConfigError:
        encoder_shape = MINI_LM
    return llm_shape, encoder_shape


def plan_corpus(
    size: float,
    per_document: float,
    gpus: Gpus,
    encoder: ModelShape,
    ingest: IngestConfig,
    generate: GenerateConfig,
    work_of: Callable[[Corpus], dict[str, Work]],
) -> CorpusPlan:
    """What `size` bytes of text take, in documents of `per_document` bytes.

    `ingest` and `generate` are those of the run, `encoder` is the shape of its encoder; `work_of`
    gives the work of its later stages.
    """
    dim, step = encoder.hidden, max(1, ingest.chunk_tokens - ingest.advanced.chunk_overlap_tokens)
    documents, chunks = size / per_document, size / CHARACTERS_PER_TOKEN / step

    # Ingest and index: encoding in shards on all GPUs, what follows on one machine.
    reading = size / 1e6 * INGEST_S_PER_MB / 3600
    encoded = chunks * ingest.chunk_tokens
    weights = encoder.parameters - encoder.vocabulary * encoder.hidden
    encoding = encoded * 2.0 * weights / gpus.flops / 3600
    kind, num_lists = faiss_kind(chunks), 4 * math.sqrt(chunks)
    lists_flops = (10 * min(chunks, 64 * num_lists) + chunks) * num_lists * dim * 2.0
    faiss = 0.0 if kind == "flat" else lists_flops / 1e9 * FAISS_S_PER_GFLOP / 3600
    lexical = chunks / 1e6 * LEXICAL_S_PER_MILLION / 3600
    shards = math.ceil(chunks / CHUNKS_PER_BUCKET)
    stages = [
        StageCost(
            "ingest", f"{documents:,.0f} documents", reading, 0, reading / gpus.machine_cores
        ),
        StageCost("index: encode", f"{shards:,} buckets", 0, encoding, encoding / gpus.number),
        StageCost(f"index: {kind}", f"{chunks:,.0f} vectors", faiss, 0, faiss / gpus.machine_cores),
        StageCost("index: BM25", f"{chunks:,.0f} chunks", lexical, 0, lexical),
    ]
    for name, work in work_of(_corpus(ingest, generate, chunks)).items():
        hours = work.flops / gpus.flops / 3600
        stages.append(StageCost(name, f"{work.tokens:,.0f} tokens", 0, hours, hours / gpus.number))

    memory = {
        "ingest": documents * INGEST_BYTES_PER_DOCUMENT,
        "the index while it is built": chunks * INDEX_BYTES_PER_CHUNK,
        "FAISS while it is searched": chunks * bytes_per_vector(kind, dim),
    }
    disk = {
        "documents and chunks": 2.6 * size + 250 * chunks,
        "vectors": 4.0 * chunks * dim,
        "FAISS": chunks * bytes_per_vector(kind, dim),
        "BM25": 8.0 * size / BYTES_PER_WORD,
    }
    obstacles = [
        f"{name} needs {need / 1e9:,.0f} GB of memory; one machine has about "
        f"{gpus.machine_memory / 1e9:,.0f}"
        for name, need in memory.items()
        if need > gpus.machine_memory
    ]
    if size / BYTES_PER_WORD > 2**31:
        obstacles.append("BM25 holds 2,147,483,648 words at most; use a search engine beside it")
    return CorpusPlan(documents, chunks, encoded, kind, stages, memory, disk, obstacles)


def faiss_kind(num_chunks: float) -> str:
    """The kind of FAISS index that `auto` takes."""
    return next(kind for kind, limit in LADDER.items() if num_chunks <= limit)


def bytes_per_vector(kind: str, dim: int) -> float:
    """Of an index of this kind in memory, with 8 bytes for the row."""
    return {"flat": 4.0 * dim, "ivf": 4.0 * dim + 8, "ivf_sq8": dim + 8.0}.get(kind, dim / 4 + 8)


def _corpus(ingest: IngestConfig, generate: GenerateConfig, chunks: float) -> Corpus:
    shares = {"test": ingest.test_share, "dev": ingest.dev_share}
    shares["train"] = 1 - sum(shares.values())
    splits = generate.advanced.splits
    asked = chunks * sum(shares[split] for split in splits)
    asked = min(asked, generate.advanced.max_chunks or asked)
    pairs = ACCEPTED_SHARE * asked * generate.pairs_per_chunk
    train, test = (pairs * shares[split] * (split in splits) for split in ("train", "test"))
    num_train_chunks = round(chunks * shares["train"])
    return Corpus(
        round(chunks), num_train_chunks, round(asked), round(test), round(train), counted=False
    )
