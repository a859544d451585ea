"""The Open Inference Protocol's routes, version 2, and Triton's generate extension.

A model is named by its path; its one version is "1".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bart_onnx.server.answering import aside
from bart_onnx.server.binary_tensors import LENGTH_HEADER, parted
from bart_onnx.server.completion_request import read_body, validated
from bart_onnx.server.failures import Refusal
from bart_onnx.server.health import Health
from bart_onnx.server.open_inference_forms import (
    TEXTS,
    GenerateRequest,
    InferRequest,
    Parameters,
    generated,
    infer_response,
)
from bart_onnx.server.parameters import completion_request
from bart_onnx.server.replies import Replies, Reply
from bart_onnx.server.requests import Hypotheses
from bart_onnx.server.served import ServedModel
from bart_onnx.triton_contract import INPUT, OUTPUT
from bart_onnx.version import __version__

_VERSION = "1"
_PREFIX = "/v2"
_EXTENSIONS = ["binary_tensor_data", "generate", "parameters", "schedule_policy"]
_CALLS = ("", "/ready", "/infer", "/generate", "/generate_stream")


def open_inference_paths(names: Iterable[str]) -> list[str]:
    """All paths of these routes, for figures and logs."""
    models = [f"{_PREFIX}/models/{name}" for name in names]
    every = [*models, *(f"{model}/versions/{_VERSION}" for model in models)]
    return [_PREFIX, *(f"{model}{call}" for model in every for call in _CALLS)]


def open_inference_routes(replies: Replies, health: Health) -> list[Route]:
    """The routes of these models; those of the server's health are with its others."""
    asked = _Asked(replies, health)
    one = f"{_PREFIX}/models/{{name}}"
    routes = [
        route
        for model in (one, f"{one}/versions/{{version}}")
        for route in (
            Route(f"{model}/infer", asked.infer, methods=["POST"]),
            Route(f"{model}/generate", asked.generate, methods=["POST"]),
            Route(f"{model}/generate_stream", asked.generate_stream, methods=["POST"]),
            Route(f"{model}/ready", asked.ready),
            Route(model, asked.metadata),
        )
    ]
    return [*routes, Route(_PREFIX, asked.server)]


class _Asked:
    """What is answered to each question."""

    def __init__(self, replies: Replies, health: Health) -> None:
        self._replies, self._health = replies, health

    async def server(self, request: Request) -> Response:
        """What this is."""
        return JSONResponse(
            {"name": "bart_onnx", "version": __version__, "extensions": _EXTENSIONS}
        )

    async def metadata(self, request: Request) -> Response:
        """What a model takes and gives."""
        texts = {"datatype": TEXTS, "shape": [-1]}
        return JSONResponse(
            {
                "name": self._model(request).name,
                "versions": [_VERSION],
                "platform": "bart_onnx",
                "inputs": [{"name": INPUT, **texts}],
                "outputs": [{"name": OUTPUT, **texts}],
            }
        )

    async def ready(self, request: Request) -> Response:
        """Whether a model may be asked."""
        name = self._model(request).name
        serves = self._health.serves(name)
        return JSONResponse({"name": name, "ready": serves}, 200 if serves else 503)

    async def infer(self, request: Request) -> Response:
        """Tensor of texts to tensor of texts."""
        model, body = self._model(request), await self._replies.body(request)
        content, raw = parted(body, request.headers.get(LENGTH_HEADER))
        asked = read_body(InferRequest, content)
        texts = asked.inputs[0].texts(raw, self._replies.options)
        reply = await self._begun(request, model, texts, asked.parameters, False)
        form = partial(infer_response, _head(model, asked.id), as_bytes=asked.wants_bytes)
        return await _whole(request, reply, form)

    async def generate(self, request: Request) -> Response:
        """Text to text."""
        model = self._model(request)
        asked = read_body(GenerateRequest, await self._replies.body(request))
        parameters = validated(Parameters, asked.asked)
        reply = await self._begun(request, model, asked.texts, parameters, False)
        form = partial(generated, _head(model, asked.id))
        return await _whole(request, reply, lambda texts: JSONResponse(form(texts)))

    async def generate_stream(self, request: Request) -> Response:
        """Text to text, as it grows."""
        model = self._model(request)
        asked = read_body(GenerateRequest, await self._replies.body(request))
        parameters = validated(Parameters, asked.asked)
        if len(asked.texts) > 1:
            raise Refusal(400, "A stream is of one text; ask for each by itself.")
        reply = await self._begun(request, model, asked.texts, parameters, True)
        return await reply.stream(request, _events(reply, _head(model, asked.id)))

    async def _begun(
        self,
        request: Request,
        model: ServedModel,
        texts: list[str],
        parameters: Parameters,
        stream: bool,
    ) -> Reply:
        if parameters.stream not in (None, stream):
            raise Refusal(
                400, "stream contradicts the route; generate_stream streams, others do not."
            )
        asked = completion_request(model.name, texts, parameters.of_decoding, stream=stream)
        return await self._replies.begin(asked, parameters.deadline, parameters.order, request)

    def _model(self, request: Request) -> ServedModel:
        """The model of a path.

        Raises:
            Refusal: 404; there is none, or not this version of it.
        """
        found = self._replies.model(request.path_params["name"])
        version = request.path_params.get("version", _VERSION)
        if version != _VERSION:
            raise Refusal(404, f"{found.name} has no version {version!r:.40}; there is {_VERSION}.")
        return found


async def _whole(request: Request, reply: Reply, form: Callable[[list[str]], Response]) -> Response:
    async def written(found: list[Hypotheses]) -> Response:
        return form(await aside(found, partial(reply.completion.texts, found)))

    return await reply.whole(request, written)


async def _events(reply: Reply, head: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async for piece in reply.pieces():
        texts = [piece.text]
        if piece.hypotheses is not None and reply.completion.count > 1:
            texts = reply.completion.texts([piece.hypotheses])
        yield generated(head, texts)


def _head(model: ServedModel, given: str | None) -> dict[str, Any]:
    head = {"model_name": model.name, "model_version": _VERSION}
    return head if given is None else {"id": given, **head}
