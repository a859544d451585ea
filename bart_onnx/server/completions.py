"""OpenAI's routes: `/v1/models` and `/v1/completions`, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.sse import format_sse_event
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bart_onnx.errors import InputError
from bart_onnx.server.answering import Answers, unless_gone
from bart_onnx.server.completion_forms import Completion
from bart_onnx.server.completion_request import (
    CompletionRequest,
    check_request,
    in_clients_words,
    read_request,
)
from bart_onnx.server.failures import Refusal, failure_of
from bart_onnx.server.metrics import Figures
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.requests import Hypotheses
from bart_onnx.server.served import ServedModel

_log = logging.getLogger(__name__)

#: What there is, of figures and logs.
PATHS = ("/models", "/completions", "/chat/completions")

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def completion_routes(
    models: Mapping[str, ServedModel], options: ServerOptions, figures: Figures
) -> APIRouter:
    """The routes of these models."""
    router, started = APIRouter(), int(time.time())

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, started) for name in models]}

    @router.get("/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        return _model(_known(models, name).name, started)

    @router.post("/chat/completions")
    async def chat() -> None:
        raise Refusal(404, "A BART does not chat; POST the text to /v1/completions.")

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        asked = read_request(await body_of(request, options.body_bytes))
        model = _known(models, asked.model)
        check_request(asked, options)
        # A tokenizer takes a second for a million characters.
        try:
            completion = await asyncio.to_thread(Completion, model, asked, options)
            answers = Answers(model.scheduler, completion.plan, options.deadline)
        except InputError as error:
            raise in_clients_words(error) from None
        reply = _Reply(asked, completion, answers, request.state.request_id, model.name, figures)
        if asked.stream:
            return _EventStream(reply)
        try:
            return JSONResponse(await unless_gone(request, reply.whole()))
        finally:
            reply.close()

    return router


async def body_of(request: Request, most: int) -> bytes:
    """A request's body.

    Raises:
        Refusal: 413; it is larger than `most` bytes.
        ClientDisconnect: the client left before its end.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refusal(413, f"The body is larger than {most} bytes.", code="body_too_large")
    return bytes(body)


class _Reply:
    """One request's answer."""

    def __init__(
        self,
        asked: CompletionRequest,
        completion: Completion,
        answers: Answers,
        request_id: str,
        model: str,
        figures: Figures,
    ) -> None:
        self._asked, self._completion, self._answers = asked, completion, answers
        self._figures = figures
        # Of rows that are finished.
        self._found: list[Hypotheses] = []
        self._head: dict[str, Any] = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    async def whole(self) -> dict[str, Any]:
        """The answer in one."""
        self._found = await self._answers.all()
        return await asyncio.to_thread(self._form, self._found)

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as events; an error after the first is one too."""
        try:
            async for event in self._chunks():
                yield _event(event)
        except Exception as error:
            failure = failure_of(error)
            if failure.status == 500:
                _log.exception("A stream failed.")
            yield _event(failure.body)
            return
        yield format_sse_event(data_str="[DONE]")

    def close(self) -> None:
        """Cancel what nobody will read, and count what came of the request."""
        self._answers.cancel()
        self._figures.note(
            self._head["model"],
            self._completion.prompt_tokens,
            self._answers.tickets,
            [each for hypotheses in self._found for each in hypotheses],
        )

    def _form(self, found: list[Hypotheses]) -> dict[str, Any]:
        choices = [
            choice
            for row, hypotheses in enumerate(found)
            for choice in self._completion.choices(row, hypotheses)
        ]
        return {**self._head, "choices": choices, "usage": self._completion.usage(found)}

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        completion = self._completion
        growing = [completion.grown() for _ in self._answers.tickets]
        asked = self._asked.stream_options
        usage = {"usage": None} if asked is not None and asked.include_usage else {}
        async for row, update in self._answers.updates():
            complete = update.hypotheses is not None
            if complete and update.hypotheses:
                self._found.append(update.hypotheses)
            for choice in self._news(row, update.hypotheses):
                if completion.count == 1:
                    choice["text"] = growing[row].piece(update.token_ids, complete)
                if complete or choice["text"]:
                    yield {**self._head, "choices": [choice], **usage}
        if usage:
            yield {**self._head, "choices": [], "usage": completion.usage(self._found)}

    def _news(self, row: int, hypotheses: Hypotheses | None) -> list[dict[str, Any]]:
        if hypotheses is not None:
            return self._completion.choices(row, hypotheses)
        return [{"index": row, "text": "", "finish_reason": None, "logprobs": None}]


class _EventStream(StreamingResponse):
    """Events of a reply, which is closed however its sending ends, begun or not."""

    def __init__(self, reply: _Reply) -> None:
        super().__init__(reply.events(), 200, _STREAM_HEADERS, "text/event-stream")
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.close()


def _event(content: Mapping[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content, ensure_ascii=False, allow_nan=False))


def _known(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    if name not in models:
        raise Refusal(
            404,
            f"There is no model {name!r:.80}; there are {', '.join(models)}.",
            param="model",
            code="model_not_found",
        )
    return models[name]


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "bart_onnx"}
