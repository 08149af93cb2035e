"""LlamaIndex reads a run, by its own base classes over a real index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.integrations.llama_index import RunEmbedding, RunRetriever
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.stages import index
from rag_ft.storage import write_jsonl

TEXTS = [
    "the mill at the river",
    "who painted the tower in 1842?",
    "Brücke, gebaut 1901",
    "the ferry leaves at noon",
]


@pytest.fixture
def indexed(make_run: Callable[..., tuple[Config, RunDir]]) -> tuple[Config, RunDir]:
    config, run_dir = make_run([], retrieval__top_k=2)
    chunks = [
        Chunk(f"d#{n}", "d", "Places", t, 10 * n, 10 * n + len(t), 5, "test")
        for n, t in enumerate(TEXTS)
    ]
    write_jsonl(run_dir.chunks, chunks)
    index.run(Session(config, run_dir))
    return config, run_dir


def test_a_question_gives_nodes_with_the_scores_of_the_run(indexed: tuple[Config, RunDir]) -> None:
    config, run_dir = indexed
    nodes = RunRetriever.from_config(config).retrieve("Brücke 1901")
    [hits] = open_retriever(run_dir, config.retrieval, config.encoder).search(["Brücke 1901"], 2)
    assert [(node.node_id, node.score) for node in nodes] == hits
    first = nodes[0].node
    assert (
        nodes[0].text == TEXTS[2]
        and first.ref_doc_id == "d"
        and first.metadata["title"] == "Places"
    )
    assert (first.start_char_idx, first.end_char_idx) == (20, 20 + len(TEXTS[2]))


def test_a_query_engine_takes_it(indexed: tuple[Config, RunDir]) -> None:
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine

    config, _ = indexed
    engine = RetrieverQueryEngine.from_args(
        RunRetriever.from_config(config, mode="lexical"), llm=MockLLM()
    )
    assert [node.node_id for node in engine.query("ferry at noon").source_nodes] == ["d#3", "d#0"]


def test_embeddings_are_those_of_the_encoder(indexed: tuple[Config, RunDir]) -> None:
    config, run_dir = indexed
    embedding = RunEmbedding.from_config(config)
    encoder = open_retriever(run_dir, config.retrieval, config.encoder).encoder
    batch = embedding.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(batch, encoder.encode_chunks(TEXTS), atol=1e-6)
    np.testing.assert_allclose(
        embedding.get_query_embedding("mill"), encoder.encode_queries(["mill"])[0], atol=1e-6
    )


def test_a_vector_store_index_of_llama_index_is_built_with_it(
    indexed: tuple[Config, RunDir],
) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    config, _ = indexed
    store = VectorStoreIndex(
        [TextNode(text=t) for t in TEXTS], embed_model=RunEmbedding.from_config(config)
    )
    assert store.as_retriever(similarity_top_k=1).retrieve(TEXTS[3])[0].text == TEXTS[3]


def test_a_run_without_an_index_is_one_line_with_the_remedy(
    make_run: Callable[..., tuple[Config, RunDir]],
) -> None:
    config, _ = make_run([])
    with pytest.raises(DataError, match="rag-ft index"):
        RunRetriever.from_config(config)
