"""Bodies of requests: read whole, inflated where they are compressed, and never longer than asked.

It knows no wire.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from starlette.requests import Request

from bart_onnx.server.failures import Refusal

# What zlib calls each content coding (RFC 9110, 8.4.1): "deflate" is what zlib wraps.
_WINDOWS: Mapping[str, int] = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


async def body_of(request: Request, most: int) -> bytes:
    """A request's body, inflated.

    Raises:
        Refusal: 413, it is larger than `most` bytes, as it comes or inflated; 415, it is compressed
            in another way than gzip or deflate; 400, it is not what it says.
        ClientDisconnect: the client left before its end.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large(most)
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding == "identity":
        return bytes(body)
    if coding not in _WINDOWS:
        told = f"The Content-Encoding {coding!r:.40} is not read; send {' or '.join(_WINDOWS)}."
        raise Refusal(415, told)
    return await asyncio.to_thread(inflated, bytes(body), coding, most)


def inflated(body: bytes, coding: str, most: int) -> bytes:
    """What some compressed bytes hold; no more than `most` and one bytes of it are ever made.

    Raises:
        Refusal: 413, it is more than that; 400, they are not what they say.
    """
    inflating = zlib.decompressobj(_WINDOWS[coding])
    try:
        found = inflating.decompress(body, most + 1)
    except zlib.error:
        raise Refusal(400, f"The body is not {coding}, as its Content-Encoding says.") from None
    if len(found) > most:
        raise _too_large(most)
    if not inflating.eof or inflating.unused_data:
        raise Refusal(400, f"The body is not one whole stream of {coding}.")
    return found


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"The body is larger than {most} bytes.", code="body_too_large")
