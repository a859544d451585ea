"""Health: does the server live, and may it be asked; its routes, and that of its figures.

It looks at the schedulers from outside, and asks nothing of their engines: an engine that hangs
must not take its answer with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bart_onnx.server.failures import closing
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.metrics import Figures
from bart_onnx.server.served import ServedModel

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


def health_routes(health: Health, figures: Figures | None) -> list[Route]:
    """The routes; no `/metrics` without figures."""

    async def live(request: Request) -> Response:
        return health.answer(health.live)

    async def ready(request: Request) -> Response:
        return health.answer(health.ready)

    # Some probes ask for the head alone, which is answered where GET is.
    probes = [("live", live), ("ready", ready)]
    prefixes = ("/health", "/v2/health")
    routes = [Route(f"{each}/{name}", answer) for each in prefixes for name, answer in probes]
    if figures is None:
        return routes

    async def metrics(request: Request) -> Response:
        return Response(figures.text(), media_type=CONTENT_TYPE_LATEST)

    return [*routes, Route("/metrics", metrics)]
