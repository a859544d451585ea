"""Routes for whoever runs the server: is it alive, may it be asked, what are its figures."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from bart_onnx.server.failures import closing
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.metrics import Figures


def health_routes(lifetime: Lifetime, figures: Figures | None) -> APIRouter:
    """The routes; no `/metrics` without figures."""
    router = APIRouter()

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> Response:
        return closing().response if lifetime.closing else JSONResponse({"ready": True})

    if figures is not None:

        @router.get("/metrics")
        async def metrics() -> Response:
            return Response(figures.text(), media_type=CONTENT_TYPE_LATEST)

    return router
