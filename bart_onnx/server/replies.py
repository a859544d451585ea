"""Replies: what becomes of a request between its asking and its answer, on whatever wire.

A wire reads a body as a `CompletionRequest`, begins a reply with it, and says how what is found is
written; limits, threads, clients that leave and figures are the same for all.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi.sse import format_sse_event
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bart_onnx.errors import InputError
from bart_onnx.server.answering import SHORT, Answers, unless_gone
from bart_onnx.server.bodies import body_of
from bart_onnx.server.completion_forms import Completion
from bart_onnx.server.completion_request import CompletionRequest, check_request, in_clients_words
from bart_onnx.server.failures import FAILED, Refusal, failure_of, form_of
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.metrics import Figures
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.requests import Hypotheses, Update
from bart_onnx.server.served import ServedModel

_log = logging.getLogger(__name__)

# So many of the longest requests' texts may wait to be brought to ids.
_LONGEST_WAITING = 8

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Piece:
    """What is new of one prompt's answer.

    Attributes:
        row: which prompt.
        text: what follows its text so far; "" where several sequences are asked of a prompt.
        hypotheses: all of it, when it is finished.
    """

    row: int
    text: str
    hypotheses: Hypotheses | None


class Replies:
    """What all wires ask by: models, limits, figures.

    Args:
        lifetime: what is closing; None where nobody says.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        options: ServerOptions,
        figures: Figures,
        lifetime: Lifetime | None = None,
    ) -> None:
        self.models, self.options, self._figures = models, options, figures
        self._lifetime = lifetime or Lifetime()

    def model(self, name: str) -> ServedModel:
        """A model by its name.

        Raises:
            Refusal: 404; there is none.
        """
        if name not in self.models:
            raise Refusal(
                404,
                f"There is no model {name!r:.80}; there are {', '.join(self.models)}.",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    async def body(self, request: Request) -> bytes:
        """See `body_of`.

        Raises:
            Refusal: 408, it has not come in time.
            SchedulerClosedError: the server ends before it has come.
        """
        seconds = self.options.deadline
        try:
            async with self._lifetime.reading(seconds):
                return await body_of(request, self.options.body_bytes)
        except TimeoutError:
            told = f"The body has not come whole within {seconds:g} s; send it faster."
            raise Refusal(408, told, headers={"Connection": "close"}) from None

    async def begin(
        self,
        asked: CompletionRequest,
        deadline: float | None = None,
        priority: int = 0,
        client: Request | None = None,
    ) -> Reply:
        """Check a request, and submit it.

        Args:
            deadline: seconds that its client gives it; the server's own are the most.
            priority: the smaller goes first.
            client: who may leave meanwhile; None where whoever leaves cancels.

        Raises:
            Refusal: 400, 404, 413; what is asked cannot be answered.
            QueueFullError, SchedulerClosedError: it is not taken.
            DeadlineError: its time was over before it was brought to ids.
            ClientDisconnect: the client left.
        """
        model = self.model(asked.model)
        check_request(asked, self.options)
        seconds = min(self.options.deadline, deadline or self.options.deadline)
        try:
            completion, took = await self._completion(model, asked, seconds, client)
            left, follows = seconds - took, bool(asked.stream)
            answers = Answers(model.scheduler, completion.plan, left, priority, follows)
        except InputError as error:
            raise in_clients_words(error) from None
        return Reply(model.name, completion, answers, self._figures)

    async def _completion(
        self, model: ServedModel, asked: CompletionRequest, seconds: float, client: Request | None
    ) -> tuple[Completion, float]:
        """A request brought to ids, and the seconds that this took if others may have to wait."""
        work = partial(Completion, model, asked, self.options)
        size = sum(map(len, asked.texts or asked.ids or ()))
        if size <= SHORT:
            return work(), 0.0
        began, most = time.monotonic(), self.options.waiting
        largest = _LONGEST_WAITING * self.options.characters
        async with model.preparing.place(seconds, most, size, largest):
            turn = model.preparing.turn(work)
            completion = await (turn if client is None else unless_gone(client, turn))
        return completion, round(time.monotonic() - began, 2)


class Reply:
    """One request's answer, under way; it is closed by whoever writes it.

    Attributes:
        completion: what the request was brought to.
        found: of prompts that are finished, in the order in which they were.
    """

    def __init__(
        self, model: str, completion: Completion, answers: Answers, figures: Figures
    ) -> None:
        self.completion = completion
        self.found: list[Hypotheses] = []
        self._model, self._answers, self._figures = model, answers, figures

    async def whole(
        self, request: Request, form: Callable[[list[Hypotheses]], Awaitable[Response]]
    ) -> Response:
        """The answer in one, while its client stays.

        Args:
            form: what to send for what was found, prompt by prompt.

        Raises:
            ClientDisconnect: the client left.
            DecodingError, ServingError: of the first prompt that failed.
        """
        try:
            return await unless_gone(request, self._whole(form))
        finally:
            self.close()

    async def stream(
        self, request: Request, events: AsyncIterator[Mapping[str, Any]], end: str | None = None
    ) -> Response:
        """The answer as events, begun when the first is there: what fails before has a status.

        Args:
            end: what is sent when all went well; None for nothing.

        Raises:
            ClientDisconnect: the client left before it.
            DecodingError, ServingError: of the first prompt that failed before it.
        """
        try:
            first = await unless_gone(request, _next(events))
        except BaseException:
            self.close()
            raise
        return _EventStream(request, self, first, events, end)

    async def updates(self) -> AsyncIterator[tuple[int, Update]]:
        """A prompt and what is new of it, until all are finished.

        Raises:
            DecodingError, ServingError: of the first prompt that failed.
        """
        async for row, update in self._answers.updates():
            if update.hypotheses is not None:
                self.found.append(update.hypotheses)
            yield row, update

    async def pieces(self) -> AsyncIterator[Piece]:
        """The same as text; nothing is told of what adds none, but for the end."""
        growing = [self.completion.grown() for _ in self._answers.tickets]
        async for row, update in self.updates():
            text, complete = "", update.hypotheses is not None
            if self.completion.count == 1:
                text = growing[row].piece(update.token_ids, complete)
            if complete or text:
                yield Piece(row, text, update.hypotheses)

    def close(self) -> None:
        """Cancel what nobody will read, and count what came of the request."""
        self._answers.cancel()
        self._figures.note(
            self._model,
            self.completion.prompt_tokens,
            self._answers.tickets,
            [each for hypotheses in self.found for each in hypotheses],
        )

    async def _whole(self, form: Callable[[list[Hypotheses]], Awaitable[Response]]) -> Response:
        self.found = await self._answers.all()
        return await form(self.found)


class _EventStream(StreamingResponse):
    """Events of a reply, which is closed however its sending ends, begun or not.

    An error after the first is an event too, in the form of errors of the request's path.
    """

    def __init__(
        self,
        request: Request,
        reply: Reply,
        first: Mapping[str, Any],
        events: AsyncIterator[Mapping[str, Any]],
        end: str | None,
    ) -> None:
        written = _written(request, first, events, end)
        super().__init__(written, 200, _STREAM_HEADERS, "text/event-stream")
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.close()


async def _next(events: AsyncIterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    return await anext(events)


async def _written(
    request: Request,
    first: Mapping[str, Any],
    events: AsyncIterator[Mapping[str, Any]],
    end: str | None,
) -> AsyncIterator[bytes]:
    try:
        yield _event(first)
        async for event in events:
            yield _event(event)
    except Exception as error:
        failure = failure_of(error)
        if failure.status == 500:
            _log.exception("A stream failed.")
        status, told = form_of(request.url.path)(failure)
        setattr(request.state, FAILED, status)
        yield _event(told)
        return
    if end is not None:
        yield format_sse_event(data_str=end)


def _event(content: Mapping[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content, ensure_ascii=False, allow_nan=False))
