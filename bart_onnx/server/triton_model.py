"""What Triton's Python backend loads: its requests, answered by our scheduler.

`execute` only takes requests; they are answered in an event loop of the model's own, so that none
waits for another. A request may ask for its text in pieces, so the transaction policy is decoupled.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bart_onnx.errors import InputError, InputTruncatedWarning
from bart_onnx.server.completion_request import CompletionRequest
from bart_onnx.server.failures import Refusal, failure_of
from bart_onnx.server.metrics import Figures
from bart_onnx.server.options import PREFIX, ServerOptions, option_parser, read_options
from bart_onnx.server.parameters import completion_request
from bart_onnx.server.replies import Replies, Reply
from bart_onnx.server.requests import Hypotheses
from bart_onnx.server.served import close, opened
from bart_onnx.triton_contract import BUNDLE, INPUT, OUTPUT

_log = logging.getLogger(__name__)

# Seconds between two looks at whether a client has left; each look is a message to Triton.
_LOOK = 0.25
# Parameters whose values are texts; another's is read as JSON, since not all of Triton's protocols
# have numbers with a fraction.
_TEXTS = ("early_stopping", "long_input", "stop", "stop_strings")

_CODES: Mapping[int, str] = {
    404: "NOT_FOUND",
    429: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


class TritonPythonModel:
    """A model as Triton knows it; see
    https://github.com/triton-inference-server/python_backend.

    Parameters of its configuration are options of `ServerOptions`, by name; without a preset it is
    the bundle beside it.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle; Triton calls it once, and says by it whether the model is ready.

        Raises:
            BartOnnxError: as `OnnxBartSeq2SeqLM.from_preset`; an option that cannot be used.
        """
        import triton_python_backend_utils

        self._backend: Any = triton_python_backend_utils
        config = json.loads(args["model_config"])
        # Each answer could say whether its text was cut; Triton's log is no place for it.
        warnings.simplefilter("ignore", InputTruncatedWarning)
        options = options_of(config, Path(args["model_repository"]) / args["model_version"])
        self._models = opened(options)
        (self._model,) = self._models
        self._replies = Replies(self._models, options, Figures(self._models))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bart_onnx answers")
        self._thread.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to answer some requests; each is sent to its own sender when it is there."""
        for request in requests:
            answering = self._answer(request, request.get_response_sender())
            asyncio.run_coroutine_threadsafe(answering, self._loop)

    def finalize(self) -> None:
        """End; Triton has waited for what was under way."""
        close(self._models)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, request: Any, sender: Any) -> None:
        """Answer one request, whatever comes of it."""
        working = asyncio.ensure_future(self._reply(request, sender))
        while not (await asyncio.wait({working}, timeout=_LOOK))[0]:
            if sender.is_cancelled():
                working.cancel()
        if working.cancelled():
            last = self._failed("CANCELLED", "The client left.")
        elif isinstance(error := working.exception(), Exception):
            failure = failure_of(error)
            if failure.status == 500:
                _log.error("A request failed.", exc_info=error)
            last = self._failed(_code(failure.status), failure.message)
        else:
            last = working.result()
        sender.send(last, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _reply(self, request: Any, sender: Any) -> Any:
        """The last response; those before it are sent."""
        asked = self._read(request)
        reply = await self._replies.begin(asked)
        try:
            if asked.stream:
                return await self._streamed(reply, sender)
            found: dict[int, Hypotheses] = {}
            async for row, update in reply.updates():
                found[row] = update.hypotheses or found.get(row, ())
            choices = [reply.completion.choices(row, found[row]) for row in sorted(found)]
            return self._response([each["text"] for several in choices for each in several])
        finally:
            reply.close()

    async def _streamed(self, reply: Reply, sender: Any) -> Any:
        """Send pieces as they become certain; the last one."""
        last = ""
        async for piece in reply.pieces():
            if piece.hypotheses is None:
                sender.send(self._response([piece.text]))
            last = piece.text
        return self._response([last])

    def _read(self, request: Any) -> CompletionRequest:
        """A request's texts and parameters.

        Raises:
            Refusal: 400; it names the parameter.
        """
        tensor = self._backend.get_input_tensor_by_name(request, INPUT)
        try:
            texts = [each.decode() for each in tensor.as_numpy().reshape(-1)]
        except UnicodeDecodeError:
            raise Refusal(400, f"{INPUT} is no UTF-8.", param=INPUT) from None
        fields = json.loads(request.parameters() or "{}")
        told = {name: _value(name, value) for name, value in fields.items()}
        stream = told.pop("stream", None)
        asked = completion_request(self._model, texts, told, stream=stream)
        if stream and (len(texts) > 1 or (asked.n or 1) > 1):
            raise Refusal(400, "A stream is of one sequence of one text.", param="stream")
        return asked

    def _response(self, texts: list[str]) -> Any:
        array = np.array([text.encode() for text in texts], np.object_)
        return self._backend.InferenceResponse([self._backend.Tensor(OUTPUT, array)])

    def _failed(self, code: str, message: str) -> Any:
        error = self._backend.TritonError
        return self._backend.InferenceResponse([], error=error(message, getattr(error, code)))


def options_of(config: Mapping[str, Any], directory: Path) -> ServerOptions:
    """A configuration's parameters as options; the environment's count where it says nothing.

    Args:
        directory: of the model's version; a bundle in it is what is served.

    Raises:
        InputError, InputTypeError: a parameter that is no option, or cannot be used.
    """
    parameters = config.get("parameters") or {}
    # Those in capitals are the Python backend's own.
    own = {name: each["string_value"] for name, each in parameters.items() if not name.isupper()}
    known = {field.name for field in dataclasses.fields(ServerOptions)}
    if unknown := sorted(set(own) - known):
        raise InputError(f"config.pbtxt has {unknown}; parameters may be {', '.join(known)}.")
    preset = own.pop("preset", str(directory / BUNDLE))
    given = {f"{PREFIX}{name.upper()}": value for name, value in own.items()}
    flags = option_parser("config.pbtxt", "").parse_args([f"--preset={preset}"])
    return read_options(flags, {**os.environ, **given})


def _value(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name in _TEXTS:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _code(status: int) -> str:
    """Triton's word for an HTTP status."""
    return _CODES.get(status, "INVALID_ARG" if status < 500 else "INTERNAL")
