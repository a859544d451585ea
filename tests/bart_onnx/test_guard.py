"""What every request passes: keys to the byte, odd targets and methods, and what a log tells."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
from fastapi.testclient import TestClient
from serving import NAME, OPTIONS

from bart_onnx.errors import EngineError
from bart_onnx.server.app import create_app
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.logs import JsonLines
from bart_onnx.server.scheduler import Scheduler


def scope_of(method, path, headers=()):
    return {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http"},
        **{"method": method, "path": path, "raw_path": path.encode(), "query_string": b""},
        **{"headers": list(headers), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)},
    }


def sent(app, method, path, headers=()):
    """Status, headers and body of what an application answers, without a client's own checks."""
    told = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        told.append(message)

    asyncio.run(app(scope_of(method, path, headers), receive, send))
    body = b"".join(message.get("body", b"") for message in told[1:])
    return told[0]["status"], dict(told[0]["headers"]), body


@pytest.mark.parametrize("key", ["first", "voilà", "Å", "a b", "钥匙"])
def test_a_key_fits_whatever_its_bytes(models, key):
    app = create_app(models, replace(OPTIONS, api_key=("other", key)))
    for given, status in ((key, 200), (f" {key}\t", 200), (key[:-1], 401), (key + "x", 401)):
        header = (b"authorization", f"Bearer {given}".encode())
        assert sent(app, "GET", "/v1/models", [header])[0] == status


@pytest.mark.parametrize("key", ["", " ", " k", "k\n", "k\tk", "\x00", "k\u0085k"])
def test_a_key_that_nobody_could_send_is_refused(key):
    with pytest.raises(ValueError, match="nobody could send it"):
        replace(OPTIONS, api_key=(key,))


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize("target", ["*", "http://h/x", "", "x"])
def test_odd_targets_are_refused_in_form(models, method, target):
    closing = Lifetime()
    closing.closing = True
    cases = (
        (create_app(models, replace(OPTIONS, api_key=("k",))), {401}),
        (create_app(models, OPTIONS, closing), {503}),
        (create_app(models, OPTIONS), {404, 405}),
    )
    for app, statuses in cases:
        status, headers, body = sent(app, method, target)
        assert status in statuses
        assert headers[b"content-type"] == b"application/json"
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.fixture
def logged(caplog):
    """What has been logged, as lines of the server's form."""
    with caplog.at_level(logging.INFO, "bart_onnx"):
        yield lambda: [json.loads(JsonLines().format(record)) for record in caplog.records]


def test_a_method_of_a_clients_own_is_not_logged(models, logged):
    assert sent(create_app(models, OPTIONS), "MY-PRIVATE-TEXT", "/v1/models")[0] == 405
    (line,) = logged()
    assert (line["method"], line["status"]) == ("other", 405)
    assert "PRIVATE" not in json.dumps(line)


def test_a_fault_is_logged_with_its_request_and_its_cause(models, monkeypatch, logged):
    def failing(*given, **named):
        try:
            raise ZeroDivisionError("secret")
        except ZeroDivisionError as error:
            raise EngineError("secret") from error

    monkeypatch.setattr(Scheduler, "submit", failing)
    answer = TestClient(create_app(models, OPTIONS)).post(
        "/v1/completions", json={"model": NAME, "prompt": "x"}, headers={"X-Request-Id": "mine"}
    )
    assert answer.status_code == 500
    fault = next(line for line in logged() if line["level"] == "error")
    assert (fault["request_id"], fault["error"]) == ("mine", "EngineError")
    assert fault["cause"]["error"] == "ZeroDivisionError"
    assert any("failing" in frame for frame in fault["cause"]["where"])
    assert "secret" not in json.dumps(fault)


def test_ids_that_are_given_here_differ(models):
    client = TestClient(create_app(models, OPTIONS))
    ids = {client.get("/health/live").headers["X-Request-Id"] for _ in range(50)}
    assert len(ids) == 50


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/ready"])
def test_probes_may_ask_for_the_head(models, path):
    status, _, body = sent(create_app(models, OPTIONS), "HEAD", path)
    assert status == 200
    assert json.loads(body)["ready"]


def test_no_more_requests_are_here_than_could_wait(models, logged):
    """Whoever comes to a crowd is told so at once; health is told all the same."""
    app = create_app(models, replace(OPTIONS, rows=2, waiting=3))
    statuses = []

    async def crowd():
        held = asyncio.Event()

        async def ask(path, body):
            told = []

            coming = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive():
                await held.wait()
                return coming.pop() if coming else await asyncio.Future()

            async def send(message):
                told.append(message)

            await app(scope_of("POST" if body else "GET", path), receive, send)
            statuses.append((path, told[0]["status"], dict(told[0]["headers"]).get(b"retry-after")))

        body = json.dumps({"model": NAME, "prompt": "x"}).encode()
        first = [asyncio.ensure_future(ask("/v1/completions", body)) for _ in range(5)]
        await asyncio.sleep(0)
        for path in ("/v1/completions", "/v2", f"/models/{NAME}", "/health/ready"):
            await ask(path, b"")
        held.set()
        await asyncio.gather(*first)

    asyncio.run(crowd())
    assert [told[1:] for told in statuses[:4]] == [(429, b"1")] * 3 + [(200, None)]
    assert [told[1:] for told in statuses[4:]] == [(200, None)] * 5
