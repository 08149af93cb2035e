"""The chunks behind an answer, in the three forms that clients read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rag_ft.prompts.answer_stream import AnswerStream, Mark
from rag_ft.rag import RetrievedChunk
from rag_ft.relevance import chunk_with_answer, locate

Citation = dict[str, Any]
UrlOf = Callable[[str, str], str]  # document id, chunk id -> address


def infer_citation(answer: AnswerStream, chunks: Sequence[RetrievedChunk]) -> str:
    """Cites the chunk that contains an answer without marks; returns the text to append, or ""."""
    if answer.marks or answer.abstained or not answer.text:
        return ""
    shown = [found.chunk for found in chunks]
    found = chunk_with_answer(answer.text, shown)
    return answer.cite(shown.index(found) + 1) if found else ""


def context_citations(
    answer: AnswerStream, chunks: Sequence[RetrievedChunk], inferred: bool, url_of: UrlOf
) -> list[Citation]:
    """Every chunk shown, in order: {content, title, url, chunk_id, document_id, start, end, page,
    page_end, headings, score, rank, cited, inferred, evidence}.

    `start` and `end` are offsets in the document. `evidence` is [start, end] of the answer in
    `content`, or null.
    """
    cited = {mark.number for mark in answer.marks}
    said = _without_marks(answer.text, answer.marks)
    citations = []
    for rank, found in enumerate(chunks, 1):
        chunk, is_cited = found.chunk, rank in cited
        evidence = locate(said, chunk.text) if is_cited else None
        citations.append(
            {
                "content": chunk.text,
                "title": chunk.title,
                "url": url_of(chunk.document_id, chunk.id),
                "chunk_id": chunk.id,
                "document_id": chunk.document_id,
                "start": chunk.start,
                "end": chunk.end,
                "page": chunk.page,
                "page_end": chunk.page_end,
                "headings": list(chunk.headings),
                "score": round(found.score, 6),
                "rank": rank,
                "cited": is_cited,
                "inferred": is_cited and inferred,
                "evidence": list(evidence) if evidence else None,
            }
        )
    return citations


def url_annotations(marks: Sequence[Mark], citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """OpenAI's `url_citation` of each mark in the text."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": mark.start,
                "end_index": mark.end,
                "url": citations[mark.number - 1]["url"],
                "title": citations[mark.number - 1]["title"],
            },
        }
        for mark in marks
    ]


def citation_events(citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """Open WebUI's citation events, up to the last cited chunk: the page takes the n-th event for
    the mark [n]. None where nothing is cited."""
    last = max((citation["rank"] for citation in citations if citation["cited"]), default=0)
    return [
        {
            "type": "citation",
            "data": {
                "source": {"name": citation["title"], "url": citation["url"]},
                "document": [citation["content"]],
                "metadata": [
                    {
                        "source": citation["chunk_id"],
                        "name": citation["title"],
                        "page": citation["page"],
                    }
                ],
            },
        }
        for citation in citations[:last]
    ]


def _without_marks(text: str, marks: Sequence[Mark]) -> str:
    for start, end in sorted({(mark.start, mark.end) for mark in marks}, reverse=True):
        text = text[:start] + text[end:]
    return text.strip()
