"""A bundle of ours as a checkpoint: its weights are read back through its manifest."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.errors import BundleError
from bart_onnx.weights import weight_shapes
from exporters.checkpoints.checkpoint import Checkpoint


def read(directory: Path) -> Checkpoint:
    """The checkpoint that a bundle was made from, float32.

    Raises:
        BundleError: the bundle is damaged, or of another format version.
    """
    bundle = Bundle.open(directory)
    _check_shapes(bundle)
    weights = {name: partial(_read, bundle, name) for name in bundle.weight_names()}
    tokenizer = bundle.tokenizer_directory
    return Checkpoint(
        source=str(bundle.manifest["source"].get("uri", directory.name)),
        format="bundle",
        config=bundle.config,
        generation_config=bundle.generation_config,
        weights=weights,
        weight_bytes=sum(bundle.weight(name).nbytes for name in weights),
        source_dtypes=dict(bundle.manifest["source"].get("dtypes", {})),
        tokenizer_files={path.name: path for path in tokenizer.iterdir()} if tokenizer else {},
    )


def _check_shapes(bundle: Bundle) -> None:
    for name, shape in weight_shapes(bundle.config).items():
        found = bundle.weight(name).shape
        if found != shape:
            raise BundleError(
                f"{bundle.path}: weight {name!r} has shape {found}, but its config says {shape}. "
                "Export the checkpoint again."
            )


def _read(bundle: Bundle, name: str) -> NDArray[np.float32]:
    return np.array(bundle.weight(name), order="C")
