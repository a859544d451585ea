"""What all wires have in common: limits, keys, ends and errors, each in its own form."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from dataclasses import replace

import pytest

from bart_onnx.errors import DecodingError, EngineError

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
from fastapi.testclient import TestClient
from serving import (
    NAME,
    OPTIONS,
    SCOPE,
    WIRES,
    TurnsInThread,
    events_of,
    leave_when_it_waits,
    waiting_request,
    ways_of,
)

from bart_onnx.server import answering
from bart_onnx.server.answering import Answers
from bart_onnx.server.app import create_app
from bart_onnx.server.failures import failure_of, form_of
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.scheduler import Scheduler

every_wire = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.path)
WAYS = ways_of(WIRES)
every_way = pytest.mark.parametrize(
    ("wire", "stream"), WAYS, ids=[f"{wire.path}{' stream' * stream}" for wire, stream in WAYS]
)


def refused(wire, answer, status, says=""):
    """Whether an answer is an error with OpenAI's status, as this wire says it."""
    assert answer.status_code == wire.statuses.get(status, status), answer.text
    assert wire.is_error(answer.json(), says), answer.text
    return True


@every_wire
def test_the_same_limits(models, wire):
    client = TestClient(create_app(models, replace(OPTIONS, characters=10)))
    assert client.post(wire.path, json=wire.body("x" * 10)).status_code == 200
    assert refused(wire, client.post(wire.path, json=wire.body("x" * 11)), 413, "11 characters")
    body = json.dumps(wire.body()).encode()
    fits = body + b" " * (OPTIONS.body_bytes - len(body))
    assert client.post(wire.path, content=fits).status_code == 200
    assert refused(wire, client.post(wire.path, content=fits + b" "), 413, "100000 bytes")


@every_wire
@pytest.mark.parametrize(
    ("coding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_bodies_are_read_up_to_the_same_byte(client, wire, coding, packed):
    headers = {"Content-Encoding": coding}
    body = json.dumps(wire.body()).encode()
    fits = body + b" " * (OPTIONS.body_bytes - len(body))
    assert len(packed(fits)) < 1000
    assert client.post(wire.path, content=packed(fits), headers=headers).status_code == 200
    answer = client.post(wire.path, content=packed(fits + b" "), headers=headers)
    assert refused(wire, answer, 413, "100000 bytes")
    for damaged in (packed(body)[:-1], packed(body) + b"x", b"", body):
        answer = client.post(wire.path, content=damaged, headers=headers)
        assert refused(wire, answer, 400, coding)


def half_a_body(app, wire, meanwhile=None):
    """Begin to send a body and wait; the status, headers and content of the answer."""
    half = json.dumps(wire.body()).encode()[:9]
    came, sent = [{"type": "http.request", "body": half, "more_body": True}], []

    async def receive():
        if not came:
            if meanwhile is not None:
                meanwhile()
            await asyncio.Event().wait()
        return came.pop()

    async def send(message):
        sent.append(message)

    scope = {**SCOPE, "path": wire.path, "raw_path": wire.path.encode()}
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


@every_wire
def test_a_body_that_does_not_come_is_408(models, wire):
    app = create_app(models, replace(OPTIONS, deadline=0.05))
    status, headers, content = half_a_body(app, wire)
    assert (status, headers["connection"]) == (408, "close")
    assert wire.is_error(content, "not come whole within 0.05 s")
    told = content["error"]["type"] if wire.path.startswith("/v1") else content.get("error_type")
    kinds = {"/v1": "timeout_error", "/v2": None, "/mo": "incomplete_generation"}
    assert told == kinds[wire.path[:3]]


@every_wire
def test_a_body_that_has_not_come_when_the_server_ends_is_503(models, wire):
    def ends():
        accepted.append(lifetime.accepted)
        lifetime.end_reading()

    lifetime, accepted = Lifetime(), []
    app = create_app(models, OPTIONS, lifetime)
    for _ in range(2):  # the second begins when reading is over
        status, headers, content = half_a_body(app, wire, ends)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "5", "close")
        assert wire.is_error(content, "closing")
    assert accepted[0] == lifetime.accepted == 0


@every_wire
def test_another_compression_is_refused(client, wire):
    answer = client.post(wire.path, content=b"x", headers={"Content-Encoding": "br"})
    assert refused(wire, answer, 415, "gzip or deflate")


@every_wire
def test_every_wire_asks_for_a_key(models, wire):
    client = TestClient(create_app(models, replace(OPTIONS, api_key=("key",))))
    assert refused(wire, client.post(wire.path, json=wire.body()), 401, "Send a key")
    headers = {"Authorization": "Bearer key"}
    assert client.post(wire.path, json=wire.body(), headers=headers).status_code == 200


@every_wire
def test_a_wrong_method(client, wire):
    answer = client.get(wire.path)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST"
    assert wire.is_error(answer.json(), "does not take GET")


@every_wire
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"{}",
        b"\xff",
        b"[" * 90_000,
        b'{"temperature": NaN}',
        b'{"parameters": {"seed": ' + b"9" * 5000 + b"}}",
    ],
)
def test_bodies_that_are_no_request(client, wire, body):
    assert refused(wire, client.post(wire.path, content=body), 400)


@every_wire
@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater"),
        ({"max_tokens": True}, "valid integer"),
        ({"max_tokens": 2.0}, "valid integer"),
        ({"max_tokens": 64}, "max_tokens is 64"),
        ({"seed": 1 << 64}, "less than"),
        ({"temperature": "1"}, "valid number"),
        ({"top_p": 0.5}, "add a temperature"),
        ({"num_beams": 9}, "8 at most"),
        ({"stop": ["a"] * 5}, "at most 4"),
        ({"nope": 1}, "nope"),
    ],
)
def test_parameters_mean_the_same_everywhere(client, wire, parameters, says):
    assert refused(wire, client.post(wire.path, json=wire.body(**parameters)), 400, says)


