"""A float32 bundle that answers what a half-precision one does, for judging it without a GPU."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from bart_onnx.bundle import CONFIG, GENERATION_CONFIG, Bundle
from bart_onnx.graphs import FP32, graph_specs
from bart_onnx.publish import seal
from exporters.rewrite.rounded import round_in_float32
from exporters.weight_file import WEIGHT_FILE


@contextmanager
def rounded_bundle(bundle: Bundle) -> Iterator[Bundle]:
    """The bundle of `rewrite.rounded`'s graphs, for as long as the context lasts.

    It lies in a hidden directory within the other, whose weights it refers to.
    """
    with tempfile.TemporaryDirectory(prefix=".rounded-", dir=bundle.path) as name:
        directory = Path(name)
        _link(bundle.path / WEIGHT_FILE, directory / WEIGHT_FILE)
        for file in (CONFIG, GENERATION_CONFIG):
            shutil.copyfile(bundle.path / file, directory / file)
        for spec in graph_specs(bundle.config):
            model = ir.load(bundle.graph(spec.name))
            round_in_float32(model)
            ir.save(model, directory / bundle.graph(spec.name).name)
        known = {WEIGHT_FILE: bundle.manifest["files"][WEIGHT_FILE]["sha256"]}
        seal(directory, {**bundle.manifest, "precision": FP32}, known)
        yield Bundle.open(directory, verify=False)


def _link(file: Path, place: Path) -> None:
    """A second name for a file; where the file system has none, a copy."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
