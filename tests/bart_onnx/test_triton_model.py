"""The models that Triton loads, under a made-up Python backend; tests/scale_out has a real one."""

from __future__ import annotations

import json
import sys
import threading
import time
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")

from bart_onnx.errors import InputError
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.server import triton_front, triton_model
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.triton_model import options_of

NAME = "bart_tiny_en_g2p"
FINAL = 1
PARAMETERS = {
    "preset": {"string_value": NAME},
    "threads": {"string_value": "1"},
    "offline": {"string_value": "true"},
    "EXECUTION_ENV_PATH": {"string_value": "/somewhere"},
}


class Tensor:
    def __init__(self, name, array):
        self.name, self._array = name, array

    def as_numpy(self):
        return self._array


class TritonError:
    INVALID_ARG, CANCELLED, INTERNAL, UNAVAILABLE, NOT_FOUND = "INVALID", "CANCELLED", "I", "U", "N"

    def __init__(self, message, code):
        self.message, self.code = message, code


class InferenceResponse:
    def __init__(self, tensors, error=None):
        self._tensors, self._error = tensors, error

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


class Sender:
    """One request's, which keeps what is sent."""

    def __init__(self):
        self.sent, self.left = [], False
        self.final = threading.Event()

    def send(self, response, flags=0):
        assert not self.final.is_set()
        self.sent.append(response)
        if flags == FINAL:
            self.final.set()

    def is_cancelled(self):
        return self.left

    @property
    def texts(self):
        """Of each response its texts, when the last has come."""
        assert self.final.wait(30)
        assert not self.sent[-1].has_error(), self.sent[-1].error().message
        return [
            [text.decode() for text in tensor.as_numpy()]
            for response in self.sent
            for tensor in response.output_tensors()
        ]

    @property
    def error(self):
        assert self.final.wait(30)
        assert self.sent[-1].has_error()
        return self.sent[-1].error()


class Request:
    def __init__(self, *texts, sender=None, **parameters):
        raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
        self.tensor = Tensor("text_input", np.array(raw, np.object_))
        self._parameters, self.sender = parameters, sender or Sender()

    def inputs(self):
        return [self.tensor]

    def parameters(self):
        return json.dumps(self._parameters) if self._parameters else ""

    def get_response_sender(self):
        return self.sender


