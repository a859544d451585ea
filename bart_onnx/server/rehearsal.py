"""Rehearsal: what a scheduler decodes before it serves. It knows no HTTP.

Golden requests, alone and together, must come as they were written; of a bundle without any, one
text is decoded, so that the first caller does not wait for what is made once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from bart_onnx.answers import Model
from bart_onnx.configured import ConfiguredCall
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.errors import QueueFullError
from bart_onnx.golden import Golden, GoldenRequest
from bart_onnx.golden_replay import Decode, call_and_batch
from bart_onnx.server.requests import Request, Ticket
from bart_onnx.server.scheduler import Scheduler
from bart_onnx.text_generator import TextGenerator
from bart_onnx.verification import replayed

_log = logging.getLogger(__name__)

_TEXT = "warm up"


def rehearse(lm: TextGenerator, scheduler: Scheduler, room: int | None = None) -> None:
    """Decode what is known of the model, and compare.

    Args:
        room: tokens of all caches; requests that could never fit are not asked.

    Raises:
        GoldenError: an answer is otherwise than where the bundle was made.
        BartOnnxError: as decoding does.
    """
    model, bundle = Model(lm.runner, lm.preprocessor), lm.runner.bundle
    golden = Golden.of(bundle)
    if golden is not None and room is not None:
        fitting = tuple(each for each in golden.requests if _request(model, each).tokens <= room)
        golden = dataclasses.replace(golden, requests=fitting)
    if golden is None or not golden.requests:
        call = ConfiguredCall(model.runner, model.preprocessor, lm.by_config())
        scheduler.submit(Request(call.plan(call.from_texts([_TEXT])))).result()
        return
    found = replayed(golden, bundle, model, _decoder(model, scheduler))
    _log.info(
        "%s: %d golden requests came as written, log-probabilities within %.2g",
        bundle.path.name,
        len(golden.requests),
        found.largest,
    )


def _request(model: Model, request: GoldenRequest) -> Request:
    call, batch = call_and_batch(model, [request])
    return Request(call.plan(batch))


def _decoder(model: Model, scheduler: Scheduler) -> Decode:
    def decode(requests: Sequence[GoldenRequest]) -> list[Hypothesis]:
        tickets: list[Ticket] = []
        for request in requests:
            tickets.append(_submitted(scheduler, _request(model, request), tickets))
        return [ticket.result()[0] for ticket in tickets]

    return decode


def _submitted(scheduler: Scheduler, request: Request, before: Sequence[Ticket]) -> Ticket:
    """The request's ticket; where the queue has no room, once those before it have made some."""
    for ticket in before:
        try:
            return scheduler.submit(request)
        except QueueFullError:
            ticket.result()
    return scheduler.submit(request)
