"""The Open Inference Protocol and Triton's generate extension: forms, tensors, schedules."""

from __future__ import annotations

import gzip
import json
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bart_onnx.errors import InputError

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
from fastapi.testclient import TestClient
from serving import NAME, OPTIONS, TurnsInThread, events_of, leave_when_it_waits

from bart_onnx.server.app import create_app
from bart_onnx.server.binary_tensors import LENGTH_HEADER, packed, parted, unpacked
from bart_onnx.version import __version__

MODEL = f"/v2/models/{NAME}"
WORDS = ["onnx", "summarization", "banana"]


def tensor(*texts, **changes):
    named = {"name": "text_input", "datatype": "BYTES", "shape": [len(texts)]}
    return {**named, "data": list(texts), **changes}


def infer(client, *texts, **fields):
    return client.post(f"{MODEL}/infer", json={"inputs": [tensor(*texts)], **fields})


def infer_bytes(client, raw, shape, *, length=None, size=None, **fields):
    """Ask with a binary tensor, as Triton's client does."""
    named = {"name": "text_input", "datatype": "BYTES", "shape": shape}
    size = len(raw) if size is None else size
    inputs = [{**named, "parameters": {"binary_data_size": size}}]
    content = json.dumps({"inputs": inputs, **fields}).encode()
    headers = {LENGTH_HEADER: str(len(content)) if length is None else length}
    return client.post(f"{MODEL}/infer", content=content + raw, headers=headers)


def texts_of(answer):
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"]) == ("text_output", "BYTES")
    assert output["shape"] == [len(output["data"])]
    return output["data"]


# Parameters by names that clients and the library use, and what they are to `generate`.
ASKED = [
    ({}, {"do_sample": False}),
    ({"temperature": 0, "seed": 3}, {"num_beams": 1}),
    ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
    (
        {"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never"},
        {"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never"},
    ),
    (
        {"do_sample": True, "seed": 4, "top_p": 0.9, "n": 3},
        {
            "do_sample": True,
            "seed": 4,
            "top_p": 0.9,
            "top_k": 0,
            "num_beams": 1,
            "num_return_sequences": 3,
        },
    ),
    ({"max_new_tokens": 9, "min_tokens": 6}, {"max_new_tokens": 9, "min_new_tokens": 6}),
    ({"no_repeat_ngram_size": 2, "do_sample": False}, {"no_repeat_ngram_size": 2}),
]


@pytest.mark.parametrize(("parameters", "options"), ASKED)
def test_answers_are_those_of_generate(client, served_lm, parameters, options):
    expected = served_lm.generate(WORDS, speculate=False, **options)
    several = isinstance(expected[0], list)
    flat = [text for each in expected for text in each] if several else expected
    assert texts_of(infer(client, *WORDS, parameters=parameters)) == flat
    answer = client.post(f"{MODEL}/generate", json={"text_input": WORDS, **parameters})
    assert answer.json()["text_output"] == flat
    for word, each in zip(WORDS[:1], expected[:1], strict=True):
        # Draws go by the row, so a text alone is drawn as the first of several.
        body = {"text_input": word, "parameters": parameters}
        alone = client.post(f"{MODEL}/generate", json=body).json()
        assert alone["text_output"] == each
        events = events_of(client.post(f"{MODEL}/generate_stream", json=body))
        pieces = [json.loads(event)["text_output"] for event in events]
        assert (pieces == [each]) if several else ("".join(pieces) == each)