@pytest.fixture(scope="module")
def backend():
    """Triton's module, of which only these things are used."""
    module = ModuleType("triton_python_backend_utils")
    module.__dict__.update(
        Tensor=Tensor,
        TritonError=TritonError,
        InferenceResponse=InferenceResponse,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        get_input_tensor_by_name=lambda request, name: request.tensor,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        yield module


@pytest.fixture(scope="module")
def model(backend, tmp_path_factory):
    found = triton_model.TritonPythonModel()
    config = json.dumps({"parameters": PARAMETERS})
    found.initialize(
        {"model_config": config, "model_repository": "/none", "model_version": "1"},
    )
    yield found
    found.finalize()


@pytest.fixture(scope="module")
def lm():
    return OnnxBartSeq2SeqLM.from_preset(NAME, offline=True, threads=1)


def test_requests_of_one_execution_are_answered_apart(model, lm):
    words = ["onnx", "summarization", "banana", "zebra"]
    requests = [Request(word, num_beams=beams) for word in words for beams in (1, 3)]
    assert model.execute(requests) is None
    expected = [[[lm.generate(word, num_beams=beams)]] for word in words for beams in (1, 3)]
    assert [request.sender.texts for request in requests] == expected


def test_texts_of_one_request_and_their_sequences(model, lm):
    request = Request("onnx", "zebra", num_beams=3, n=2)
    model.execute([request])
    expected = lm.generate(["onnx", "zebra"], num_beams=3, num_return_sequences=2)
    assert request.sender.texts == [[text for each in expected for text in each]]


def test_a_number_may_come_as_a_text(model, lm):
    request = Request("summarization", temperature="1.5", seed=5, stop="zzz")
    model.execute([request])
    expected = lm.generate(
        "summarization", do_sample=True, temperature=1.5, seed=5, top_k=0, top_p=1.0
    )
    assert request.sender.texts == [[expected]]


def test_a_stream_comes_in_pieces(model, lm):
    request = Request("summarization", stream=True)
    model.execute([request])
    pieces = request.sender.texts
    assert len(pieces) > 5
    assert "".join(text for (text,) in pieces) == lm.generate("summarization", do_sample=False)


@pytest.mark.parametrize(
    ("texts", "parameters", "says"),
    [
        (["x"], {"nonsense": 1}, "There is no parameter 'nonsense'"),
        (["x"], {"temperature": "hot"}, "temperature"),
        (["x"], {"num_beams": 0}, "num_beams"),
        (["x"], {"temperature": "[" * 100_000}, "temperature"),
        (["x" * 100], {}, "102 tokens"),
        ([b"\xff"], {}, "no UTF-8"),
        ([], {}, "holds nothing"),
        (["x", "y"], {"stream": True}, "one sequence of one text"),
        (["x"], {"stream": True, "num_beams": 2, "n": 2}, "one sequence of one text"),
    ],
)
def test_what_cannot_be_answered(model, texts, parameters, says):
    request = Request(*texts, **parameters)
    model.execute([request])
    assert says in request.sender.error.message
    assert request.sender.error.code == TritonError.INVALID_ARG


def test_a_fault_tells_nothing_of_its_inside(model, monkeypatch, caplog):
    async def failing(*given):
        raise RuntimeError("secret")

    monkeypatch.setattr("bart_onnx.server.replies.Replies.begin", failing)
    request = Request("x")
    model.execute([request])
    assert request.sender.error.code == TritonError.INTERNAL
    assert "secret" not in request.sender.error.message
    assert "A request failed." in caplog.text


def test_a_client_that_leaves_is_cancelled(model, monkeypatch):
    monkeypatch.setattr(triton_model, "_LOOK", 0.001)
    sender = Sender()
    sender.left = True
    request = Request(*["summarization"] * 32, sender=sender, num_beams=16)
    model.execute([request])
    assert sender.error.code == TritonError.CANCELLED
    (scheduler,) = [each.scheduler for each in model._models.values()]
    end = time.monotonic() + 10
    while scheduler.load.running or scheduler.load.waiting:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_parameters_are_options(tmp_path, monkeypatch):
    monkeypatch.setenv("BART_ONNX_ROWS", "3")
    monkeypatch.setenv("BART_ONNX_PRESET", "another")
    parameters = {"deadline": {"string_value": "5"}, "FORCE_CPU": {"string_value": "yes"}}
    found = options_of({"parameters": parameters}, tmp_path)
    assert found == ServerOptions(preset=(str(tmp_path / "bundle"),), deadline=5.0, rows=3)
    assert options_of({}, tmp_path).preset == found.preset
    with pytest.raises(InputError, match=r"\['row'\]"):
        options_of({"parameters": {"row": {"string_value": "5"}}}, tmp_path)


class Forwarded:
    """What is asked of the other model."""

    made: ClassVar[list[Forwarded]]
    answers: ClassVar[list[InferenceResponse]]

    def __init__(self, **given):
        self.given = given
        self.made.append(self)

    def exec(self, decoupled):
        assert decoupled
        return iter(self.answers)


@pytest.fixture
def front(backend, monkeypatch):
    monkeypatch.setattr(Forwarded, "made", [], raising=False)
    monkeypatch.setattr(backend, "InferenceRequest", Forwarded, raising=False)
    found = triton_front.TritonPythonModel()
    config = {"parameters": {"model": {"string_value": "other"}}}
    found.initialize({"model_config": json.dumps(config)})
    yield found
    found.finalize()


def test_a_front_asks_the_model_that_it_is_told(front, monkeypatch):
    answer = InferenceResponse([Tensor("text_output", np.array([b"y"], np.object_))])
    # Triton may say by an empty response that there are no more.
    monkeypatch.setattr(Forwarded, "answers", [answer, InferenceResponse([])], raising=False)
    request = Request("x", temperature=0.5, seed=3)
    front.execute([request])
    assert request.sender.texts == [["y"]]
    (asked,) = Forwarded.made
    assert asked.given == {
        "model_name": "other",
        "requested_output_names": ["text_output"],
        "inputs": request.inputs(),
        "parameters": {"temperature": "0.5", "seed": 3},
    }


def test_a_front_passes_errors_on_and_leaves_nobody_waiting(front, monkeypatch):
    refused = TritonError("no", TritonError.INVALID_ARG)

    def broken(self, decoupled):
        raise RuntimeError("the model is not there")

    for answers, code, says in (
        ([InferenceResponse([], error=refused)], TritonError.INVALID_ARG, "no"),
        ([], TritonError.INTERNAL, "other gave no answer"),
    ):
        monkeypatch.setattr(Forwarded, "answers", answers, raising=False)
        request = Request("x")
        front.execute([request])
        assert (request.sender.error.code, request.sender.error.message[: len(says)]) == (
            code,
            says,
        )
    monkeypatch.setattr(Forwarded, "exec", broken)
    request = Request("x")
    front.execute([request])
    assert "not there" in request.sender.error.message
    stream = Request("x", stream=True)
    front.execute([stream])
    assert "ask other" in stream.sender.error.message
