"""Failures: what each error is on the wire, in the form that the clients of its path read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bart_onnx.errors import (
    DeadlineError,
    DecodingError,
    InputError,
    InputTooLongError,
    QueueFullError,
    RequestCancelledError,
    SchedulerClosedError,
)

_log = logging.getLogger(__name__)

#: Seconds after which to try a server again that is closing: another one may have its place.
RETRY_CLOSING = 5

#: Nobody reads this answer; it is for logs and figures.
CLIENT_GONE = 499

#: What a request's state calls the status of an error that came after an answer had begun.
FAILED = "failed"

_OPENAI: Mapping[int, str] = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

# Status and error_type as Hugging Face's text-generation-inference has them, whose client makes an
# exception of each type.
_HUGGING_FACE: Mapping[int, tuple[int, str]] = {
    400: (422, "validation"),
    408: (408, "incomplete_generation"),
    422: (424, "generation"),
    429: (429, "overloaded"),
    500: (500, "incomplete_generation"),
    503: (503, "overloaded"),
    504: (504, "incomplete_generation"),
}


class Refusal(HTTPException):
    """A request that is refused before the model is asked.

    Args:
        param: which field of the body is at fault.
        code: what programs tell it by.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Failure:
    """An error as clients see it, whatever its form."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, path: str) -> Response:
        """An answer of it alone, in the form of errors of a path."""
        status, body = form_of(path)(self)
        return JSONResponse(body, status, dict(self.headers))


#: The status of a failure, and the body that tells it.
Form: TypeAlias = Callable[[Failure], tuple[int, dict[str, Any]]]


def _of_openai(failure: Failure) -> tuple[int, dict[str, Any]]:
    default = "server_error" if failure.status >= 500 else "invalid_request_error"
    kind = _OPENAI.get(failure.status, default)
    error = {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}
    return failure.status, {"error": error}


def _of_open_inference(failure: Failure) -> tuple[int, dict[str, Any]]:
    return failure.status, {"error": failure.message}


def _of_hugging_face(failure: Failure) -> tuple[int, dict[str, Any]]:
    status, kind = _HUGGING_FACE.get(failure.status, (failure.status, "validation"))
    return status, {"error": failure.message, "error_type": kind}


# By what a path begins with.
_FORMS: Mapping[str, Form] = {"/v2": _of_open_inference, "/models": _of_hugging_face}


def form_of(path: str) -> Form:
    """The form of errors of a path: OpenAI's, where no other is known."""
    fitting = (form for start, form in _FORMS.items() if f"{path}/".startswith(f"{start}/"))
    return next(fitting, _of_openai)


def failure_of(error: Exception) -> Failure:
    """What an error is to a client; nothing of the inside is told of one that nobody foresaw."""
    if isinstance(error, HTTPException):
        param, code = getattr(error, "param", None), getattr(error, "code", None)
        return Failure(error.status_code, str(error.detail), param, code, error.headers or {})
    if isinstance(error, InputTooLongError):
        return Failure(400, str(error), "prompt", "context_length_exceeded")
    if isinstance(error, InputError):
        return Failure(400, str(error))
    if isinstance(error, DecodingError):
        return Failure(422, str(error), code="not_decodable")
    if isinstance(error, QueueFullError):
        headers = {"Retry-After": str(error.retry_after)}
        return Failure(429, str(error), code="rate_limit_exceeded", headers=headers)
    if isinstance(error, SchedulerClosedError | RequestCancelledError):
        return closing()
    if isinstance(error, DeadlineError):
        return Failure(504, str(error), code="deadline_exceeded")
    return Failure(500, "The server failed at this request; its log says why.")


def closing() -> Failure:
    """A server that is about to end."""
    headers = {"Retry-After": str(RETRY_CLOSING), "Connection": "close"}
    return Failure(503, "The server is closing; ask again.", code="closing", headers=headers)


def crowded() -> Failure:
    """More requests at a time than can be under way and wait."""
    message = "As many requests are here as the server takes. Ask again in 1 s."
    headers = {"Retry-After": "1"}
    return Failure(429, message, code="rate_limit_exceeded", headers=headers)


async def answer_failure(request: Request, error: Exception) -> Response:
    """For errors that a route raises."""
    path = request.url.path
    if isinstance(error, HTTPException) and type(error) is not Refusal:
        told = {
            404: f"There is no {path:.80}; see /v1/completions, /v2 and /models/NAME.",
            405: f"{path:.80} does not take {request.method}.",
        }
        message = told.get(error.status_code, str(error.detail))
        return Failure(error.status_code, message, headers=error.headers or {}).response(path)
    failure = failure_of(error)
    if failure.status == 500:
        whose = {"request_id": request.state.request_id}
        _log.error("A request failed.", exc_info=error, extra=whose)
    return failure.response(path)


async def answer_nobody(request: Request, error: Exception) -> Response:
    """For a client that has left."""
    return Response(status_code=CLIENT_GONE)
