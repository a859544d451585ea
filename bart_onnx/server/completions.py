"""OpenAI's routes: `/v1/models` and `/v1/completions`, whole or as a stream of events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bart_onnx.server.answering import aside
from bart_onnx.server.completion_request import CompletionRequest, read_request
from bart_onnx.server.failures import Refusal
from bart_onnx.server.replies import Piece, Replies, Reply
from bart_onnx.server.requests import Hypotheses

# OpenAI's prefix, and the one that KServe puts before it.
_PREFIXES = ("/v1", "/openai/v1")


def completion_paths(names: Iterable[str]) -> list[str]:
    """All paths of these routes, for figures and logs."""
    paths = ["/models", "/completions", "/chat/completions", *(f"/models/{name}" for name in names)]
    return [f"{prefix}{path}" for prefix in _PREFIXES for path in paths]


def completion_routes(replies: Replies) -> list[Route]:
    """The routes of these models, the busiest first."""
    asked = _Asked(replies)
    calls: list[tuple[str, Callable[[Request], Awaitable[Response]], str]] = [
        ("/completions", asked.completions, "POST"),
        ("/models", asked.models, "GET"),
        ("/models/{name}", asked.model, "GET"),
        ("/chat/completions", asked.chat, "POST"),
    ]
    return [
        Route(f"{prefix}{path}", answer, methods=[method])
        for prefix in _PREFIXES
        for path, answer, method in calls
    ]


class _Asked:
    """What is answered to each question."""

    def __init__(self, replies: Replies) -> None:
        self._replies, self._started = replies, int(time.time())

    async def models(self, request: Request) -> Response:
        """All of them."""
        listed = [_model(name, self._started) for name in self._replies.models]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        """One."""
        name = self._replies.model(request.path_params["name"]).name
        return JSONResponse(_model(name, self._started))

    async def chat(self, request: Request) -> Response:
        """Nothing, and what to ask instead."""
        raise Refusal(404, "A BART does not chat; POST the text to /v1/completions.")

    async def completions(self, request: Request) -> Response:
        """What a model makes of prompts."""
        asked = read_request(await self._replies.body(request))
        reply = await self._replies.begin(asked, client=request)
        written = _Written(asked, reply, request.state.request_id)
        if asked.stream:
            return await reply.stream(request, written.chunks(), "[DONE]")
        return await reply.whole(request, written.whole)


class _Written:
    """A reply as OpenAI writes it."""

    def __init__(self, asked: CompletionRequest, reply: Reply, request_id: str) -> None:
        self._asked, self._reply = asked, reply
        self._head: dict[str, Any] = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }

    async def whole(self, found: list[Hypotheses]) -> Response:
        """In one."""
        for row, hypotheses in enumerate(found):
            await self._reply.completion.align(row, hypotheses)
        return JSONResponse(await aside(found, partial(self._form, found)))

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """As events."""
        asked = self._asked.stream_options
        usage = {"usage": None} if asked is not None and asked.include_usage else {}
        async for piece in self._reply.pieces():
            if piece.hypotheses is not None:
                await self._reply.completion.align(piece.row, piece.hypotheses)
            found = [] if piece.hypotheses is None else [piece.hypotheses]
            for choice in await aside(found, partial(self._news, piece)):
                yield {**self._head, "choices": [choice], **usage}
        if usage:
            told = self._reply.completion.usage(self._reply.found)
            yield {**self._head, "choices": [], "usage": told}

    def _form(self, found: list[Hypotheses]) -> dict[str, Any]:
        completion = self._reply.completion
        choices = [
            choice
            for row, hypotheses in enumerate(found)
            for choice in completion.choices(row, hypotheses)
        ]
        return {**self._head, "choices": choices, "usage": completion.usage(found)}

    def _news(self, piece: Piece) -> list[dict[str, Any]]:
        if piece.hypotheses is None:
            told = {"text": piece.text, "finish_reason": None, "logprobs": None}
            return [{"index": piece.row, **told}]
        choices = self._reply.completion.choices(piece.row, piece.hypotheses)
        if len(choices) == 1:
            choices[0]["text"] = piece.text
        return choices


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "bart_onnx"}
