"""Figures of the server for Prometheus, in a registry of its own. It knows no route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.server.requests import Ticket
from bart_onnx.server.served import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LOADS = ("waiting", "running", "rows", "cache_tokens")


class Figures:
    """Counters, gauges and histograms of some models."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._registry = CollectorRegistry()
        by_route, by_model = ["route", "status"], ["model"]
        self._requests = Counter(
            "bart_onnx_requests", "Requests answered.", by_route, registry=self._registry
        )
        self._seconds = self._histogram("request_seconds", "How long answers took.", ["route"])
        self._first = self._histogram("first_token_seconds", "To the first token.", by_model)
        self._queue = self._histogram("queue_seconds", "How long rows waited.", by_model)
        self._read = Counter(
            "bart_onnx_prompt_tokens", "Source tokens.", by_model, registry=self._registry
        )
        self._made = Counter(
            "bart_onnx_completion_tokens", "Tokens given.", by_model, registry=self._registry
        )
        for name in _LOADS:
            gauge = Gauge(
                f"bart_onnx_{name}", f"See Load.{name}.", by_model, registry=self._registry
            )
            for model in models.values():
                gauge.labels(model.name).set_function(partial(_load, model, name))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Note an answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def note(
        self,
        model: str,
        prompt_tokens: int,
        tickets: Sequence[Ticket],
        hypotheses: Sequence[Hypothesis],
    ) -> None:
        """Note what came of a request's rows."""
        self._read.labels(model).inc(prompt_tokens)
        for ticket in tickets:
            times = ticket.statistics
            if times.started is not None:
                self._queue.labels(model).observe(times.started - times.submitted)
            if times.first_token is not None:
                self._first.labels(model).observe(times.first_token - times.submitted)
        made = sum(len(each.token_ids) - each.prompt_length for each in hypotheses)
        self._made.labels(model).inc(made)

    def text(self) -> bytes:
        """All of them, in Prometheus' form."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, told: str, labels: list[str]) -> Histogram:
        return Histogram(
            f"bart_onnx_{name}", told, labels, registry=self._registry, buckets=_SECONDS
        )


def _load(model: ServedModel, name: str) -> float:
    value: int = getattr(model.scheduler.load, name)
    return value
