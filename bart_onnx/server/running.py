"""Running: the application in uvicorn, until a signal ends it with nothing lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
        """Take SIGTERM and SIGINT while the server runs."""
        loop = asyncio.get_running_loop()
        taken = (signal.SIGTERM, signal.SIGINT)
        for each in taken:
            loop.add_signal_handler(each, self.asked_to_end)
        try:
            yield
        finally:
            for each in taken:
                loop.remove_signal_handler(each)

    def asked_to_end(self) -> None:
        """Begin to drain; at the second time, end."""
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """Refuse what is new, and listen on so that it is told; finish what was accepted."""
        self._lifetime.closing = True
        _log.info("closing")
        await asyncio.sleep(self._options.drain_delay)
        if not await self._lifetime.idle(self._options.drain_timeout):
            _log.warning("%d requests are cancelled", self._lifetime.accepted)
        await asyncio.to_thread(close, self._models)
        self.should_exit = True
