"""Health: a server is live while its engines take turns, and ready while they do not fail."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from bart_onnx.errors import EngineError

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
from fastapi.testclient import TestClient
from serving import NAME, OPTIONS, waiting_request

from bart_onnx.server.app import create_app
from bart_onnx.server.lane import Lane
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.scheduler import Scheduler
from bart_onnx.server.served import ServedModel

STALL = 60.0


class Probed:
    """A server with an engine and a clock by hand, and what its probes are told."""

    def __init__(self, lm):
        self.now = 0.0
        self.scheduler = Scheduler(lm.runner, clock=lambda: self.now, threaded=False)
        self.model = ServedModel(NAME, lm, self.scheduler)
        self._client = TestClient(create_app({NAME: self.model}, replace(OPTIONS, stall=STALL)))

    def submit(self):
        return self.scheduler.submit(waiting_request(self.model))

    def told(self):
        """Whether it is live, and ready; all routes say the same."""
        bodies = []
        for prefix in ("/health", "/v2/health"):
            for word in ("live", "ready"):
                answer = self._client.get(f"{prefix}/{word}")
                assert answer.status_code == (200 if answer.json()[word] else 503)
                bodies.append(answer.json())
        assert all(body == bodies[0] for body in bodies)
        model = self._client.get(f"/v2/models/{NAME}/ready")
        assert model.json() == {"name": NAME, "ready": bodies[0]["ready"]}
        assert model.status_code == (200 if bodies[0]["ready"] else 503)
        return bodies[0]["live"], bodies[0]["ready"]


@pytest.fixture
def probed(served_lm):
    return Probed(served_lm)


def test_an_engine_with_something_to_do_that_takes_no_turn_is_not_alive(probed):
    probed.submit()
    probed.now = STALL
    assert probed.told() == (True, True)
    probed.now = STALL + 1
    assert probed.told() == (False, False)
    # Nor do requests that come in make it look alive.
    probed.submit()
    assert probed.told() == (False, False)
    probed.scheduler.turn()
    assert probed.told() == (True, True)
    # Rows under way are something to do as well.
    assert probed.scheduler.load.running == 2
    probed.now += STALL + 1
    assert probed.told() == (False, False)


def test_an_engine_without_anything_to_do_is_alive(probed):
    probed.now = 10 * STALL
    assert probed.told() == (True, True)
    ticket = probed.submit()
    assert probed.told() == (True, True)
    while probed.scheduler.turn():
        pass
    assert ticket.done
    probed.now = 20 * STALL
    assert probed.told() == (True, True)


def test_three_failures_in_a_row_are_the_engines_own(probed, monkeypatch):
    def failing(lane):
        raise RuntimeError("no memory")

    step = Lane.step
    for number in range(1, 4):
        monkeypatch.setattr(Lane, "step", failing)
        ticket = probed.submit()
        probed.scheduler.turn()
        with pytest.raises(EngineError):
            ticket.result(0)
        assert probed.told() == (True, number < 3)
    # It is tried again when it was left alone for a while, and fails at once.
    probed.now = STALL + 1
    assert probed.told() == (True, True)
    probed.submit()
    probed.scheduler.turn()
    assert probed.told() == (True, False)
    monkeypatch.setattr(Lane, "step", step)
    probed.submit()
    probed.scheduler.turn()
    assert probed.told() == (True, True)


def test_a_source_that_cannot_be_read_counts_too(probed, monkeypatch):
    def failing(*given):
        raise RuntimeError("no memory")

    monkeypatch.setattr(type(probed.model.lm.runner), "encode", failing)
    for _ in range(3):
        assert probed.told() == (True, True)
        probed.submit()
        probed.scheduler.turn()
    assert probed.told() == (True, False)


def test_a_turn_that_fails_counts_too(probed, monkeypatch):
    def failing(*given):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(probed.scheduler._engine, "turn", failing)
    for _ in range(3):
        probed.scheduler.turn()
    assert probed.told() == (True, False)


def test_a_model_whose_scheduler_has_ended_is_not_ready(probed):
    probed.scheduler.close()
    assert probed.told() == (True, False)


def test_a_server_that_closes_is_alive_and_not_ready(models):
    lifetime = Lifetime()
    client = TestClient(create_app(models, OPTIONS, lifetime))
    lifetime.closing = True
    for prefix in ("/health", "/v2/health"):
        live, ready = client.get(f"{prefix}/live"), client.get(f"{prefix}/ready")
        assert (live.status_code, ready.status_code) == (200, 503)
        assert live.json() == ready.json() == {"live": True, "ready": False}
        assert ready.headers["Retry-After"] == "5"
    refused = client.get(f"/v2/models/{NAME}/ready")
    assert (refused.status_code, set(refused.json())) == (503, {"error"})


def test_probes_are_answered_while_an_engine_holds_its_locks(probed):
    held, asked = threading.Event(), threading.Event()

    def hold():
        with probed.scheduler._waiting._changed:
            held.set()
            asked.wait(20)

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait(20)
    try:
        assert probed.told() == (True, True)
    finally:
        asked.set()
        holding.join()


def test_a_model_is_ready_by_itself(models, served_lm):
    probed = Probed(served_lm)
    probed.scheduler.close()
    both = {NAME: models[NAME], "ended": replace(probed.model, name="ended")}
    client = TestClient(create_app(both, OPTIONS))
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/models/ended/ready").json() == {"name": "ended", "ready": False}
    assert client.get(f"/v2/models/{NAME}/ready").json() == {"name": NAME, "ready": True}