@every_wire
def test_a_text_that_is_too_long(client, wire):
    assert refused(wire, client.post(wire.path, json=wire.body("x" * 80)), 400, "tokens")


@every_wire
def test_a_full_queue_is_429(by_hand, wire):
    for _ in range(2):
        by_hand.scheduler.submit(waiting_request(by_hand))
    answer = TestClient(create_app({NAME: by_hand}, OPTIONS)).post(wire.path, json=wire.body())
    assert refused(wire, answer, 429, "Ask again")
    assert answer.headers["Retry-After"] == "1"


@every_wire
def test_a_server_that_closes_is_503(models, by_hand, wire):
    lifetime = Lifetime()
    client = TestClient(create_app(models, OPTIONS, lifetime))
    lifetime.closing = True
    by_hand.scheduler.close()
    ended = TestClient(create_app({NAME: by_hand}, OPTIONS))
    for answer in (each.post(wire.path, json=wire.body()) for each in (client, ended)):
        assert refused(wire, answer, 503, "closing")
        assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("5", "close")


@every_way
def test_a_late_request_is_504(served_lm, wire, stream):
    with TurnsInThread(served_lm, seconds=100.0) as model:
        client = TestClient(create_app({NAME: model}, OPTIONS))
        answer = client.post(wire.path, json=wire.body(stream=stream))
    assert refused(wire, answer, 504, "within 60 s")


@every_way
def test_what_cannot_be_decoded_is_said(client_of, served_lm, wire, stream):
    every_token = list(range(served_lm.config.vocabulary_size))
    config = {**served_lm.generation_config, "suppress_tokens": every_token}
    config.pop("forced_bos_token_id")
    answer = client_of(config).post(wire.path, json=wire.body(stream=stream))
    assert refused(wire, answer, 422, "could not be decoded")


@every_way
def test_an_engine_that_hangs_is_504_too(by_hand, monkeypatch, wire, stream):
    monkeypatch.setattr(answering, "_GRACE", 0.0)
    client = TestClient(create_app({NAME: by_hand}, replace(OPTIONS, deadline=0.05)))
    answer = client.post(wire.path, json=wire.body(stream=stream))
    assert refused(wire, answer, 504, "has not answered")


@every_wire
@pytest.mark.parametrize("error", [EngineError("secret"), RuntimeError("secret")])
def test_a_fault_of_the_server_tells_nothing_of_its_inside(models, monkeypatch, wire, error):
    def failing(*given, **named):
        raise error

    monkeypatch.setattr(Scheduler, "submit", failing)
    answer = TestClient(create_app(models, OPTIONS)).post(wire.path, json=wire.body())
    assert refused(wire, answer, 500, "its log says why")
    assert "secret" not in answer.text


@pytest.mark.parametrize("wire", [wire for wire, stream in WAYS if stream], ids=lambda w: w.path)
@pytest.mark.parametrize("error", [DecodingError("Over.", {}, None), EngineError("secret")])
def test_a_stream_that_fails_after_it_began_counts_as_failed(models, monkeypatch, wire, error):
    updates = Answers.updates

    async def failing(self):
        given = 0
        async for told in updates(self):
            yield told
            given += 1
            if given == 3:
                raise error

    monkeypatch.setattr(Answers, "updates", failing)
    client = TestClient(create_app(models, OPTIONS))
    *pieces, last = events_of(client.post(wire.path, json=wire.body("onnx", stream=True)))
    status = failure_of(error).status
    status = wire.statuses.get(status, status)
    assert pieces
    assert wire.is_error(json.loads(last))
    figures = client.get("/metrics").text
    assert f'requests_total{{route="{wire.path}",status="{status}"}} 1.0' in figures
    assert f'requests_total{{route="{wire.path}",status="200"}}' not in figures


@every_way
def test_a_client_that_leaves_is_cancelled(by_hand, wire, stream):
    lifetime = Lifetime()
    app = create_app({NAME: by_hand}, OPTIONS, lifetime)
    sent = leave_when_it_waits(app, wire.path, wire.body(stream=stream), by_hand.scheduler)
    assert lifetime.accepted == 0
    assert by_hand.scheduler.load.waiting == 1
    by_hand.scheduler.turn()
    assert by_hand.scheduler.load.waiting == by_hand.scheduler.load.running == 0
    assert not any(message.get("body") for message in sent)


@every_wire
def test_figures_name_the_route(models, wire):
    client = TestClient(create_app(models, OPTIONS))
    client.post(wire.path, json=wire.body())
    found = client.get("/metrics").text
    assert f'\nbart_onnx_requests_total{{route="{wire.path}",status="200"}} 1.0\n' in found
    assert f'\nbart_onnx_prompt_tokens_total{{model="{NAME}"}} 3.0\n' in found


@every_way
def test_nothing_is_drawn_unasked_whatever_the_preset_says(client_of, served_lm, wire, stream):
    config = {**served_lm.generation_config, "do_sample": True, "temperature": 5.0}
    expected = served_lm.generate("summarization", do_sample=False)
    answer = client_of(config).post(wire.path, json=wire.body("summarization", stream))
    assert wire.text(answer, stream) == expected


def test_forms_go_by_whole_parts_of_a_path():
    assert form_of("/v2") is form_of("/v2/models/x")
    assert form_of("/v22") is form_of("/") is form_of("/v1/completions")
    assert form_of("/models") is form_of("/models/x/summarization") is not form_of("/v2")
