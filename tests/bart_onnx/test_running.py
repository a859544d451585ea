"""The server's signals, whatever its loop is busy with."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")
import uvicorn
from serving import OPTIONS

from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.running import DrainingServer


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
