"""The application: models, routes and guard put together; any ASGI server runs it."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from bart_onnx.errors import BartOnnxError
from bart_onnx.server.completions import PATHS, completion_routes
from bart_onnx.server.failures import answer_failure, answer_nobody
from bart_onnx.server.guard import HEALTH_PATHS, Guard
from bart_onnx.server.health import health_routes
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.metrics import Figures
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.served import ServedModel
from bart_onnx.version import __version__

#: OpenAI's prefix, and the one that KServe puts before it.
PREFIXES = ("/v1", "/openai/v1")


def create_app(
    models: Mapping[str, ServedModel], options: ServerOptions, lifetime: Lifetime | None = None
) -> FastAPI:
    """An application over opened models; who opened them closes them.

    Args:
        lifetime: what is closing; None for an application that nobody closes.
    """
    lifetime = lifetime or Lifetime()
    figures = Figures(models)
    app = FastAPI(
        title="bart_onnx",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.include_router(health_routes(lifetime, figures if options.metrics else None))
    for prefix in PREFIXES:
        app.include_router(completion_routes(models, options, figures), prefix=prefix)
    app.add_exception_handler(BartOnnxError, answer_failure)
    app.add_exception_handler(HTTPException, answer_failure)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    paths = [*PATHS, *(f"/models/{name}" for name in models)]
    app.add_middleware(
        Guard,
        keys=options.api_key,
        paths=[*HEALTH_PATHS, *(f"{prefix}{path}" for prefix in PREFIXES for path in paths)],
        lifetime=lifetime,
        figures=figures,
    )
    return app