def test_what_is_told_of_server_and_model(client):
    assert client.get("/v2").json() == {
        "name": "bart_onnx",
        "version": __version__,
        "extensions": ["binary_tensor_data", "generate", "parameters", "schedule_policy"],
    }
    told = client.get(MODEL).json()
    assert told == client.get(f"{MODEL}/versions/1").json()
    assert told == {
        "name": NAME,
        "versions": ["1"],
        "platform": "bart_onnx",
        "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [-1]}],
    }
    for path in (f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        assert client.get(path).json() == {"name": NAME, "ready": True}
    for path in ("/v2/models/other", "/v2/models/other/ready", f"{MODEL}/versions/2", "/v2/models"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert set(answer.json()) == {"error"}


def test_the_form_of_an_answer(client, served_lm):
    expected = served_lm.generate("onnx", do_sample=False)
    output = {"name": "text_output", "datatype": "BYTES", "shape": [1], "data": [expected]}
    head = {"model_name": NAME, "model_version": "1"}
    assert infer(client, "onnx").json() == {**head, "outputs": [output]}
    assert infer(client, "onnx", id="an id").json() == {"id": "an id", **head, "outputs": [output]}
    body = {"text_input": "onnx", "id": "7"}
    alone = {"id": "7", **head, "text_output": expected}
    assert client.post(f"{MODEL}/generate", json=body).json() == alone
    answer = client.post(f"{MODEL}/generate_stream", json=body)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = [json.loads(event) for event in events_of(answer)]
    assert all({**each, "text_output": ""} == {**alone, "text_output": ""} for each in events)
    assert len(events) > 2


@pytest.mark.parametrize(
    ("fields", "as_bytes"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": []}, False),
        ({"outputs": None, "parameters": None, "id": None}, False),
        ({"outputs": [{"name": "text_output"}]}, False),
        ({"outputs": [{"name": "text_output", "parameters": {"binary_data": True}}]}, True),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "text_output", "parameters": {"binary_data": False}}],
            },
            False,
        ),
    ],
)
def test_binary_tensors_in_and_out(client, served_lm, fields, as_bytes):
    expected = served_lm.generate(WORDS, do_sample=False)
    answer = infer_bytes(client, packed(WORDS), [3], **fields)
    assert answer.status_code == 200, answer.text
    if not as_bytes:
        assert texts_of(answer) == expected
        assert LENGTH_HEADER not in answer.headers
        return
    assert answer.headers["Content-Type"] == "application/octet-stream"
    content, raw = parted(answer.content, answer.headers[LENGTH_HEADER])
    (output,) = json.loads(content)["outputs"]
    assert "data" not in output
    assert output["parameters"] == {"binary_data_size": len(raw)}
    assert unpacked(raw, output["shape"][0]) == expected


def test_a_large_answer_is_compressed_for_who_takes_that(client):
    body = {"inputs": [tensor(*["summarization"] * 32)], "parameters": {"binary_data_output": True}}
    plain = client.post(f"{MODEL}/infer", json=body, headers={"Accept-Encoding": "identity"})
    small = client.post(f"{MODEL}/infer", json=body, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert small.headers["Content-Encoding"] == "gzip"
    assert int(small.headers["Content-Length"]) < len(plain.content) / 3
    assert small.content == plain.content  # the test's client has inflated it
    assert small.headers[LENGTH_HEADER] == plain.headers[LENGTH_HEADER]


def test_the_length_of_the_json_is_that_of_inflated_bytes(client, served_lm):
    inputs = [tensor(shape=[1], parameters={"binary_data_size": 8})]
    del inputs[0]["data"]
    content = json.dumps({"inputs": inputs}).encode()
    headers = {LENGTH_HEADER: str(len(content)), "Content-Encoding": "gzip"}
    body = gzip.compress(content + packed(["onnx"]))
    answer = client.post(f"{MODEL}/infer", content=body, headers=headers)
    assert texts_of(answer) == [served_lm.generate("onnx", do_sample=False)]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [tensor("a"), tensor("b")]}, "inputs"),
        ({"inputs": [tensor("a", name="other")]}, "must be text_input of BYTES, found other"),
        ({"inputs": [tensor("a", datatype="FP32")]}, "of FP32"),
        ({"inputs": [tensor("a", data=[1])]}, "valid string"),
        ({"inputs": [tensor("a", data=None)]}, "data or binary_data_size"),
        ({"inputs": [tensor("a", parameters={"binary_data_size": 3})]}, "and not both"),
        ({"inputs": [tensor("a", parameters={"shared_memory_region": "x"})]}, "no such field"),
        ({"inputs": [tensor("a", shape=[2])]}, "the shape [2] and 1 texts"),
        ({"inputs": [tensor("a", shape=[1, 1])]}, "one dimension"),
        ({"inputs": [tensor("a", shape=[])]}, "one dimension"),
        ({"inputs": [tensor("a", shape=[-1])]}, "one dimension"),
        ({"inputs": [tensor("a", shape=[True])]}, "valid integer"),
        ({"inputs": [tensor()]}, "holds nothing"),
        ({"inputs": [tensor(*"a" * 33)]}, "33 prompts"),
        ({"inputs": [tensor("a")], "outputs": [{"name": "other"}]}, "The output is text_output"),
        ({"inputs": [tensor("a")], "id": 3}, "id"),
        ({"inputs": [tensor("a")], "parameters": {"sequence_id": 3}}, "sequence_id"),
        ({"inputs": [tensor("a")], "parameters": {"stream": True}}, "generate_stream"),
        ({"inputs": [tensor("a")], "parameters": {"timeout": -1}}, "timeout"),
        ({"inputs": [tensor("a")], "parameters": {"timeout": 1.5}}, "timeout"),
        ({"inputs": [tensor("a")], "parameters": {"priority": True}}, "priority"),
        (
            {"inputs": [tensor("a")], "parameters": {"max_tokens": 3, "max_new_tokens": 3}},
            "max_tokens and max_new_tokens are the same",
        ),
        (
            {"inputs": [tensor("a")], "parameters": {"do_sample": True, "temperature": 0}},
            "exclude each other",
        ),
        ({"inputs": [tensor("a")], "parameters": {"do_sample": 1}}, "true or false"),
        ({"inputs": [tensor("a")], "parameters": {"max_new_tokens": 0}}, "max_new_tokens: "),
        ({"inputs": [tensor("a")], "model": NAME}, "no such field"),
    ],
)
def test_what_cannot_be_inferred_is_said(client, fields, says):
    answer = client.post(f"{MODEL}/infer", json=fields)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("generate", {}, "text_input"),
        ("generate", {"text_input": 3}, "text_input"),
        ("generate", {"text_input": []}, "holds nothing"),
        ("generate", {"text_input": "a", "stream": True}, "contradicts"),
        ("generate", {"text_input": "a", "n": 1, "parameters": {"n": 1}}, "two places"),
        ("generate_stream", {"text_input": "a", "stream": False}, "contradicts"),
        ("generate_stream", {"text_input": ["a", "b"]}, "of one text"),
        ("generate_stream", {"text_input": "a", "data": 3}, "no parameter 'data'"),
    ],
)
def test_what_cannot_be_generated_is_said(client, path, fields, says):
    answer = client.post(f"{MODEL}/{path}", json=fields)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("raw", "shape", "options", "says"),
    [
        (packed(["a"]), [2], {}, "end before element 1 of 2"),
        (packed(["a", "b"]), [1], {}, "5 bytes follow"),
        (struct.pack("<I", 9) + b"a", [1], {}, "says that it has 9 bytes; 1 are left"),
        (struct.pack("<I", 1) + b"\xff", [1], {}, "not UTF-8"),
        (packed(["a"]), [1], {"size": 4}, "5 bytes follow the JSON; binary_data_size says 4"),
        (packed(["a"]), [1], {"length": "0"}, "The body"),
        (packed(["a"]), [1], {"length": "99999"}, LENGTH_HEADER),
        (packed(["a"]), [1], {"length": "-1"}, LENGTH_HEADER),
        (packed(["a"]), [1], {"length": "1e2"}, LENGTH_HEADER),
        (b"", [0], {}, "holds nothing"),
        (b"", [1 << 40], {}, "prompts; 32 are taken"),
    ],
)
def test_tensors_that_are_not_what_they_say(client, raw, shape, options, says):
    answer = infer_bytes(client, raw, shape, **options)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]


