"""Where tests find data, and models that more than one room of tests asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.answers import Model
from bart_onnx.bundle import Bundle
from bart_onnx.store import shipped_path

_SHIPPED = "bart_tiny_en_g2p"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data beside the project that is never part of it; tests that need it skip without it."""
    directory = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("../shared/data, beside the project's root, is not there")
    return directory


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where bundles and engines are kept during the test; there is nothing yet."""
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def shipped_copy(tmp_path: Path) -> Path:
    """A copy of the bundle that ships, which the test may spoil."""
    return shutil.copytree(shipped_path(_SHIPPED), tmp_path / "bundle")


@pytest.fixture(scope="session")
def shipped_model() -> Model:
    """What that bundle is asked through."""
    lm = OnnxBartSeq2SeqLM.from_preset(_SHIPPED, offline=True)
    return Model(lm.runner, lm.preprocessor)


@pytest.fixture(scope="session")
def golden() -> Path:
    """What KerasHub 0.32 answered with a tiny model; `MANIFEST.json` names the versions."""
    return Path(__file__).resolve().parent / "data" / "keras_golden"


@pytest.fixture(scope="session")
def tiny_bundle(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny golden checkpoint, exported."""
    from exporters.export import export

    target = tmp_path_factory.mktemp("bundles") / "tiny"
    return export(str(golden / "hf_checkpoint"), target, show_progress=False)


@pytest.fixture(scope="session")
def variant_bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """The bundle of a config named in `tiny_models.VARIANTS`, in a precision, each made once."""
    from tiny_models import VARIANTS, export_checkpoint, random_checkpoint

    from exporters import trace

    traced = cache(trace.master_graph)

    @cache
    def bundle(variant: str, precision: str = "fp32") -> Bundle:
        directory = tmp_path_factory.mktemp("variants") / variant
        with pytest.MonkeyPatch.context() as patch:
            # Tracing takes most of an export's time, and is the same for every precision.
            patch.setattr(trace, "master_graph", lambda *graph: traced(*graph).clone())
            return export_checkpoint(random_checkpoint(VARIANTS[variant]), directory, precision)

    return bundle
