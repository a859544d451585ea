"""Hugging Face's task API: one URL a model, for summaries and generated text, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bart_onnx.server.answering import aside
from bart_onnx.server.completion_request import read_body
from bart_onnx.server.failures import Refusal
from bart_onnx.server.hugging_face_forms import (
    GENERATED,
    SUMMARY,
    TaskRequest,
    answers,
    details,
    token,
)
from bart_onnx.server.replies import Replies, Reply
from bart_onnx.server.requests import Hypotheses

_PREFIX = "/models"


def hugging_face_paths(names: Iterable[str]) -> list[str]:
    """All paths of these routes, for figures and logs."""
    return [f"{_PREFIX}/{name}{task}" for name in names for task in ("", "/summarization")]


def hugging_face_routes(replies: Replies) -> list[Route]:
    """The routes of these models."""

    async def either(request: Request) -> Response:
        asked = read_body(TaskRequest, await replies.body(request))
        # Where only a text is sent, it does not say which task's answer is looked for.
        return await _answer(replies, request, asked, (GENERATED, SUMMARY))

    async def summarization(request: Request) -> Response:
        asked = read_body(TaskRequest, await replies.body(request))
        if asked.stream or asked.parameters.details:
            raise Refusal(400, "Summaries have no stream and no details; ask the model's own URL.")
        return await _answer(replies, request, asked, (SUMMARY,))

    one = f"{_PREFIX}/{{name}}"
    return [
        Route(one, either, methods=["POST"]),
        Route(f"{one}/summarization", summarization, methods=["POST"]),
    ]


async def _answer(
    replies: Replies, request: Request, asked: TaskRequest, names: tuple[str, ...]
) -> Response:
    reply = await replies.begin(asked.completion(request.path_params["name"]), client=request)
    with_details = bool(asked.parameters.details)
    if asked.stream:
        return await reply.stream(request, _events(reply, with_details))

    async def form(found: list[Hypotheses]) -> Response:
        work = partial(answers, reply.completion, found, names, with_details)
        return JSONResponse(await aside(found, work))

    return await reply.whole(request, form)


async def _events(reply: Reply, with_details: bool) -> AsyncIterator[dict[str, Any]]:
    """An event for each token; its text is what it adds to the text of those before."""
    completion, growing = reply.completion, reply.completion.grown()
    told = first = int(completion.plan.prompts.prompt_lengths[0])
    async for _, update in reply.updates():
        ids, complete = update.token_ids, update.hypotheses is not None
        assert update.log_probs is not None  # a stream asks for them
        for place in range(told, len(ids)):
            last = complete and place == len(ids) - 1
            text = growing.piece(ids[: place + 1], last)
            event: dict[str, Any] = {
                "index": place - first + 1,
                "token": token(
                    completion, int(ids[place]), text, float(update.log_probs[place - first])
                ),
                GENERATED: None,
                "details": None,
            }
            if last and update.hypotheses is not None:
                event[GENERATED] = completion.texts([update.hypotheses])[0]
                if with_details:
                    event["details"] = details(completion, update.hypotheses[0])
            yield event
        told = max(told, len(ids))
