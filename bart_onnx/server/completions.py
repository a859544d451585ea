"""OpenAI's routes: `/v1/models` and `/v1/completions`, whole or as a stream of events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

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


def completion_routes(replies: Replies) -> APIRouter:
    """The routes of these models."""
    router, started = APIRouter(), int(time.time())
    for prefix in _PREFIXES:
        router.include_router(_routes(replies, started), prefix=prefix)
    return router


def _routes(replies: Replies, started: int) -> APIRouter:
    router = APIRouter()

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, started) for name in replies.models]}

    @router.get("/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        return _model(replies.model(name).name, started)

    @router.post("/chat/completions")
    async def chat() -> None:
        raise Refusal(404, "A BART does not chat; POST the text to /v1/completions.")

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        asked = read_request(await replies.body(request))
        reply = await replies.begin(asked, client=request)
        written = _Written(asked, reply, request.state.request_id)
        if asked.stream:
            return await reply.stream(request, written.chunks(), "[DONE]")
        return await reply.whole(request, written.whole)

    return router


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
        return JSONResponse(await aside(_tokens(found), partial(self._form, found)))

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """As events."""
        asked = self._asked.stream_options
        usage = {"usage": None} if asked is not None and asked.include_usage else {}
        async for piece in self._reply.pieces():
            if piece.hypotheses is not None:
                await self._reply.completion.align(piece.row, piece.hypotheses)
            found = [] if piece.hypotheses is None else [piece.hypotheses]
            for choice in await aside(_tokens(found), partial(self._news, piece)):
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


def _tokens(found: Iterable[Hypotheses]) -> int:
    """How much work it is to write them."""
    return sum(len(each.token_ids) for hypotheses in found for each in hypotheses)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "bart_onnx"}