def test_a_priority_of_1_goes_before_who_names_none(by_hand):
    app = create_app({NAME: by_hand}, OPTIONS)
    orders = []
    for priority in ({}, {"priority": 0}, {"priority": 1}, {"priority": 2}, {"priority": 5}):
        body = {"text_input": "x", **priority}
        leave_when_it_waits(app, f"{MODEL}/generate", body, by_hand.scheduler)
        (ticket,) = by_hand.scheduler._waiting.clear()
        orders.append(ticket.request.priority)
    assert orders == [0, 0, -1, 0, 3]


@pytest.mark.parametrize(("timeout", "given"), [(0, 60), (5_000_000, 5), (120_000_000, 60)])
def test_a_timeout_bounds_the_deadline(by_hand, timeout, given):
    app = create_app({NAME: by_hand}, OPTIONS)
    body = {"text_input": "x", "timeout": timeout}
    leave_when_it_waits(app, f"{MODEL}/generate", body, by_hand.scheduler)
    (ticket,) = by_hand.scheduler._waiting.clear()
    assert ticket.request.deadline == given


def test_a_timeout_that_passes_is_504(served_lm):
    with TurnsInThread(served_lm, seconds=0.5) as model:
        client = TestClient(create_app({NAME: model}, OPTIONS))
        answer = client.post(f"{MODEL}/generate", json={"text_input": "x", "timeout": 400_000})
    assert answer.status_code == 504
    assert "within 0.4 s" in answer.json()["error"]


@given(st.lists(st.text(), max_size=20))
def test_texts_survive_a_tensor(texts):
    assert unpacked(packed(texts), len(texts)) == texts


@settings(max_examples=300)
@given(st.binary(max_size=64), st.integers(0, 8))
@example(struct.pack("<II", 0, 0), 2)
def test_any_bytes_are_texts_or_an_error(raw, count):
    try:
        texts = unpacked(raw, count)
    except InputError:
        return
    assert len(texts) == count
    assert packed(texts) == raw


@given(st.binary(max_size=32), st.one_of(st.none(), st.text(max_size=4), st.integers().map(str)))
def test_any_length_parts_a_body_or_is_an_error(body, length):
    try:
        content, raw = parted(body, length)
    except InputError:
        return
    assert content + raw == body
    assert len(content) == (len(body) if length is None else int(length))
