"""What is given to Ray Serve, and what becomes of requests there; Ray itself is not needed."""

from __future__ import annotations

import asyncio
import gc
import json
import sys

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")

from bart_onnx.errors import EngineError, InputError, MissingPackageError
from bart_onnx.ray_serve import Scale, app, application, front_settings, replica_settings
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.ray_front import Front
from bart_onnx.server.ray_repeats import repeated
from bart_onnx.server.ray_replica import Call, Replica

NAME = "bart_tiny_en_g2p"
OPTIONS = ServerOptions(preset=(NAME,), offline=True, threads=1, rows=8, waiting=20)


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


@pytest.fixture(scope="module")
def replica():
    found = Replica(OPTIONS)
    yield found
    del found
    gc.collect()


@pytest.fixture(scope="module")
def lm():
    return OnnxBartSeq2SeqLM.from_preset(NAME, offline=True, threads=1)


def answer_of(replica, path, content=b"", method="POST"):
    async def run():
        call = Call(method, path, body=content)
        return [message async for several in replica.answer(call) for message in several]

    start, *bodies = asyncio.run(run())
    return start["status"], b"".join(message.get("body", b"") for message in bodies)


def asked(prompt, **fields):
    return json.dumps({"model": NAME, "prompt": prompt, **fields}).encode()


def test_a_replica_answers_as_the_server_does(replica, lm):
    status, content = answer_of(replica, "/v1/completions", asked(["onnx", "zebra"]))
    assert status == 200
    texts = [choice["text"] for choice in json.loads(content)["choices"]]
    assert texts == lm.generate(["onnx", "zebra"], do_sample=False)
    status, content = answer_of(replica, "/v1/completions", asked("onnx", stream=True))
    assert (status, content.endswith(b"data: [DONE]\n\n")) == (200, True)
    assert answer_of(replica, "/nowhere")[0] == 404
    asyncio.run(replica.check_health())


def test_a_caller_that_leaves_is_cancelled(replica):
    async def run():
        call = Call("POST", "/v1/completions", body=asked(["onnx"] * 8, stream=True))
        answer = replica.answer(call)
        assert (await anext(answer))[0]["status"] == 200
        await answer.aclose()
        for _ in range(200):
            metrics = [several async for several in replica.answer(Call("GET", "/metrics"))]
            found = str(metrics)
            if f'bart_onnx_running{{model="{NAME}"}} 0.0' in found:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(found)

    asyncio.run(run())


@pytest.mark.parametrize("ill", ["/health/live", "/health/ready"])
def test_a_replica_that_says_so_is_not_well(ill):
    async def application(scope, receive, send):
        await send(head(503 if scope["path"] == ill else 200))
        await send(body(""))

    found = Replica.__new__(Replica)
    found._app = application
    with pytest.raises(EngineError, match=f"{ill} with 503"):
        asyncio.run(found.check_health())


def test_settings_take_what_a_scheduler_takes():
    fixed = replica_settings(OPTIONS, Scale(replicas=2, cpus=0.5))
    assert (fixed["num_replicas"], fixed["max_ongoing_requests"]) == (2, 28)
    assert fixed["ray_actor_options"] == {"num_cpus": 0.5, "num_gpus": 0.0}
    assert fixed["graceful_shutdown_timeout_s"] == OPTIONS.drain_timeout
    growing = replica_settings(OPTIONS, Scale(replicas=1, most_replicas=4))
    assert "num_replicas" not in growing
    assert growing["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 8,
    }
    front = front_settings(OPTIONS, Scale(replicas=1, most_replicas=4, fronts=2))
    assert front["num_replicas"] == 2
    assert front["max_ongoing_requests"] >= 4 * (28 + 20)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"replicas": 0}, "replicas must be at least 1"),
        ({"fronts": 0}, "fronts must be at least 1"),
        ({"cpus": -1.0}, "cpus must be at least 0"),
        ({"gpus": float("nan")}, "gpus must be at least 0"),
        ({"replicas": 3, "most_replicas": 2}, "less than replicas, 3"),
    ],
)
def test_scales_that_cannot_be(given, says):
    with pytest.raises(InputError, match=says):
        Scale(**given)


@pytest.fixture
def built(monkeypatch):
    """Options and scales of the applications that are built."""
    found = []
    monkeypatch.setattr(
        "bart_onnx.ray_serve.application", lambda options, scale: found.append((options, scale))
    )
    return found


def test_arguments_are_read_as_flags_are(built, monkeypatch):
    monkeypatch.setenv("BART_ONNX_ROWS", "3")
    app({"preset": NAME, "replicas": "2", "cpus": "0.5", "metrics": "false", "offline": True})
    app({"preset": ["a", "b"], "deadline": 5, "most_replicas": 3, "threads": None})
    (first, scale), (second, growing) = built
    assert first == ServerOptions(preset=(NAME,), rows=3, metrics=False, offline=True)
    assert scale == Scale(replicas=2, cpus=0.5)
    assert second == ServerOptions(preset=("a", "b"), rows=3, deadline=5.0)
    assert growing == Scale(most_replicas=3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preset": NAME, "port": 8000}, "port is said to Ray"),
        ({"preset": NAME, "replica": 2}, "unrecognized arguments"),
        ({"preset": NAME, "replicas": "many"}, "invalid int value"),
        ({"preset": NAME, "rows": "x"}, "--rows must be int"),
        ({}, "nothing to serve"),
    ],
)
def test_arguments_that_cannot_be(built, given, says):
    with pytest.raises(InputError, match=says):
        app(given)
    assert not built


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"bart_onnx\[cpu,ray\]"):
        application(OPTIONS)


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
    from types import ModuleType

    from fastapi.testclient import TestClient
    from starlette.applications import Starlette
    from starlette.routing import Route

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
