"""The served index as files that vector stores and search engines take: vectors, text, metadata.

Only files are written, by pyarrow and json: no store's own package is needed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_ft.schema import Chunk
from rag_ft.storage import batched, json_text, write_text

# Rows of a file of requests: some 10 MB, which every server takes at once.
ROWS_PER_FILE = 1000
MAX_ID_BYTES = 512  # of Elasticsearch and OpenSearch
_NAMESPACE = uuid.UUID("7d3b6d0e-7c2b-5d0c-9d8e-0b6a3f0f5a51")


class IndexedChunk(NamedTuple):
    """A chunk with its vector (unit norm) and the metadata of its document."""

    chunk: Chunk
    vector: np.ndarray
    metadata: dict[str, Any]


def fields(row: IndexedChunk) -> dict[str, Any]:
    """What a store keeps beside the vector."""
    chunk = row.chunk
    return {
        "id": chunk.id,
        "document_id": chunk.document_id,
        "title": chunk.title,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "headings": list(chunk.headings),
        "split": chunk.split,
        "metadata": row.metadata,
    }


def write_parquet(rows: Iterable[IndexedChunk], dim: int, about: dict[str, Any], to: Path) -> int:
    """One Parquet file, with `vector` as a list of `dim` float32, and `metadata` as JSON. What it
    is `about`, the encoder, stands in its schema."""
    import pyarrow as pa
    from pyarrow import parquet

    text, number = pa.string(), pa.int64()
    names = ("id", "document_id", "title", "text", "split", "metadata")
    schema = pa.schema(
        [
            *(pa.field(name, text) for name in names),
            *(pa.field(name, number) for name in ("start", "end", "page")),
            pa.field("headings", pa.list_(text)),
            pa.field("vector", pa.list_(pa.float32(), dim)),
        ],
        metadata={"rag_ft": json.dumps(about)},
    )
    count = 0
    with parquet.ParquetWriter(to, schema) as out:
        for batch in batched(rows, ROWS_PER_FILE):
            table = [
                {
                    **(own := fields(row)),
                    "metadata": json_text(own["metadata"]),
                    "vector": row.vector,
                }
                for row in batch
            ]
            out.write_batch(pa.RecordBatch.from_pylist(table, schema=schema))
            count += len(batch)
    return count


def write_qdrant(rows: Iterable[IndexedChunk], dim: int, about: dict[str, Any], to: Path) -> int:
    """A folder with collection.json and points-00000.json, ...: the bodies of Qdrant's requests
    `PUT /collections/NAME` and `PUT /collections/NAME/points`."""
    vectors = {"size": dim, "distance": "Dot"}
    write_text(to / "collection.json", json_text({"vectors": vectors, "metadata": about}) + "\n")

    def point(row: IndexedChunk) -> dict[str, Any]:
        # Qdrant takes numbers and UUIDs as ids.
        own = {"id": _uuid(row.chunk), "vector": _numbers(row.vector)}
        return {**own, "payload": fields(row)}

    return _write_parts(
        rows,
        to,
        "points-{:05}.json",
        lambda batch: [json_text({"points": list(map(point, batch))})],
    )


def write_elasticsearch(
    rows: Iterable[IndexedChunk], dim: int, about: dict[str, Any], to: Path
) -> int:
    """A folder with index.json, the body of `PUT /NAME`, and bulk-00000.ndjson, ..., those of
    `POST /NAME/_bulk`."""
    vector = {"type": "dense_vector", "dims": dim, "index": True, "similarity": "dot_product"}
    _write_index(to, {}, vector, about)
    return _write_parts(rows, to, "bulk-{:05}.ndjson", _bulk)


def write_opensearch(
    rows: Iterable[IndexedChunk], dim: int, about: dict[str, Any], to: Path
) -> int:
    """As `write_elasticsearch`, for OpenSearch."""
    method = {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct"}
    vector = {"type": "knn_vector", "dimension": dim, "method": method}
    _write_index(to, {"index.knn": True}, vector, about)
    return _write_parts(rows, to, "bulk-{:05}.ndjson", _bulk)


def _write_index(
    to: Path, settings: dict[str, Any], vector: dict[str, Any], about: dict[str, Any]
) -> None:
    exact = {name: {"type": "keyword"} for name in ("id", "document_id", "split")}
    read = {name: {"type": "text"} for name in ("title", "text", "headings")}
    places = {name: {"type": "integer"} for name in ("start", "end", "page")}
    # Documents may give one name to values of several types: they are stored, not searched.
    others = {"vector": vector, "metadata": {"type": "object", "enabled": False}}
    mappings = {"_meta": about, "properties": {**exact, **read, **places, **others}}
    write_text(to / "index.json", json_text({"settings": settings, "mappings": mappings}) + "\n")


def _bulk(batch: list[IndexedChunk]) -> Iterator[str]:
    """Two lines a chunk: what to do, and the document."""
    for row in batch:
        is_long = len(row.chunk.id.encode()) > MAX_ID_BYTES
        yield json_text({"index": {"_id": _uuid(row.chunk) if is_long else row.chunk.id}})
        yield json_text({**fields(row), "vector": _numbers(row.vector)})


def _write_parts(
    rows: Iterable[IndexedChunk],
    to: Path,
    name: str,
    lines: Callable[[list[IndexedChunk]], Iterable[str]],
) -> int:
    """Writes files of ROWS_PER_FILE rows each; returns the number of rows."""
    count = 0
    for part, batch in enumerate(batched(rows, ROWS_PER_FILE)):
        write_text(to / name.format(part), "".join(line + "\n" for line in lines(batch)))
        count += len(batch)
    return count


def _uuid(chunk: Chunk) -> str:
    """The same for the same id, so that a later export replaces a chunk."""
    return str(uuid.uuid5(_NAMESPACE, chunk.id))


def _numbers(vector: np.ndarray) -> list[float]:
    """The numbers of a float32 vector; nine digits give each of them back."""
    return [float(f"{value:.9g}") for value in vector.tolist()]


INDEX_FORMATS = {
    "parquet": write_parquet,
    "qdrant": write_qdrant,
    "elasticsearch": write_elasticsearch,
    "opensearch": write_opensearch,
}
