"""A running loopback hub for the tests of downloads; a served model for those of the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub, hub_for_tests


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with hub_for_tests(monkeypatch, tmp_path / "home") as running:
        yield running


@pytest.fixture(scope="session")
def models() -> Iterator[Any]:
    """The shipped preset with a scheduler, by its name; the serve extra must be there."""
    from serving import OPTIONS

    from bart_onnx.server.served import close, opened

    found = opened(OPTIONS)
    yield found
    close(found)


@pytest.fixture(scope="session")
def served_lm(models: Any) -> Any:
    """What those models decode with."""
    from serving import NAME

    return models[NAME].lm


@pytest.fixture(scope="session")
def client(models: Any) -> Any:
    """What asks the application that serves them, without a socket."""
    from fastapi.testclient import TestClient
    from serving import OPTIONS

    from bart_onnx.server.app import create_app

    return TestClient(create_app(models, OPTIONS))


@pytest.fixture
def client_of(models: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What asks those models, had their preset another generation config."""
    from fastapi.testclient import TestClient
    from serving import NAME, OPTIONS

    from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
    from bart_onnx.server.app import create_app

    def made(config: dict[str, Any]) -> TestClient:
        monkeypatch.setattr(OnnxBartSeq2SeqLM, "generation_config", config)
        # Another one, since a model remembers what it was asked.
        return TestClient(create_app({NAME: dataclasses.replace(models[NAME])}, OPTIONS))

    return made


@pytest.fixture
def by_hand(served_lm: Any) -> Any:
    """A model whose engine takes no turn until it is told to, and whose queue holds two."""
    from serving import NAME

    from bart_onnx.server.limits import Limits
    from bart_onnx.server.scheduler import Scheduler
    from bart_onnx.server.served import ServedModel

    scheduler = Scheduler(served_lm.runner, Limits(waiting=2), threaded=False)
    return ServedModel(NAME, served_lm, scheduler)
