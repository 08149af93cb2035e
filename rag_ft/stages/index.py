"""chunks.jsonl -> index/: vectors, FAISS and BM25."""

from __future__ import annotations

import logging

from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.retriever import build_index
from rag_ft.session import Session

logger = logging.getLogger(__name__)


def run(session: Session) -> dict[str, int | float]:
    """Encodes every chunk and writes the index folder; a killed run goes on after its last whole block.

    Raises:
        DataError: ingest has not run, or left no chunk.
        ConfigError: the encoder or FAISS is missing.
    """
    chunks, encoder = session.chunks, load_encoder(session.config.encoder)
    counts = build_index(session.config, session.run_dir.index, chunks, encoder, len(chunks))
    if counts["num_cut_chunks"]:
        logger.warning(
            "%d chunks are longer than the %d tokens the encoder reads and were cut for it: lower ingest.chunk_tokens",
            counts["num_cut_chunks"], encoder.max_tokens,
        )  # fmt: skip
    return counts
