"""The server's signals, whatever its loop is busy with."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")
import uvicorn
from server_process import running
from serving import OPTIONS

from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.running import DrainingServer, run


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_by_a_loop_that_has_much_to_hear(sent, monkeypatch):
    heard = asyncio.Event()
    monkeypatch.setattr(DrainingServer, "asked_to_end", lambda server: heard.set())
    before = signal.getsignal(sent)

    async def run():
        server = DrainingServer(uvicorn.Config("none"), {}, OPTIONS, Lifetime())
        with server.capture_signals():
            # As an engine does while the loop is at something else.
            for _ in range(100_000):
                asyncio.get_running_loop().call_soon_threadsafe(int)
            os.kill(os.getpid(), sent)
            await asyncio.wait_for(heard.wait(), 10)

    asyncio.run(run())
    assert signal.getsignal(sent) is before


def test_what_reads_heads_has_a_limit_for_them_whatever_is_installed(monkeypatch):
    kept = []
    monkeypatch.setattr(DrainingServer, "run", lambda server: kept.append(server.config))
    monkeypatch.setattr("sys.setswitchinterval", lambda seconds: None)
    run({}, OPTIONS)
    kept[0].load()
    assert kept[0].http_protocol_class.__module__ == "uvicorn.protocols.http.h11_impl"
    assert kept[0].h11_max_incomplete_event_size is None  # h11's own, 64 KiB


def test_a_head_that_does_not_end_is_sent_away():
    with running() as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            lines = [b"X-%d: " % number + b"a" * 10_000 for number in range(1_000)]
            head = b"\r\n".join([b"POST /v1/completions HTTP/1.1", b"Host: x", *lines])
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                client.sendall(head)
        assert server.ask("onnx").status_code == 200
