"""Where tests find data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from bart_onnx.bundle import Bundle


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data beside the project that is never part of it; tests that need it skip without it."""
    directory = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("../shared/data, beside the project's root, is not there")
    return directory


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
