"""What tests of engines ask of a bundle and of TensorRT."""

from __future__ import annotations

from types import SimpleNamespace

from bart_onnx.graphs import graph_specs
from bart_onnx.runners.tensorrt_library import Messages, logger


def spec_of(bundle, name):
    return next(each for each in graph_specs(bundle.config, bundle.precision) if each.name == name)


def builder_of(library):
    said = Messages()
    log = logger(library, said)
    # The builder borrows its logger.
    return SimpleNamespace(builder=library.module.Builder(log), said=said, log=log)
