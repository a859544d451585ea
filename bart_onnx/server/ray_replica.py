"""Replica: the whole application in an actor, asked by messages. It knows no socket, nor that it is
Ray that asks.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.types import Message

from bart_onnx.errors import EngineError, InputTruncatedWarning
from bart_onnx.server.app import create_app
from bart_onnx.server.guard import OPEN_PATHS
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.served import close, opened


@dataclass(frozen=True)
class Call:
    """One HTTP request, its body read."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @property
    def scope(self) -> dict[str, Any]:
        """What ASGI knows of a request; see https://asgi.readthedocs.io."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": list(self.headers),
        }


class Replica:
    """Opened models and their application.

    Raises:
        BartOnnxError: as `OnnxBartSeq2SeqLM.from_preset`.
    """

    def __init__(self, options: ServerOptions) -> None:
        # Each answer says for itself whether its text was cut.
        warnings.simplefilter("ignore", InputTruncatedWarning)
        self._models = opened(options)
        self._app = create_app(self._models, options)

    async def answer(self, call: Call) -> AsyncIterator[list[Message]]:
        """The ASGI messages of an answer, as many at a time as there are: each time takes Ray a
        millisecond. Who stops listening has left, and is cancelled.
        """
        sent: asyncio.Queue[Message | None] = asyncio.Queue()
        body = [{"type": "http.request", "body": call.body, "more_body": False}]

        async def receive() -> Message:
            if not body:
                await asyncio.Event().wait()  # who leaves cancels, and so needs no message
            return body.pop()

        working = asyncio.ensure_future(self._app(call.scope, receive, sent.put))
        working.add_done_callback(lambda _: sent.put_nowait(None))
        try:
            several: list[Message | None] = []
            while not several or several[-1] is not None:
                several = [await sent.get()]
                while not sent.empty():
                    several.append(sent.get_nowait())
                yield [message for message in several if message is not None]
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def check_health(self) -> None:
        """What Ray asks from time to time; one that fails is replaced.

        Raises:
            EngineError: the application says that it is not alive, or not ready.
        """
        for path in OPEN_PATHS:
            async for messages in self.answer(Call("GET", path)):
                for status in (each["status"] for each in messages if "status" in each):
                    if status != 200:
                        raise EngineError(f"The replica answers {path} with {status}.")

    def __del__(self) -> None:
        # Ray has waited for what was under way before it lets a replica go.
        close(getattr(self, "_models", {}))
