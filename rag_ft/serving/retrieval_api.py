"""Search without answers: embeddings, rerank, Dify's external knowledge, OpenAI's vector stores."""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag_ft.rag import RetrievedChunk
from rag_ft.serving.collections import ServedModel
from rag_ft.serving.errors import ApiError
from rag_ft.serving.requests import (
    EmbeddingsBody,
    RerankBody,
    RetrievalBody,
    VectorSearchBody,
    openai_filters,
    read_body,
)
from rag_ft.serving.state import ServerState, state_of
from rag_ft.storage import text_batches

MAX_TEXTS = 2048
T = TypeVar("T")


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings. `input_type` is query or passage, for encoders with two prefixes."""
    state, body = state_of(request), await read_body(request, EmbeddingsBody)
    encoder = state.model(body.model).retriever.encoder
    if len(body.texts) > MAX_TEXTS:
        raise ApiError(400, f"input: at most {MAX_TEXTS} texts", "input")
    if body.dimensions not in (None, encoder.dim):
        raise ApiError(400, f"dimensions: this encoder has {encoder.dim}", "dimensions")
    is_query = body.input_type == "query"
    encode = encoder.encode_queries if is_query else encoder.encode_chunks
    vectors = await _in_slices(state, encode, body.texts, encoder.block_size, "embed")
    counted = await _in_slices(state, encoder.count_tokens, body.texts, encoder.block_size, "embed")
    num_tokens = sum(counted)
    data = [
        {"object": "embedding", "index": i, "embedding": _vector(row, body.encoding_format)}
        for i, row in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})


async def rerank(request: Request) -> Response:
    """POST /v1/rerank and /rerank: Jina's shape, or TEI's where the texts come as `texts`."""
    state, body = state_of(request), await read_body(request, RerankBody)
    model = state.model(body.model) if body.model else next(iter(state.models.values()))
    given = body.texts if body.texts is not None else body.documents
    if not given:
        raise ApiError(400, "documents: give at least one text", "documents")
    texts = [text if isinstance(text, str) else text.text for text in given]
    encoder = model.retriever.encoder
    embed_query = functools.partial(encoder.encode_queries, [body.query])
    [vector] = await state.answerer.in_thread(embed_query, "rerank")
    encoded = await _in_slices(state, encoder.encode_chunks, texts, encoder.block_size, "rerank")
    scores = [float(one @ vector) for one in encoded]  # cosines
    order = sorted(range(len(texts)), key=lambda i: (-scores[i], i))[: body.top_n]
    if body.texts is not None:
        rows: list[dict[str, Any]] = [{"index": i, "score": scores[i]} for i in order]
        if body.return_text:
            rows = [{**row, "text": texts[row["index"]]} for row in rows]
        return JSONResponse(rows)
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
    if body.return_documents:
        results = [{**row, "document": {"text": texts[row["index"]]}} for row in results]
    return JSONResponse({"object": "list", "model": model.id, "results": results})


async def retrieval(request: Request) -> Response:
    """POST /retrieval: Dify's external knowledge API. `knowledge_id` is a run or a model id."""
    state, body = state_of(request), await read_body(request, RetrievalBody)
    if body.knowledge_id not in state.models:
        error = {"error_code": 2001, "error_msg": "the knowledge does not exist"}
        return JSONResponse(error, 404)
    model, setting = state.model(body.knowledge_id), body.retrieval_setting
    found = await state.answerer.retrieve(model, body.query, setting.top_k, body.filters)
    records = [
        {
            "content": chunk.chunk.text,
            "score": chunk.score,
            "title": chunk.chunk.title,
            "metadata": _attributes(state, request, model, chunk),
        }
        for chunk in found
        if chunk.score >= setting.score_threshold
    ]
    return JSONResponse({"records": records})


async def vector_store_search(request: Request) -> Response:
    """POST /v1/vector_stores/{id}/search: OpenAI's shape; the id is a run or a model id."""
    state, body = state_of(request), await read_body(request, VectorSearchBody)
    model = state.model(request.path_params["id"])
    queries = [body.query] if isinstance(body.query, str) else body.query
    filters, options = openai_filters(body.filters), body.ranking_options
    if not all(query.strip() for query in queries):
        raise ApiError(400, "query: empty", "query")
    retrieve = functools.partial(
        state.answerer.retrieve, model, k=body.max_num_results, filters=filters
    )
    best: dict[str, RetrievedChunk] = {}
    for found in chain.from_iterable(await asyncio.gather(*map(retrieve, queries))):
        known = best.get(found.chunk.id)
        if known is None or known.score < found.score:
            best[found.chunk.id] = found
    ranked = sorted(best.values(), key=lambda found: -found.score)[: body.max_num_results]
    data = [
        {
            "file_id": found.chunk.document_id,
            "filename": found.chunk.title or found.chunk.document_id,
            "score": found.score,
            "attributes": _attributes(state, request, model, found),
            "content": [{"type": "text", "text": found.chunk.text}],
        }
        for found in ranked
        if options is None or found.score >= options.score_threshold
    ]
    return JSONResponse(
        {
            "object": "vector_store.search_results.page",
            "search_query": body.query,
            "data": data,
            "has_more": False,
            "next_page": None,
        }
    )


def _vector(row: np.ndarray, form: str) -> Any:
    """A vector as numbers, or as base64 of float32 in little-endian order."""
    if form == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return [float(number) for number in row]


async def _in_slices(
    state: ServerState,
    work: Callable[[list[str]], Iterable[T]],
    texts: list[str],
    block_size: int,
    step: str,
) -> list[T]:
    """What `work` gives for each text, a few texts at a time: questions of other clients are
    answered in between. `block_size` is that of the encoder."""
    done: list[T] = []
    for part in text_batches(texts, block_size * 32, block_size // 4):
        done.extend(await state.answerer.in_thread(functools.partial(work, part), step))
    return done


def _attributes(
    state: ServerState, request: Request, model: ServedModel, found: RetrievedChunk
) -> dict[str, Any]:
    """The document's metadata, with what identifies the chunk."""
    chunk, collection = found.chunk, model.collection
    url = state.links(request, collection)(chunk.document_id, chunk.id)
    return {
        **collection.documents[chunk.document_id].metadata,
        "document_id": chunk.document_id,
        "chunk_id": chunk.id,
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "headings": list(chunk.headings),
        "url": url,
    }
