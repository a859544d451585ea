"""What tests of the server share: a model to serve, how each wire asks it, and engines by hand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bart_onnx.configured import ConfiguredCall
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.requests import Request
from bart_onnx.server.scheduler import Scheduler
from bart_onnx.server.served import ServedModel

NAME = "bart_tiny_en_g2p"
OPTIONS = ServerOptions(preset=(NAME,), threads=1, offline=True, sequences=8, body_bytes=100_000)

# What ASGI knows of a request; its path is to be added.
SCOPE: Mapping[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "method": "POST",
    "root_path": "",
    "query_string": b"",
    "headers": [],
}


@dataclass(frozen=True)
class Wire:
    """One route that decodes, for one model.

    Attributes:
        path: where it is.
        streams: whether it answers with events: always, never, or where a field asks for it (None).
        statuses: what it says in place of OpenAI's statuses.
    """

    model: str
    path: str
    streams: bool | None
    statuses: Mapping[int, int]

    def body(self, text: str = "x", stream: bool = False, **parameters: Any) -> dict[str, Any]:
        """A body that asks for one text."""
        streamed = {"stream": True} if stream else {}
        if self.path.startswith("/models"):
            return {"inputs": text, "parameters": parameters, **streamed}
        if self.path.endswith("/infer"):
            tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [text]}
            return {"inputs": [tensor], "parameters": parameters}
        if self.path.startswith("/v2"):
            return {"text_input": text, **parameters}
        return {"model": self.model, "prompt": text, **streamed, **parameters}

    def text(self, answer: Any, stream: bool) -> str:
        """The text that an answer tells of one that was asked for."""
        if stream:
            told = [json.loads(event) for event in events_of(answer) if event != "[DONE]"]
            return "".join(map(self._piece, told))
        assert answer.status_code == 200, answer.text
        told = answer.json()
        if self.path.startswith("/models"):
            (found,) = told
            return str(found["summary_text"])
        if self.path.endswith("/infer"):
            return str(told["outputs"][0]["data"][0])
        return self._piece(told)

    def is_error(self, content: Any, message: str = "") -> bool:
        """Whether it is an error in this wire's form, and says so."""
        if self.path.startswith("/v1"):
            names, told = {"message", "type", "param", "code"}, content["error"]
            return set(told) == names and message in told["message"]
        names = {"error", "error_type"} if self.path.startswith("/models") else {"error"}
        return set(content) == names and message in content["error"]

    def _piece(self, told: Any) -> str:
        if self.path.startswith("/models"):
            return str(told["token"]["text"])
        if self.path.startswith("/v2"):
            return str(told["text_output"])
        return str(told["choices"][0]["text"])


def wires_of(model: str) -> tuple[Wire, ...]:
    """All that a model can be asked by."""
    hugging_face = {400: 422, 422: 424}
    return (
        Wire(model, "/v1/completions", None, {}),
        Wire(model, f"/v2/models/{model}/infer", False, {}),
        Wire(model, f"/v2/models/{model}/generate", False, {}),
        Wire(model, f"/v2/models/{model}/generate_stream", True, {}),
        Wire(model, f"/models/{model}", None, hugging_face),
        Wire(model, f"/models/{model}/summarization", False, hugging_face),
    )


def ways_of(wires: Iterable[Wire]) -> list[tuple[Wire, bool]]:
    """Wires, and whether they are asked for a stream."""
    return [
        (wire, stream)
        for wire in wires
        for stream in (False, True)
        if wire.streams is None or wire.streams is stream
    ]


WIRES = wires_of(NAME)


def events_of(answer: Any) -> list[str]:
    """The data of a stream's events."""
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


class TurnsInThread:
    """Takes the turns of a scheduler that has no thread, after some seconds of its clock."""

    def __init__(self, lm: Any, seconds: float = 0.0) -> None:
        self.now, self._lm, self._seconds = 0.0, lm, seconds
        self.scheduler = Scheduler(lm.runner, clock=lambda: self.now, threaded=False)

    def __enter__(self) -> ServedModel:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return ServedModel(NAME, self._lm, self.scheduler)

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            if self.scheduler.load.waiting:
                self.now += self._seconds
            self.scheduler.turn()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def waiting_request(model: ServedModel) -> Request:
    """A request that a scheduler takes."""
    call = ConfiguredCall(model.lm.runner, model.lm.preprocessor, model.lm.by_config())
    return Request(call.plan(call.from_texts(["x"])))


def leave_when_it_waits(app: Any, path: str, body: object, scheduler: Scheduler) -> list[Any]:
    """Ask, and leave as soon as the request is in the queue; what was sent all the same."""
    return leave_when(app, path, body, lambda: scheduler.load.waiting > 0)


def leave_when(app: Any, path: str, body: object, leaves: Callable[[], bool]) -> list[Any]:
    """Ask, and leave as soon as something is so; what was sent all the same."""
    came = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if came:
            return came.pop()
        while not leaves():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**SCOPE, "path": path, "raw_path": path.encode()}
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    return sent
