"""Requests that Ray forwards: asked again when a replica dies; Ray itself is not needed."""

from __future__ import annotations

import asyncio
import json
import sys
from types import ModuleType

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.routing import Route

from bart_onnx.errors import EngineError
from bart_onnx.server.ray_front import Front
from bart_onnx.server.ray_repeats import repeated


class DiedError(Exception):
    """What Ray raises when an actor is gone."""


def head(status=200):
    return {"type": "http.response.start", "status": status, "headers": []}


def body(text):
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}


def replicas_that(*lives):
    """Something to ask; each time the next one answers, a None in it is its death."""
    left = list(lives)

    async def ask():
        for message in left.pop(0):
            if message is None:
                raise DiedError
            yield message

    return ask


def collected(ask, **options):
    async def run():
        given = []
        try:
            async for message in repeated(ask, DiedError, pause=0.0, **options):
                given.append(message)
        except EngineError as error:
            return given, str(error)
        return given, None

    return asyncio.run(run())


WHOLE = [head(), body("a"), body("b"), body("c")]


@pytest.mark.parametrize("death", range(len(WHOLE) + 1))
def test_an_answer_goes_on_where_its_replica_died(death):
    assert collected(replicas_that([*WHOLE[:death], None], WHOLE)) == (WHOLE, None)
    twice = replicas_that([*WHOLE[:death], None], [None], WHOLE)
    assert collected(twice) == (WHOLE, None)


def test_the_time_of_an_event_may_be_another():
    first, second = ([head(), body(f'{{"created": {at}, "text": "a"}}')] for at in (1, 22))
    ask = replicas_that([*first, None], [*second, body("b")])
    assert collected(ask) == ([*first, body("b")], None)


def test_another_answer_is_never_put_behind_what_was_sent():
    given, error = collected(replicas_that([*WHOLE[:2], None], [head(), body("x"), body("b")]))
    assert given == WHOLE[:2]
    assert "came otherwise" in error


def test_a_request_that_kills_does_not_kill_all():
    given, error = collected(replicas_that(*[[None]] * 3, WHOLE))
    assert (given, error) == ([], "3 replicas died with this request, one after the other.")


def test_what_was_accepted_is_not_refused_by_a_full_replica():
    refused = [head(429), body("full")]
    assert collected(replicas_that([None], refused, refused, WHOLE)) == (WHOLE, None)
    assert collected(replicas_that(refused, WHOLE)) == (refused, None)


def test_who_stops_listening_closes_what_it_asked():
    closed = []

    async def ask():
        try:
            for message in WHOLE:
                yield message
        finally:
            closed.append(True)

    async def run():
        messages = repeated(ask, DiedError)
        await anext(messages)
        await messages.aclose()

    asyncio.run(run())
    assert closed == [True]


class FakeHandle:
    """Ray's handle of a deployment whose replicas are all full, or answer."""

    def __init__(self, ask):
        self._ask, self.cancelled = ask, 0
        self.answer = self

    def options(self, stream):
        assert stream
        return self

    def remote(self, call):
        self.call = call
        handle = self

        class Answer:
            def __aiter__(self):
                return handle._ask(call)

            def cancel(self):
                handle.cancelled += 1

        return Answer()


class FullError(Exception):
    """What Ray raises when as many wait as may."""


def fronted(ask, monkeypatch):
    """A client of a front before a made-up handle, and that handle."""
    for name, errors in (
        ("ray", {}),
        ("ray.exceptions", {"RayActorError": DiedError}),
        ("ray.serve", {}),
        ("ray.serve.exceptions", {"BackPressureError": FullError}),
    ):
        module = ModuleType(name)
        module.__dict__.update(errors)
        monkeypatch.setitem(sys.modules, name, module)
    handle = FakeHandle(ask)
    front = Front(handle, body_bytes=10)

    async def endpoint(request):
        return await front(request)

    paths = [Route("/{path:path}", endpoint, methods=["GET", "POST"])]
    return TestClient(Starlette(routes=paths)), handle


def test_a_front_passes_on_what_it_is_asked_and_what_is_answered(monkeypatch):
    async def ask(call):
        yield [{**head(418), "headers": [(b"x-own", b"1")]}]
        yield [body(f"{call.method} {call.path} {call.query} {len(call.body)}")]

    client, handle = fronted(ask, monkeypatch)
    answer = client.post("/a/b?c=d", content=b"x" * 50)
    # No more of a body that is too large than shows it to be that.
    assert (answer.status_code, answer.headers["x-own"]) == (418, "1")
    assert answer.text.startswith("POST /a/b b'c=d' ")
    assert int(answer.text.split()[-1]) > 10
    assert len(dict(handle.call.headers)[b"x-request-id"]) == 32
    assert handle.cancelled == 1


def test_a_front_says_what_it_cannot_do(monkeypatch):
    async def full(call):
        raise FullError
        yield

    async def dying(call):
        raise DiedError
        yield

    async def dying_late(call):
        yield [head(), body(f"data: {len(given)}\n\n")]
        given.append(call)
        raise DiedError

    given = []
    answer = fronted(full, monkeypatch)[0].get("/v1/models")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    answer = fronted(dying, monkeypatch)[0].get("/v2/models")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "3 replicas died" in answer.json()["error"]
    answer = fronted(dying_late, monkeypatch)[0].get("/v1/completions")
    first, last = answer.text.strip().split("\n\n")
    assert (answer.status_code, first) == (200, "data: 0")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"
