"""What Ray Serve is given, and a replica there; Ray itself is not needed."""

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
from bart_onnx.server.ray_replica import Call, Replica

NAME = "bart_tiny_en_g2p"
OPTIONS = ServerOptions(preset=(NAME,), offline=True, threads=1, rows=8, waiting=20)


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
        status = 503 if scope["path"] == ill else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

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
