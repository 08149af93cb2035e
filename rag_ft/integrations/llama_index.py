"""A run's retriever and encoder as LlamaIndex components.

    from rag_ft.integrations.llama_index import RunRetriever
    retriever = RunRetriever.from_config("configs/demo.yaml")       # the tuned retriever where there is one
    nodes = retriever.retrieve("When does the ferry leave?")        # list[NodeWithScore]

`RunRetriever` is served from the run folder (FAISS and BM25 as evaluated); `RunEmbedding` embeds new texts with the
run's encoder, for any LlamaIndex vector store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import (
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import PrivateAttr

from rag_ft.config import Config
from rag_ft.config_loader import load_config
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.retriever import Retriever, open_retriever, served_tuned
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.storage import ChunkStore


class RunRetriever(BaseRetriever):
    """Gives the chunks of a run as nodes: `node_id` is the chunk id, `ref_doc_id` the document id, the score as in
    `Retriever.search`, metadata {title, document_id, split}; start_char_idx and end_char_idx count in the document."""

    def __init__(
        self, retriever: Retriever, run_dir: RunDir, top_k: int = 3, mode: str | None = None
    ) -> None:
        """`mode` is dense, lexical or hybrid, by default as configured. Reads chunks.jsonl once for its line places."""
        super().__init__()
        self._retriever, self._top_k, self._mode = retriever, top_k, mode
        self._chunks = ChunkStore(run_dir.chunks)

    @classmethod
    def from_config(
        cls, config: Config | str | Path, mode: str | None = None, tuned: bool | None = None
    ) -> RunRetriever:
        """Opens the run of a configuration (file). `tuned` None: the tuned retriever where one was shipped.

        Raises:
            DataError, ConfigError: there is no index, or it was made by another encoder.
        """
        config = config if isinstance(config, Config) else load_config(Path(config))
        run_dir = RunDir(config.run_path)
        retriever = open_retriever(
            config, run_dir, served_tuned(run_dir) if tuned is None else tuned
        )
        return cls(retriever, run_dir, config.retrieval.top_k, mode)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        [hits] = self._retriever.search([query_bundle.query_str], self._top_k, self._mode)
        return [
            NodeWithScore(node=_node(self._chunks[chunk_id]), score=score)
            for chunk_id, score in hits
        ]


class RunEmbedding(BaseEmbedding):
    """The encoder of a run, base or tuned, with its query and chunk prefixes."""

    _encoder: Encoder = PrivateAttr()

    def __init__(self, encoder: Encoder, **knobs: Any) -> None:
        super().__init__(model_name=f"rag-ft-{encoder.fingerprint}", **knobs)
        self._encoder = encoder

    @classmethod
    def from_config(cls, config: Config | str | Path, tuned: bool | None = None) -> RunEmbedding:
        """`tuned` None: the tuned encoder where one was shipped. Raises ConfigError where the encoder is missing."""
        config = config if isinstance(config, Config) else load_config(Path(config))
        run_dir = RunDir(config.run_path)
        tuned = served_tuned(run_dir) if tuned is None else tuned
        return cls(load_encoder(config.encoder, run_dir.retriever if tuned else None))

    @classmethod
    def class_name(cls) -> str:
        return "RunEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return [float(x) for x in self._encoder.encode_queries([query])[0]]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._encoder.encode_chunks(texts).tolist()
        return vectors


def _node(chunk: Chunk) -> TextNode:
    return TextNode(
        id_=chunk.id,
        text=chunk.text,
        start_char_idx=chunk.start,
        end_char_idx=chunk.end,
        metadata={"title": chunk.title, "document_id": chunk.document_id, "split": chunk.split},
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=chunk.document_id)},
    )
