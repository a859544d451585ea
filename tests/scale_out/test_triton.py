"""A model repository that `export --layout triton` wrote, under a real Triton."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import numpy as np
import pytest
from scale_out.triton_server import TritonServer

from bart_onnx import OnnxBartSeq2SeqLM, export

pytestmark = pytest.mark.scale_out

NAME = "bart_tiny_en_g2p"
WORDS = ["onnx", "summarization", "banana", "a", "relationship", "through", "knight", "zebra"]
ASKED = [
    ({}, {"do_sample": False}),
    ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
    (
        {"temperature": 1.5, "seed": 5},
        {"do_sample": True, "temperature": 1.5, "seed": 5, "top_k": 0, "top_p": 1.0},
    ),
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    directory = tmp_path_factory.mktemp("triton") / "models"
    layout = ["--layout", "triton", "--output", str(directory)]
    assert export.main(["--preset", NAME, "--offline", "--quiet", *layout]) == 0
    config = directory / f"{NAME}_stream" / "config.pbtxt"
    one_thread = 'parameters { key: "threads" value { string_value: "1" } }\n'
    config.write_text(config.read_text() + one_thread)
    return directory


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    started = TritonServer(repository, tmp_path_factory.mktemp("work"))
    yield started
    started.end()


@pytest.fixture(scope="module")
def lm():
    return OnnxBartSeq2SeqLM.from_preset(NAME, offline=True, threads=1)


def infer(client, texts, **parameters):
    from tritonclient.http import InferInput

    given = InferInput("text_input", [len(texts)], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
    found = client.infer(NAME, [given], parameters=parameters).as_numpy("text_output")
    return [text.decode() for text in found]


def post(server, path, **fields):
    """Status and body."""
    request = urllib.request.Request(f"http://{server.address}{path}", json.dumps(fields).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_24_concurrent_calls_are_answered_as_offline(server, lm, capsys):
    from tritonclient.http import InferenceServerClient

    asked = [(word, *each) for word in WORDS for each in ASKED]

    def ask(each):
        with InferenceServerClient(server.address) as client:
            return infer(client, [each[0]], **each[1])

    with ThreadPoolExecutor(24) as pool:
        began = time.monotonic()
        answers = list(pool.map(ask, asked))
        seconds = time.monotonic() - began
    expected = [lm.generate([word], speculate=False, **options) for word, _, options in asked]
    assert answers == expected
    with capsys.disabled():
        print(f"\nTriton ready in {server.seconds_to_ready:.1f} s; 24 concurrent: {seconds:.2f} s")


def test_many_texts_of_one_call(server, lm):
    from tritonclient.http import InferenceServerClient

    with InferenceServerClient(server.address) as client:
        assert infer(client, WORDS) == lm.generate(WORDS, do_sample=False)
        several = infer(client, WORDS[:3], num_beams=3, n=2)
    expected = lm.generate(WORDS[:3], num_beams=3, num_return_sequences=2)
    assert several == [text for each in expected for text in each]


@pytest.mark.parametrize("model", [NAME, f"{NAME}_stream"])
def test_generate(server, lm, model):
    status, body = post(server, f"/v2/models/{model}/generate", text_input="onnx", num_beams=2)
    assert status == 200, body
    assert json.loads(body)["text_output"] == lm.generate("onnx", num_beams=2)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stream_grows(server, lm, beams):
    path = f"/v2/models/{NAME}_stream/generate_stream"
    status, body = post(server, path, text_input="summarization", stream=True, num_beams=beams)
    assert status == 200, body
    events = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line]
    assert len(events) > 2
    text = "".join(event["text_output"] for event in events)
    assert text == lm.generate("summarization", num_beams=beams)


def test_what_cannot_be_answered_is_said(server):
    for model, fields, says in (
        (NAME, {"nonsense": 1}, "There is no parameter 'nonsense'"),
        (NAME, {"num_beams": 0}, "num_beams"),
        (NAME, {"text_input": "x" * 80}, "tokens"),
        (NAME, {"stream": True}, f"ask {NAME}_stream"),
        (f"{NAME}_stream", {"stream": True, "num_beams": 2, "n": 2}, "one sequence"),
        (f"{NAME}_stream", {"temperature": "hot"}, "temperature"),
    ):
        status, body = post(server, f"/v2/models/{model}/generate", **{"text_input": "x", **fields})
        assert (status, says in body) == (400, True), body
    status, body = post(server, f"/v2/models/{NAME}_stream/infer", inputs=[])
    assert status >= 400
    assert post(server, f"/v2/models/{NAME}/generate", text_input="x")[0] == 200


def stream_many(server, answers):
    """A gRPC client that has asked for much."""
    from tritonclient.grpc import InferenceServerClient, InferInput

    client = InferenceServerClient(server.grpc_address)
    client.start_stream(lambda result, error: answers.append(error))
    texts = [f"{word}{number}" for word in WORDS for number in range(4)]
    given = InferInput("text_input", [len(texts)], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
    asked = {"num_beams": 8, "min_tokens": 50, "max_tokens": 60}
    for _ in range(3):
        client.async_stream_infer(f"{NAME}_stream", [given], parameters=asked)
    return client


def test_a_client_that_leaves_by_grpc_frees_its_rows(server, lm, capsys):
    answers: list[Exception | None] = []
    began = time.monotonic()
    client = stream_many(server, answers)
    client.stop_stream()  # waits for all
    whole = time.monotonic() - began
    client.close()
    assert answers == [None] * 3
    answers.clear()
    client = stream_many(server, answers)
    time.sleep(whole / 10)
    client.stop_stream(cancel_requests=True)
    client.close()
    began = time.monotonic()
    # It came last, and would wait for all that is before it.
    status, body = post(server, f"/v2/models/{NAME}/generate", text_input="onnx", num_beams=16)
    seconds = time.monotonic() - began
    assert (status, json.loads(body)["text_output"]) == (200, lm.generate("onnx", num_beams=16))
    assert None not in answers
    assert seconds < whole / 2
    with capsys.disabled():
        print(f"\nTriton: a client left {whole:.1f} s of work; the next answer in {seconds:.2f} s")


def test_sigterm_under_load_loses_nothing(repository, tmp_path, lm):
    server = TritonServer(repository, tmp_path)
    expected = lm.generate("summarization", num_beams=8)

    body = json.dumps({"text_input": "summarization", "num_beams": 8})
    connections = [HTTPConnection(server.address, timeout=60) for _ in range(32)]
    for each in connections:
        each.connect()
        each.request("POST", f"/v2/models/{NAME}/generate", body)

    def answer_of(connection):
        with connection.getresponse() as answer:
            return answer.status, json.loads(answer.read()).get("text_output")

    with ThreadPoolExecutor(33) as pool:
        answers = [pool.submit(answer_of, each) for each in connections]
        while not any(each.done() for each in answers):
            time.sleep(0.001)
        pending = sum(not each.done() for each in answers)
        ending = pool.submit(server.end)
        found = [each.result() for each in answers]
        for each in connections:
            each.close()
    assert pending
    assert found == [(200, expected)] * 32
    assert ending.result() == 0
