"""Bundles and the TensorRT that tests of engines share."""

from __future__ import annotations

from functools import cache

import pytest

from bart_onnx.bundle import Bundle
from bart_onnx.runners.tensorrt_library import Library
from bart_onnx.store import shipped_path


@pytest.fixture(scope="session")
def rtx():
    """TensorRT-RTX, which builds for cards that are not here."""
    module = pytest.importorskip(
        "tensorrt_rtx", reason="tensorrt_rtx is not installed: this Python has no wheel of it"
    )
    return Library("tensorrt_rtx", module)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """The shipped preset in a precision."""
    from exporters.export import export

    @cache
    def bundle(precision):
        if precision == "fp32":
            return Bundle.open(shipped_path("bart_tiny_en_g2p"))
        target = tmp_path_factory.mktemp("bundles") / precision
        export("bart_tiny_en_g2p", target, precision=precision, show_progress=False)
        return Bundle.open(target)

    return bundle
