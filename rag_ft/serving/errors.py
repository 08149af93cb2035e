"""What a client did wrong, or what failed, in OpenAI's error shape."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rag_ft.errors import RagFtError

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer with an HTTP status of 400 or above. `param` names the field that is wrong."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """{"error": {message, type, param, code}}."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, headers: dict[str, str] | None = None) -> JSONResponse:
        """The error as a response."""
        return JSONResponse(self.body, self.status, headers=headers)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, error.detail).response()


async def _failed(_: Request, error: Exception) -> Response:
    return ApiError(503, str(error)).response()


async def _defect(_: Request, __: Exception) -> Response:
    # Starlette raises the exception again after the response, and the log shows it.
    return ApiError(500, "an error in the server: its log says more").response()


# What the routes of every application raise.
HANDLERS: dict[Any, Any] = {
    ApiError: _api_error,
    HTTPException: _http_error,
    RagFtError: _failed,
    Exception: _defect,
}
