"""Pairs and chunks as rows of other tools' formats."""

from __future__ import annotations

from typing import Any

from rag_ft.llm.interface import Messages
from rag_ft.schema import Chunk
from rag_ft.text import cell_id


def openai_row(messages: Messages, answer: str) -> dict[str, Any]:
    """OpenAI's chat format."""
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def gemini_row(messages: Messages, answer: str) -> dict[str, Any]:
    """The tuning format of Gemini on Vertex AI."""
    turns = [("user", message["content"]) for message in messages] + [("model", answer)]
    return {"contents": [{"role": role, "parts": [{"text": text}]} for role, text in turns]}


def sharegpt_row(messages: Messages, answer: str) -> dict[str, Any]:
    """The ShareGPT format."""
    turns = [("human", message["content"]) for message in messages] + [("gpt", answer)]
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}


def alpaca_row(messages: Messages, answer: str) -> dict[str, Any]:
    """The Alpaca format."""
    return {"instruction": messages[0]["content"], "input": "", "output": answer}


def trl_row(messages: Messages, answer: str) -> dict[str, Any]:
    """TRL's conversational prompt-completion format."""
    return {"prompt": list(messages), "completion": [{"role": "assistant", "content": answer}]}


def beir_row(chunk: Chunk) -> dict[str, Any]:
    """A chunk of BEIR's corpus, with its place, which BEIR does not ask for."""
    return {
        "_id": cell_id(chunk.id),
        "title": chunk.title,
        "text": chunk.text,
        "place": chunk.place,
        "page": chunk.page,
        "headings": list(chunk.headings),
    }
