"""The pages: chat, a document with the cited chunk marked, the login, and their files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rag_ft.evaluation.components import in_order
from rag_ft.serving.collections import Collection, ServedModel
from rag_ft.serving.errors import ApiError
from rag_ft.serving.guard import COOKIE, Key
from rag_ft.serving.requests import FeedbackBody, read_body
from rag_ft.serving.state import ServerState, state_of

FOLDER = Path(__file__).parent / "web"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# The whole set of files that are given out; a path is never made of a request.
FILES = {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
MAX_LOGIN_BYTES = 4096


async def chat_page(request: Request) -> Response:
    """GET /."""
    models = [
        {
            "id": model.id,
            "run": model.collection.name,
            "what": what_answers(model),
            "tuned": bool(model.collection.tuned),
        }
        for model in state_of(request).models.values()
    ]
    return HTMLResponse(render("chat.html", models=models))


def what_answers(model: ServedModel) -> str:
    """ "tuned retriever and generator", "base", or "base, closed book"."""
    if model.id == model.collection.name and model.collection.tuned:
        return f"tuned {' and '.join(in_order(model.collection.tuned))}"
    return "base, closed book" if model.closed_book else "base"


async def document_page(request: Request) -> Response:
    """GET /documents/{id}?chunk=: the document as text, with the chunk marked."""
    collections: Sequence[Collection] = request.state.collections()
    document_id, home = request.path_params["id"], request.state.home
    run = request.query_params.get("run")
    found = next(
        (c for c in collections if run in (None, c.name) and document_id in c.documents), None
    )
    if found is None:
        return HTMLResponse(render("missing.html", home=home), 404)
    document = found.documents[document_id]
    chunk_id = request.query_params.get("chunk", "")
    chunk = found.session.chunks.get(chunk_id)
    start, end = (0, 0)
    if chunk is not None and chunk.document_id == document.id:
        start, end = chunk.start, chunk.end
    page = render(
        "document.html",
        home=home,
        document=document,
        before=document.text[:start],
        cited=document.text[start:end],
        after=document.text[end:],
        missing_chunk=bool(chunk_id) and start == end,
    )
    return HTMLResponse(page)


async def static_file(request: Request) -> Response:
    """GET /static/{name}."""
    path = FILES.get(request.path_params["name"])
    if path is None:
        raise ApiError(404, "no such file")
    return Response(path.read_bytes(), media_type=TYPES[path.suffix])


async def login_page(request: Request) -> Response:
    """GET /login: asks for the key once."""
    return HTMLResponse(render("login.html", wrong=False))


async def login(request: Request) -> Response:
    """POST /login: the key as a form; a browser keeps a cookie in its place."""
    key: Key | None = request.state.key
    if key is None:
        return RedirectResponse("/", 303)
    body = (await request.body())[:MAX_LOGIN_BYTES].decode("utf-8", "replace")
    given = parse_qs(body).get("key", [""])[0]
    if not key.opens(given.strip()):
        return HTMLResponse(render("login.html", wrong=True), 401)
    response = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, key.cookie, httponly=True, samesite="strict", secure=secure)
    return response


async def feedback(request: Request) -> Response:
    """POST /v1/feedback {id, rating: 1 | -1 | null, comment?, answer?, chunk_ids?}."""
    state: ServerState = state_of(request)
    body = await read_body(request, FeedbackBody)
    judge = functools.partial(
        state.exchanges.judge, body.id, body.rating, body.comment, body.answer, body.chunk_ids
    )
    known = await state.answerer.in_thread(judge, "feedback")
    return Response(status_code=204) if known else Response(status_code=202)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True)


def render(name: str, **values: object) -> str:
    """The page of a template in web/; values are escaped."""
    return _environment().get_template(name).render(**values)
