"""The application: models, routes and guard put together; any ASGI server runs it."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute

from bart_onnx.errors import BartOnnxError
from bart_onnx.server.completions import completion_paths, completion_routes
from bart_onnx.server.failures import answer_failure, answer_nobody
from bart_onnx.server.guard import HEALTH_PATHS, Guard
from bart_onnx.server.health import Health, health_routes
from bart_onnx.server.hugging_face import hugging_face_paths, hugging_face_routes
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.metrics import Figures
from bart_onnx.server.open_inference import open_inference_paths, open_inference_routes
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.page import PAGE_PATHS, page_routes
from bart_onnx.server.replies import Replies
from bart_onnx.server.served import ServedModel
from bart_onnx.version import __version__

# How hard zlib tries, of 9, at answers for who takes gzip.
_QUICKLY = 1

_PATHS = (completion_paths, open_inference_paths, hugging_face_paths)


def create_app(
    models: Mapping[str, ServedModel], options: ServerOptions, lifetime: Lifetime | None = None
) -> FastAPI:
    """An application over opened models; who opened them closes them.

    Args:
        lifetime: what is closing; None for an application that nobody closes.
    """
    lifetime = lifetime or Lifetime()
    figures, health = Figures(models), Health(models, lifetime, options.stall)
    replies = Replies(models, options, figures, lifetime)
    app = FastAPI(
        title="bart_onnx",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        routes=_routes(replies, health, options, figures),
    )
    app.add_exception_handler(BartOnnxError, answer_failure)
    app.add_exception_handler(HTTPException, answer_failure)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    # What is added last is passed first.
    app.add_middleware(GZipMiddleware, compresslevel=_QUICKLY)
    app.add_middleware(
        Guard,
        keys=options.api_key,
        paths=[
            *HEALTH_PATHS,
            *PAGE_PATHS,
            *(path for paths in _PATHS for path in paths(models)),
        ],
        # Each has a row at least, so that more would be refused by a full queue later.
        most=len(models) * (options.rows + options.waiting),
        lifetime=lifetime,
        figures=figures,
    )
    return app


def _routes(
    replies: Replies, health: Health, options: ServerOptions, figures: Figures
) -> list[BaseRoute]:
    """All, in the order in which they are tried: the busiest first.

    They are starlette's own: what FastAPI's do besides, arguments and a schema made of signatures,
    has no use where bodies are read by `read_body`, and takes a third of a millisecond.
    """
    return [
        *completion_routes(replies),
        *health_routes(health, figures if options.metrics else None),
        *open_inference_routes(replies, health),
        *hugging_face_routes(replies),
        *(page_routes() if options.page else ()),
    ]
