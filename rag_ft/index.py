"""chunks.jsonl -> index/: vectors, FAISS and BM25."""

from __future__ import annotations

import logging
from pathlib import Path

from rag_ft.config import Config
from rag_ft.paths import RunDir
from rag_ft.records import Chunk, read_jsonl
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.search import build_index

logger = logging.getLogger(__name__)


def run(config: Config, run_dir: RunDir) -> dict[str, int | float]:
    """Encodes every chunk and writes the index folder; a killed run goes on after its last whole block.

    Raises:
        DataError: ingest has not run, or left no chunk.
        ConfigError: the encoder or FAISS is missing.
    """
    encoder = load_encoder(config.encoder)
    chunks, total = read_jsonl(run_dir.chunks, Chunk), _num_lines(run_dir.chunks)
    counts = build_index(config, run_dir.index, chunks, encoder, total)
    if counts["num_cut_chunks"]:
        logger.warning(
            "%d chunks are longer than the %d tokens the encoder reads and were cut for it: lower ingest.chunk_tokens",
            counts["num_cut_chunks"], encoder.max_tokens,
        )  # fmt: skip
    return counts


def _num_lines(path: Path) -> int | None:
    """For the progress bar."""
    if not path.exists():
        return None
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
