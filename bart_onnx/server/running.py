"""Running: the application in uvicorn, until a signal ends it with nothing lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import uvicorn

from bart_onnx.server.app import create_app
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.served import ServedModel, close

_log = logging.getLogger(__name__)

# Seconds after which the engine's thread is asked to let the event loop go on, which gives way at
# each call of the system, a dozen for a request; Python's own are ten times as many.
_SWITCH = 0.0005

# Seconds for answers to be written after their requests were cancelled.
_LAST_WORDS = 5


def run(models: Mapping[str, ServedModel], options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT; what was accepted is finished, and a second signal ends it.

    Raises:
        SystemExit: the address cannot be listened at.
    """
    sys.setswitchinterval(_SWITCH)
    lifetime = Lifetime()
    config = uvicorn.Config(
        create_app(models, options, lifetime),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Nobody here asks whence a request came.
        proxy_headers=False,
        # httptools, where it is installed, would be uvicorn's choice: 0.05 ms faster, and it takes
        # heads of any size. h11 takes 64 KiB.
        http="h11",
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=_LAST_WORDS,
    )
    try:
        DrainingServer(config, models, options, lifetime).run()
    finally:
        close(models)


class DrainingServer(uvicorn.Server):
    """uvicorn, but for signals: by itself it refuses connections at once, and answers 500 to those
    under way when its time is over.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        models: Mapping[str, ServedModel],
        options: ServerOptions,
        lifetime: Lifetime,
    ) -> None:
        super().__init__(config)
        self._models, self._options, self._lifetime = models, options, lifetime
        self._draining: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT while the server runs.

        asyncio's own handlers hear of a signal by a byte in the pipe that wakes the loop. When the
        engine has told more than a busy loop could read, the pipe is full, and the signal lost.
        """
        loop = asyncio.get_running_loop()

        def asked(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.asked_to_end)

        before = {each: signal.signal(each, asked) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def asked_to_end(self) -> None:
        """Begin to drain; at the second time, end."""
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """Refuse what is new, and listen on so that it is told; finish what was accepted, and wait
        for no body longer than that takes.
        """
        self._lifetime.closing = True
        _log.info("closing")
        await asyncio.sleep(self._options.drain_delay)
        if not await self._lifetime.idle(self._options.drain_timeout):
            _log.warning("%d requests are cancelled", self._lifetime.accepted)
        self._lifetime.end_reading()
        await asyncio.to_thread(close, self._models)
        self.should_exit = True
