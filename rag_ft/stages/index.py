"""chunks.jsonl -> index/: the vectors of the chunks, a vector store over them, and BM25."""

from __future__ import annotations

import logging

from rag_ft.engine.shards import end_shard
from rag_ft.retrieval.buckets import encode_in_buckets
from rag_ft.retrieval.index_builder import build_index
from rag_ft.session import Session

logger = logging.getLogger(__name__)


def run(session: Session, compact: bool = False) -> dict[str, int | float]:
    """Encodes every chunk and writes the index folder. A stage that was killed continues after its
    last whole block, and over an older index only new texts are encoded. `compact`, and what is
    returned: see `build_index`.

    Raises:
        DataError: ingest has not run, or left no chunk.
        ConfigError: the encoder is missing, or FAISS is not installed.
        RagFtError: buckets failed again and again. ShardDone: this is a shard, and it is done.
    """
    config, chunks = session.config, session.chunks
    folder, seed = session.run_dir.index, config.run.seed
    encoder = session.base_encoder
    if config.engine.in_buckets:
        made_by = (config.encoder, config.retrieval, seed, encoder.fingerprint)
        encode_in_buckets(folder, chunks, *made_by, config.engine)
        end_shard(config.engine)
    counts = build_index(
        folder, chunks, encoder, config.retrieval, seed, len(chunks), compact=compact
    )
    if counts["num_cut_chunks"]:
        logger.warning(
            "%d chunks are longer than the %d tokens that the encoder reads, so their ends cannot "
            "be found: lower ingest.chunk_tokens",
            counts["num_cut_chunks"],
            encoder.max_tokens,
        )
    return counts
