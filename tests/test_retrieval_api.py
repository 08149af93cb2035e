"""Search without answers, in the shapes of OpenAI, Jina, TEI and Dify."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import Says, live, served_models, small_run

from rag_ft.serving.errors import ApiError
from rag_ft.serving.requests import openai_filters
from rag_ft.session import Session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Session:
    return small_run(tmp_path_factory.mktemp("searched"), tiny_encoder_dir)


@pytest.fixture(scope="module")
def url(session: Session) -> Iterator[str]:
    with live(served_models(session, Says("nothing"))) as address:
        yield address


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body)


def test_embeddings_are_those_of_the_encoder(url: str, session: Session) -> None:
    encoder = session.retriever().encoder
    reply = post(url, "/v1/embeddings", model="run-base", input=["the mill", "a pier"]).json()
    found = np.array([row["embedding"] for row in reply["data"]])
    assert np.allclose(found, encoder.encode_chunks(["the mill", "a pier"]), atol=1e-6)
    assert [row["index"] for row in reply["data"]] == [0, 1]
    assert reply["usage"]["prompt_tokens"] == sum(encoder.count_tokens(["the mill", "a pier"]))


def test_embeddings_in_base64_are_the_same_numbers(url: str) -> None:
    plain = post(url, "/v1/embeddings", model="run", input="mill").json()["data"][0]["embedding"]
    packed = post(url, "/v1/embeddings", model="run", input="mill", encoding_format="base64")
    raw = base64.b64decode(packed.json()["data"][0]["embedding"])
    assert np.allclose(np.frombuffer(raw, "<f4"), plain)


@pytest.mark.parametrize(
    "change", [{"input": []}, {"input": [[1, 2]]}, {"dimensions": 3}, {"model": "x"}, {"input": {}}]
)
def test_embeddings_that_cannot_be_made_are_client_errors(url: str, change: Any) -> None:
    reply = post(url, "/v1/embeddings", **({"model": "run", "input": "mill"} | change))
    assert reply.status_code in (400, 404)


def test_a_question_is_answered_between_the_texts_of_another_client(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = served_models(session, Says("nothing"))
    encoder, begun, told = models[0].retriever.encoder, threading.Event(), []

    def slowly(texts: Any) -> Any:
        told.append(len(texts))
        begun.set()
        time.sleep(0.04)
        return np.zeros((len(texts), 2), np.float32)

    monkeypatch.setattr(encoder, "encode_chunks", slowly)
    monkeypatch.setattr(encoder, "count_tokens", lambda texts: [1] * len(texts))
    with live(models) as url, ThreadPoolExecutor(1) as pool:
        long = pool.submit(post, url, "/v1/embeddings", model="run", input=["text " * 2000] * 30)
        begun.wait()
        assert post(url, "/retrieval", knowledge_id="run", query="mill").is_success
        assert sum(told) < 30
        assert len(long.result().json()["data"]) == sum(told) == 30


def test_the_work_for_a_client_that_left_ends(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = served_models(session, Says("nothing"))
    encoder, at_work, most, told = models[0].retriever.encoder, [0], [0], []

    def slowly(texts: Any) -> Any:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        told.append(len(texts))
        time.sleep(0.05)
        at_work[0] -= 1
        return np.zeros((len(texts), 2), np.float32)

    monkeypatch.setattr(encoder, "encode_chunks", slowly)
    with live(models) as url:
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                body = {"model": "run", "input": ["text " * 2000] * 50}
                httpx.post(f"{url}/v1/embeddings", json=body, timeout=0.03)
        assert post(url, "/retrieval", knowledge_id="run", query="mill").is_success
    assert most == [1] and sum(told) < 30


def test_reranking_speaks_two_dialects(url: str) -> None:
    texts = ["a cat", "the mill at the river", "the mill"]
    jina = post(
        url, "/v1/rerank", query="the mill", documents=texts, top_n=2, return_documents=True
    ).json()["results"]
    tei = post(url, "/rerank", query="the mill", texts=texts).json()
    assert [row["index"] for row in jina] == [row["index"] for row in tei][:2]
    assert jina[0]["document"]["text"] == texts[jina[0]["index"]]
    assert jina[0]["relevance_score"] == tei[0]["score"] >= tei[1]["score"] >= tei[2]["score"]
    objects = [{"text": text} for text in texts]
    same = post(url, "/v1/rerank", model="run", query="the mill", documents=objects).json()
    assert [row["index"] for row in same["results"]] == [row["index"] for row in tei]
    assert post(url, "/rerank", query="x", documents=[]).status_code == 400


def test_dify_gets_records_and_its_own_error(url: str) -> None:
    setting = {"top_k": 2, "score_threshold": 0.0}
    reply = post(
        url, "/retrieval", knowledge_id="run", query="the mill", retrieval_setting=setting
    ).json()
    first = reply["records"][0]
    assert first["title"] == "Mill" and isinstance(first["metadata"], dict)
    high = {"top_k": 2, "score_threshold": 1e9}
    none = post(url, "/retrieval", knowledge_id="run", query="mill", retrieval_setting=high)
    assert none.json() == {"records": []}
    nan = b'{"knowledge_id": "run", "query": "x", "retrieval_setting": {"score_threshold": NaN}}'
    assert httpx.post(f"{url}/retrieval", content=nan).status_code == 400
    missing = post(url, "/retrieval", knowledge_id="other", query="mill")
    assert (missing.status_code, missing.json()["error_code"]) == (404, 2001)


def test_a_vector_store_is_searched(url: str) -> None:
    reply = post(url, "/v1/vector_stores/run/search", query="the mill", max_num_results=1).json()
    assert reply["object"] == "vector_store.search_results.page"
    [found] = reply["data"]
    assert (found["file_id"], found["filename"]) == ("mill.md", "Mill")
    assert found["content"][0]["text"].startswith("The mill was built")
    several = post(url, "/v1/vector_stores/run/search", query=["the mill", "the ferry"]).json()
    ids = [row["file_id"] for row in several["data"]]
    assert {"mill.md", "ferry.md"} <= set(ids)
    assert post(url, "/v1/vector_stores/other/search", query="x").status_code == 404


def test_openais_filters_become_ours() -> None:
    eq = {"type": "eq", "key": "customer", "value": "a"}
    assert openai_filters(eq) == {"customer": "a"}
    both = {"type": "and", "filters": [eq, {"type": "in", "key": "id", "value": ["x", "y"]}]}
    assert openai_filters(both) == {"customer": "a", "id": ["x", "y"]}
    assert openai_filters({"customer": "a"}) == {"customer": "a"}
    for wrong in ({"type": "gt", "key": "n", "value": 1}, {"type": "and", "filters": [eq, eq]}):
        with pytest.raises(ApiError):
            openai_filters(wrong)
