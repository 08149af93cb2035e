"""A run's retriever and encoder as LlamaIndex components.

    from rag_ft.integrations.llama_index import RunRetriever

    retriever = RunRetriever.from_config("configs/demo.yaml")  # the tuned one, where it is served
    nodes = retriever.retrieve("When does the ferry leave?")  # list[NodeWithScore]

`RunRetriever` searches the run folder as evaluation does (FAISS and BM25). `RunEmbedding` embeds
new texts with the run's encoder, for any vector store of LlamaIndex.
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

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.metadata_filter import Filters
from rag_ft.retrieval.retriever import Retriever
from rag_ft.run_dir import RunDir
from rag_ft.session import Session


class RunRetriever(BaseRetriever):
    """Gives the chunks of a run as nodes.

    `node_id` is the chunk id, `ref_doc_id` the document id, the score that of `Retriever.search`,
    the metadata {title, document_id, split}. start_char_idx and end_char_idx are offsets in the
    document's text.
    """

    def __init__(
        self,
        retriever: Retriever,
        run_dir: RunDir,
        top_k: int = 3,
        mode: str | None = None,
        filters: Filters | None = None,
    ) -> None:
        """Finds `top_k` chunks a question, of documents that `filters` allow (all without them);
        `mode` is dense, lexical or hybrid, by default as configured."""
        super().__init__()
        self._filters = filters or {}
        self._retriever, self._top_k, self._mode = retriever, top_k, mode
        self._chunks = ChunkStore(run_dir.chunks)

    @classmethod
    def from_config(
        cls,
        config: Config | str | Path,
        mode: str | None = None,
        tuned: bool | None = None,
        filters: Filters | None = None,
    ) -> RunRetriever:
        """The retriever of the run of a configuration, or of a configuration file.

        `tuned` None: the tuned retriever and reranker where the run serves them, else the base.

        Raises:
            DataError, ConfigError: there is no index, or it was made by another encoder.
        """
        session = Session.of(config)
        components = set() if tuned is False else session.tuned_components
        if tuned:
            components |= {"retriever"}
        top_k = session.config.retrieval.top_k
        return cls(session.retriever(components), session.run_dir, top_k, mode, filters)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        question = query_bundle.query_str
        [hits] = self._retriever.search([question], self._top_k, self._mode, [self._filters])
        found = []
        for chunk_id, score in hits:
            chunk = self._chunks[chunk_id]
            document = RelatedNodeInfo(node_id=chunk.document_id)
            node = TextNode(
                id_=chunk.id,
                text=chunk.text,
                start_char_idx=chunk.start,
                end_char_idx=chunk.end,
                metadata={
                    "title": chunk.title,
                    "document_id": chunk.document_id,
                    "split": chunk.split,
                    "page": chunk.page,
                    "headings": list(chunk.headings),
                },
                relationships={NodeRelationship.SOURCE: document},
            )
            found.append(NodeWithScore(node=node, score=score))
        return found


class RunEmbedding(BaseEmbedding):
    """The encoder of a run, base or tuned, with its query and chunk prefixes."""

    _encoder: Encoder = PrivateAttr()

    def __init__(self, encoder: Encoder, **settings: Any) -> None:
        """`settings` are fields of BaseEmbedding, such as embed_batch_size."""
        super().__init__(model_name=f"rag-ft-{encoder.fingerprint}", **settings)
        self._encoder = encoder

    @classmethod
    def from_config(cls, config: Config | str | Path, tuned: bool | None = None) -> RunEmbedding:
        """The encoder of the run of a configuration, or of a configuration file.

        `tuned` None: the tuned encoder where the run serves one, else the base.

        Raises:
            ConfigError: the encoder is missing or damaged.
        """
        session = Session.of(config)
        if tuned is None:
            tuned = session.serves_tuned_retriever
        folder = session.run_dir.retriever if tuned else None
        return cls(load_encoder(session.config.encoder, folder))

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores the component."""
        return "RunEmbedding"

    # BaseEmbedding calls the methods below.

    def _get_query_embedding(self, query: str) -> list[float]:
        return [float(x) for x in self._encoder.encode_queries([query])[0]]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._encoder.encode_chunks(texts).tolist()
        return vectors
