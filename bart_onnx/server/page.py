"""The page at `/`: static files of this package, which ask `/v1/completions` as any client does.

They hold no data, so they take no key. They load nothing from elsewhere, and the browser is told to
refuse it (Content Security Policy Level 3, https://www.w3.org/TR/CSP3/).
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = files("bart_onnx.server").joinpath("page")

# Where each file is, and as what it is sent.
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/origins.js": ("origins.js", "text/javascript; charset=utf-8"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}

#: What needs no key.
PAGE_PATHS = tuple(_FILES)

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
_HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time, and sent only when it is another version's.
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """The routes of the page's files."""
    return [
        Route(path, _PageFile(_FOLDER.joinpath(name).read_bytes(), media_type).answer)
        for path, (name, media_type) in _FILES.items()
    ]


class _PageFile:
    """One file, read once."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content, self._media_type = content, media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        # Weak, since it may be compressed on its way.
        self._headers = {**_HEADERS, "ETag": f"W/{self._tag}"}

    async def answer(self, request: Request) -> Response:
        """The file, or 304 where the client has it (RFC 9110, section 13.1.2)."""
        known = request.headers.get("If-None-Match", "").split(",")
        if {self._tag, "*"} & {each.strip().removeprefix("W/") for each in known}:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers, media_type=self._media_type)
