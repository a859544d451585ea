"""Health: does the server live, and may it be asked; its routes, and that of its figures.

It looks at the schedulers from outside, and asks nothing of their engines: an engine that hangs
must not take its answer with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from bart_onnx.server.failures import closing
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.metrics import Figures
from bart_onnx.server.served import ServedModel

# Some probes ask for the head alone.
_PROBED_BY = ["GET", "HEAD"]
# So many failures of an engine in a row are its own and not a request's.
_MOST_FAULTS = 3


class Health:
    """Of one server.

    Args:
        stall: seconds that a turn of an engine may take before the server is held for dead, and
            that an engine which failed is left alone.
    """

    def __init__(self, models: Mapping[str, ServedModel], lifetime: Lifetime, stall: float) -> None:
        self._models, self._lifetime, self._stall = models, lifetime, stall

    @property
    def live(self) -> bool:
        """Whether the engines take turns where there is something to do."""
        return all(map(self._turns, self._models))

    @property
    def ready(self) -> bool:
        """Whether requests are taken, and likely to be answered."""
        return all(map(self.serves, self._models))

    def serves(self, name: str) -> bool:
        """Whether that is so of one model: its engine runs, and did not fail at the last things.

        One that did is tried again when it has rested: who is not asked can not do well.
        """
        scheduler = self._models[name].scheduler
        well = scheduler.faults < _MOST_FAULTS or scheduler.quiet > self._stall
        return not (scheduler.closed or self._lifetime.closing) and well and self._turns(name)

    def answer(self, well: bool) -> Response:
        """Of all routes of health, with a word for each question: some clients look for one of
        them in both answers.
        """
        headers = dict(closing().headers) if self._lifetime.closing and not well else None
        return JSONResponse({"live": self.live, "ready": self.ready}, 200 if well else 503, headers)

    def _turns(self, name: str) -> bool:
        scheduler = self._models[name].scheduler
        return not scheduler.busy or scheduler.quiet <= self._stall


def health_routes(health: Health, figures: Figures | None) -> APIRouter:
    """The routes; no `/metrics` without figures."""
    router = APIRouter()

    for prefix in ("/health", "/v2/health"):

        @router.api_route(f"{prefix}/live", methods=_PROBED_BY)
        async def live() -> Response:
            return health.answer(health.live)

        @router.api_route(f"{prefix}/ready", methods=_PROBED_BY)
        async def ready() -> Response:
            return health.answer(health.ready)

    if figures is not None:

        @router.get("/metrics")
        async def metrics() -> Response:
            return Response(figures.text(), media_type=CONTENT_TYPE_LATEST)

    return router
