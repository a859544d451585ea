"""The bodies of each wire protocol as readers: everything up to the text that would be decoded.

Only what is a 4xx on the wire may be raised. The route's own part is tried over HTTP
(`fuzz_http`), with a model behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from fuzz_seeds import CONFIG, as_json
from fuzz_trial import Reader

from bart_onnx.decoding.generation_config import decoding_options
from bart_onnx.errors import InputError
from bart_onnx.server.binary_tensors import packed, parted
from bart_onnx.server.bodies import inflated
from bart_onnx.server.completion_request import (
    CompletionRequest,
    check_request,
    in_clients_words,
    read_body,
    read_request,
    validated,
)
from bart_onnx.server.failures import Refusal
from bart_onnx.server.hugging_face_forms import TaskRequest
from bart_onnx.server.open_inference_forms import GenerateRequest, InferRequest, Parameters
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.parameters import completion_request
from bart_onnx.server.triton_model import TritonPythonModel

LIMITS = ServerOptions(preset=("x",))
_INFLATED = 1 << 20


def _asked(asked: CompletionRequest) -> object:
    """What becomes of a request before its texts are cut into tokens."""
    for text in asked.texts or ():
        text.encode()
    check_request(asked, LIMITS)
    try:
        return decoding_options({}, CONFIG, asked.options())
    except InputError as error:
        raise in_clients_words(error) from None


def _completion(data: bytes, directory: Path) -> object:
    return _asked(read_request(data))


def _infer(data: bytes, directory: Path) -> object:
    """The first line is the header that says how long the JSON is; empty for none."""
    length, _, body = data.partition(b"\n")
    content, raw = parted(body, length.decode("latin-1") or None)
    asked = read_body(InferRequest, content)
    texts, _ = asked.inputs[0].texts(raw, LIMITS), asked.wants_bytes
    parameters = asked.parameters
    assert parameters.order > -3
    assert (parameters.deadline or 1) > 0
    assert asked.id is None or asked.id.encode() is not None
    return _asked(completion_request("x", texts, parameters.of_decoding))


def _generate(data: bytes, directory: Path) -> object:
    asked = read_body(GenerateRequest, data)
    parameters = validated(Parameters, asked.asked)
    assert asked.id is None or asked.id.encode() is not None
    return _asked(completion_request("x", asked.texts, parameters.of_decoding))


def _task(data: bytes, directory: Path) -> object:
    return _asked(read_body(TaskRequest, data).completion("x"))


class _Triton:
    """A request of Triton's Python backend, and the backend that gives its tensor."""

    def __init__(self, parameters: bytes) -> None:
        self._parameters = parameters

    def parameters(self) -> str:
        return self._parameters.decode()

    def get_input_tensor_by_name(self, request: object, name: str) -> _Triton:
        return self

    def as_numpy(self) -> np.ndarray:
        return np.array([b"a", "\u00e9".encode()], np.object_)


def _triton(data: bytes, directory: Path) -> object:
    """Parameters as Triton tells them: JSON that it wrote itself, of numbers, truths and texts."""
    try:
        known = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    flat = isinstance(known, dict) and all(
        isinstance(each, str | int | float) for each in known.values()
    )
    request, model = _Triton(data), TritonPythonModel()
    model._backend, model._model = request, "x"
    return _asked(model._read(request)) if flat else None


def _compressed(data: bytes, directory: Path) -> object:
    coding = "gzip" if data[:1] == b"\x1f" else "deflate"
    found = inflated(data, coding, _INFLATED)
    assert len(found) <= _INFLATED
    return found


def _bodies(texts: Sequence[str]) -> Sequence[bytes]:
    head = {"name": "text_input", "datatype": "BYTES", "shape": [len(texts)]}
    raw = packed(texts)
    binary = as_json(
        {
            "id": "1",
            "inputs": [{**head, "parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": "text_output", "parameters": {"binary_data": True}}],
        }
    )
    plain = {
        "inputs": [{**head, "data": list(texts)}],
        "parameters": {"max_tokens": 4, "timeout": 1000000, "priority": 1, "temperature": 0.5},
    }
    return [b"%d\n" % len(binary) + binary + raw, b"\n" + as_json(plain)]


def _streams() -> Sequence[bytes]:
    import gzip
    import zlib

    return [gzip.compress(b'{"a": 1}', mtime=0), zlib.compress(b"a" * 99)]


_WORDS = (b"null", b"true", b"NaN", b"-1", b"1e999", b"\\ud800", b"[[[[[[[[", b"2147483648", b"[]")
_FIELDS = (b'"n":2', b'"num_beams":17', b'"temperature":0', b'"top_p":0.1', b'"stop":["a"]')
_WORDS += (*_FIELDS, b'"echo":true', b'"logprobs":5', b'"stream":true', b'"do_sample":true', b"{}")

_wire = partial(Reader, errors=(Refusal, InputError))

WIRES: Mapping[str, Reader] = {
    "completion_body": _wire(
        _completion,
        lambda: [
            as_json({"model": "x", "prompt": "a", "max_tokens": 4, "temperature": 0.5, "seed": 1}),
            as_json({"model": "x", "prompt": ["a", "b"], "n": 2, "num_beams": 2, "stop": "a"}),
            as_json({"model": "x", "prompt": [[0, 5, 2]], "stream": True, "logprobs": 2}),
        ],
        words=_WORDS,
    ),
    "open_inference_body": _wire(_infer, lambda: _bodies(["a", "é"]), words=_WORDS),
    "generate_body": _wire(
        _generate,
        lambda: [
            as_json({"text_input": "a", "max_tokens": 4, "id": "1"}),
            as_json({"text_input": ["a"], "parameters": {"stop_strings": "a", "do_sample": True}}),
        ],
        words=_WORDS,
    ),
    "hugging_face_body": _wire(
        _task,
        lambda: [
            as_json({"inputs": "a", "parameters": {"generate_parameters": {"num_beams": 2}}}),
            as_json({"inputs": "a", "parameters": {"details": True, "truncation": "only_first"}}),
            as_json({"inputs": "a", "stream": True}),
        ],
        words=_WORDS,
    ),
    "triton_parameters": _wire(
        _triton,
        lambda: [
            as_json({"temperature": "1.5", "seed": 5, "stop": "zzz", "num_beams": 2, "n": 2}),
            as_json({"stream": False, "stop_strings": '["a"]', "bad_words_ids": "[[1]]"}),
        ],
        words=(*_WORDS, b"[1]", b"early_stopping", b"1e400", b"long_input"),
    ),
    "compressed_body": _wire(_compressed, _streams),
}
