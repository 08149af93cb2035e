"""The bodies of requests. Unknown fields are ignored, as clients send many."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import Request

from rag_ft.serving.errors import ApiError
from rag_ft.storage import encodable

# Longer ones are no questions, and would be read for seconds while all others wait.
MAX_QUESTION = 100_000  # characters
MAX_QUERIES = 100
MAX_SCHEMA = 100_000  # characters of JSON
Text = Annotated[str, Field(max_length=1_000_000)]
Question = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION)]
Filters = dict[str, Any]
Parsed = TypeVar("Parsed", bound="Body")


class Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str = ""

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """The text of a list of parts. A turn that only calls a tool has no content."""
        if content is None:
            return ""
        if not isinstance(content, list):
            return content
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise ValueError("only text parts are understood")
        return "\n".join(texts)


class StreamOptions(Body):
    include_usage: bool = False


class ChatBody(Body):
    model: Text
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=1)
    response_format: dict[str, Any] | None = None
    filters: Filters | None = None

    @field_validator("response_format")
    @classmethod
    def _short(cls, form: dict[str, Any] | None) -> dict[str, Any] | None:
        if len(json.dumps(form)) > MAX_SCHEMA:
            raise ValueError(f"at most {MAX_SCHEMA} characters")
        return form

    @property
    def stops(self) -> list[str]:
        """The texts that end the answer."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]


class EmbeddingsBody(Body):
    model: Text
    input: Text | list[Text] = Field(min_length=1)
    input_type: Literal["query", "passage", "document"] = "passage"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)

    @property
    def texts(self) -> list[str]:
        """The texts to encode."""
        return [self.input] if isinstance(self.input, str) else self.input


class RerankDocument(Body):
    text: Text


class RerankBody(Body):
    """Jina's fields, and TEI's: `texts` in place of `documents`, `return_text`."""

    query: Question
    model: Text | None = None
    documents: list[Text | RerankDocument] | None = Field(None, max_length=10_000)
    texts: list[Text] | None = Field(None, max_length=10_000)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    return_text: bool = False


class RetrievalSetting(Body):
    top_k: int = Field(3, ge=1, le=1000)
    score_threshold: float = Field(0.0, allow_inf_nan=False)


class RetrievalBody(Body):
    """Dify's external knowledge."""

    knowledge_id: Text
    query: Question
    retrieval_setting: RetrievalSetting = RetrievalSetting()
    filters: Filters | None = None


class RankingOptions(Body):
    score_threshold: float = Field(0.0, allow_inf_nan=False)


class VectorSearchBody(Body):
    query: Question | Annotated[list[Question], Field(min_length=1, max_length=MAX_QUERIES)]
    max_num_results: int = Field(10, ge=1, le=50)
    ranking_options: RankingOptions | None = None
    filters: Filters | None = None


class FeedbackBody(Body):
    id: str = Field(min_length=1, max_length=200)
    rating: Literal[1, -1] | None = None
    comment: Text | None = None
    answer: Text | None = None
    chunk_ids: list[Text] | None = Field(None, max_length=1000)


async def read_body(request: Request, kind: type[Parsed]) -> Parsed:
    """The body of a request.

    Raises:
        ApiError: it is not JSON, or a field is missing or wrong.
    """
    try:
        body = await request.body()
        values = encodable(json.loads(body, parse_float=_finite, parse_constant=_finite))
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is not JSON") from error
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object")
    try:
        return kind(**{key: value for key, value in values.items() if key.isidentifier()})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ApiError(400, f"{field}: {first['msg'].lower()}", param=field) from error
    except (TypeError, RecursionError) as error:
        raise ApiError(400, "the body has fields of a wrong type") from error


def _finite(text: str) -> float:
    """The number; 1e999, NaN and Infinity are none. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"not a number: {text}")
    return number


def openai_filters(filters: Filters | None) -> Filters | None:
    """OpenAI's filters {type: eq | in | and, key, value, filters} as {field: value or values};
    those of our own form stay as they are.

    Raises:
        ApiError: another kind of comparison, or two that name the same field.
    """
    if not filters or not isinstance(filters.get("type"), str):
        return filters
    kind, key, value = filters["type"], filters.get("key"), filters.get("value")
    if kind in ("eq", "in") and isinstance(key, str):
        return {key: value}
    if kind == "and" and isinstance(filters.get("filters"), list):
        joined: Filters = {}
        for part in filters["filters"]:
            one = openai_filters(part) if isinstance(part, dict) else None
            if not one or set(one) & set(joined):
                break
            joined |= one
        else:
            return joined
    raise ApiError(400, "filters: only eq, in and `and` of different keys are known", "filters")
