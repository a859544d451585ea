"""A locust file: requests that come at random times, whatever becomes of those before them.

    locust --headless --users 1 -f scripts/serving_load.py --host URL --bodies FILE --answers FILE
           [--rate N] [--seconds N]

Arrivals are a Poisson process, so that a slow server meets no fewer of them; with a rate of 0 one
client asks again when it was answered. A request's time begins when it was due, not when the client
got round to it. It writes what became of each: [due, seconds, status, Retry-After], and the seconds
of CPU that it took itself.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, events, task

PATH = "/v1/completions"
# Seconds for what is under way when the last request has come.
PATIENCE = 60


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    parser.add_argument("--bodies", type=Path, help="requests, one JSON object a line")
    parser.add_argument("--answers", type=Path, help="where to write what became of them")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0)


class Arrivals(FastHttpUser):
    """All clients: each request has a greenlet, and a connection when none is free."""

    concurrency = 100_000
    connection_timeout = network_timeout = PATIENCE
    default_headers = {"Content-Type": "application/json"}  # noqa: RUF012 (locust's own form)

    @task
    def load(self) -> None:
        asked = self.environment.parsed_options
        bodies = itertools.cycle(asked.bodies.read_text(encoding="utf-8").splitlines())
        self.answers: list[tuple[float, float, int, str | None]] = []
        self.began, used = time.perf_counter(), time.process_time()
        if asked.rate:
            self._at_random(bodies, asked.rate, asked.seconds)
        else:
            while time.perf_counter() - self.began < asked.seconds:
                self._ask(next(bodies), time.perf_counter())
        used = time.process_time() - used
        asked.answers.write_text(json.dumps({"answers": self.answers, "client_cpu": used}))
        self.environment.runner.quit()

    def _at_random(self, bodies: Any, rate: float, seconds: float) -> None:
        arrivals, due = random.Random(0), self.began
        asking = []
        while True:
            due += arrivals.expovariate(rate)
            if due - self.began > seconds:
                break
            gevent.sleep(max(0.0, due - time.perf_counter()))
            asking.append(gevent.spawn(self._ask, next(bodies), due))
        gevent.joinall(asking, timeout=PATIENCE)

    def _ask(self, body: str, due: float) -> None:
        answer = self.client.post(PATH, data=body)
        seconds = time.perf_counter() - due
        retry = (answer.headers or {}).get("Retry-After")
        self.answers.append((due - self.began, seconds, answer.status_code, retry))
