"""Front: what Ray's proxy asks; it forwards requests to replicas, and repeats those of dead ones.

It knows no model, and nothing of what a request asks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi.sse import format_sse_event
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from bart_onnx.errors import EngineError
from bart_onnx.server.failures import RETRY_CLOSING, Failure, form_of
from bart_onnx.server.ray_repeats import FULL, repeated
from bart_onnx.server.ray_replica import Call

_ID_HEADER = b"x-request-id"


class Front:
    """One that stands before all replicas.

    Args:
        replicas: Ray's handle of the deployment of `Replica`.
        body_bytes: the largest body.
    """

    def __init__(self, replicas: Any, body_bytes: int) -> None:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        self._answers = replicas.answer.options(stream=True)
        self._body_bytes = body_bytes
        self._died, self._full = RayActorError, BackPressureError

    async def __call__(self, request: Request) -> Response:
        """Answer one request; Ray cancels it when its client leaves."""
        call = await _call_of(request, self._body_bytes)
        try:
            return await _relayed(repeated(partial(self._asked, call), self._died), call.path)
        except EngineError as error:
            return _lost(error).response(call.path)

    async def _asked(self, call: Call) -> AsyncGenerator[Message]:
        """One replica's answer; nothing of it has come when the handle says that all are full."""
        answer = self._answers.remote(call)
        try:
            async for several in answer:
                for message in several:
                    yield message
        except self._full:
            refused = _full().response(call.path)
            head = {"status": refused.status_code, "headers": refused.raw_headers}
            yield {"type": "http.response.start", **head}
            yield {"type": "http.response.body", "body": refused.body}
        finally:
            answer.cancel()


async def _call_of(request: Request, most: int) -> Call:
    headers = tuple(request.scope["headers"])
    if not any(name == _ID_HEADER for name, _ in headers):
        # Or each replica would make up its own, which answers tell.
        headers += ((_ID_HEADER, uuid.uuid4().hex.encode()),)
    scope, body = request.scope, bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            break  # enough for the replica to refuse it, in the words of its protocol
    return Call(request.method, scope["path"], scope["query_string"], headers, bytes(body))


async def _relayed(messages: AsyncGenerator[Message], path: str) -> Response:
    """A response of them; its status is sent when the first of its body is there."""
    head = await anext(messages)
    first = await anext(messages)
    response = StreamingResponse(_bodies(first, messages, path), head["status"])
    response.raw_headers = list(head["headers"])
    return response


async def _bodies(
    first: Message, messages: AsyncGenerator[Message], path: str
) -> AsyncIterator[bytes]:
    async with aclosing(messages):
        yield first.get("body", b"")
        try:
            async for message in messages:
                yield message.get("body", b"")
        except EngineError as error:  # only streams have more than one body
            yield format_sse_event(data_str=json.dumps(form_of(path)(_lost(error))[1]))


def _lost(error: EngineError) -> Failure:
    headers = {"Retry-After": str(RETRY_CLOSING)}
    return Failure(503, f"{error} Ask again.", code="replica_lost", headers=headers)


def _full() -> Failure:
    message = "As many requests wait for a replica as may; ask again."
    headers = {"Retry-After": str(RETRY_CLOSING)}
    return Failure(FULL, message, code="rate_limit_exceeded", headers=headers)
