"""Guard: what every request passes before any route: its id, who asks, whether the server closes.

It is plain ASGI: starlette's `BaseHTTPMiddleware` would hide from routes that a client has left.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import re
import time
import uuid
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bart_onnx.server.failures import CLIENT_GONE, FAILED, Failure, closing, crowded, failure_of
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.metrics import Figures
from bart_onnx.server.page import PAGE_PATHS

_log = logging.getLogger(__name__)

# A client may call a method what it likes.
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_ID_HEADER = "X-Request-Id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Ids of this process. A random one for each request would ask the system, and wait for the thread
# that computes to hand the interpreter back.
_OWN, _numbers = uuid.uuid4().hex[:16], itertools.count(1)
#: For whoever runs the server; probes have no key.
OPEN_PATHS = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
# Of these nobody asks a key: the page holds no data, and sends one with what it asks.
_KEYLESS = (*OPEN_PATHS, *PAGE_PATHS)
#: What is answered while the server closes.
HEALTH_PATHS = (*OPEN_PATHS, "/metrics")


class Guard:
    """The outermost part of the application.

    Args:
        keys: who has one may ask; with none, all may.
        paths: what figures and logs name; all else is "unmatched" there.
        most: requests at a time; who comes when there are as many is refused, before more is done
            for it than reading its head.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str],
        paths: Collection[str],
        most: int,
        lifetime: Lifetime,
        figures: Figures,
    ) -> None:
        self._app, self._lifetime, self._figures = app, lifetime, figures
        self._keys, self._paths = [key.encode() for key in keys], set(paths)
        self._most, self._under_way = most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        self._lifetime.begin()
        self._under_way += 1
        try:
            await self._served(scope, receive, exchange)
        finally:
            self._under_way -= 1
            self._lifetime.end()
            self._noted(exchange)

    def _refused(self, scope: Scope) -> Failure | None:
        if self._lifetime.closing and scope["path"] not in HEALTH_PATHS:
            return closing()
        if self._under_way > self._most and scope["path"] not in HEALTH_PATHS:
            return crowded()
        if not self._keys or scope["path"] in _KEYLESS:
            return None
        given = Headers(scope=scope).get("Authorization", "")
        kind, _, key = given.partition(" ")
        # Headers are read as latin-1, whatever their bytes mean; so they are bytes before they are
        # stripped of what HTTP calls white space.
        found = key.encode("latin-1").strip(b" \t")
        # All are compared, whichever fits, so that the time tells nothing.
        fits = [hmac.compare_digest(found, own) for own in self._keys]
        if kind.lower() == "bearer" and any(fits):
            return None
        headers = {"WWW-Authenticate": "Bearer"}
        message = "Send a key of this server: Authorization: Bearer KEY."
        return Failure(401, message, code="invalid_api_key", headers=headers)

    async def _served(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        try:
            refused = self._refused(scope)
            app = self._app if refused is None else refused.response(scope["path"])
            await app(scope, receive, exchange.send)
        except Exception as error:  # a client is told that it failed, and the log how
            _log.exception("A request failed.", extra={"request_id": exchange.request_id})
            if exchange.status is None:
                response = failure_of(error).response(scope["path"])
                await response(scope, receive, exchange.send)

    def _noted(self, exchange: _Exchange) -> None:
        seconds = time.monotonic() - exchange.began
        # What a client wrote is no name of a figure.
        route = exchange.scope["path"] if exchange.scope["path"] in self._paths else "unmatched"
        # A stream that failed has told so as an event, after a status of 200.
        failed: int | None = exchange.scope["state"].get(FAILED)
        status, method = failed or exchange.status or CLIENT_GONE, exchange.scope["method"]
        self._figures.answered(route, status, seconds)
        told = {
            "request_id": exchange.request_id,
            "method": method if method in _METHODS else "other",
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
        }
        _log.info("answered", extra=told)


class _Exchange:
    """One request and what has been sent for it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.status: int | None = None
        self.began = time.monotonic()
        given = Headers(scope=scope).get(_ID_HEADER, "")
        self.request_id = given if _ID.fullmatch(given) else f"{_OWN}-{next(_numbers)}"
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        """Send it; the first part tells the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[_ID_HEADER] = self.request_id
        await self._send(message)
