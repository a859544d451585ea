"""Checkpoint: what every reader returns, whatever files it read. It knows no file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.config import BartConfig


@dataclass(frozen=True)
class Checkpoint:
    """A BART on disk, in one naming.

    Attributes:
        source: where it came from, for people ("hf://org/name", a directory).
        format: "huggingface", "keras" or "bundle".
        config: the numbers, as far as the files tell.
        generation_config: the generation defaults under transformers' names; empty if none.
        weights: name (`bart_onnx.weights`) to a function that reads that weight as a float32
            array of the shape named there. Nothing is read before the call.
        weight_bytes: size of all weights in float32.
        source_dtypes: name to the dtype in the files ("float32", "float16", "bfloat16").
        tokenizer_files: name in a bundle's tokenizer directory to the file; empty if none.
        close: removes what was unpacked to read it, after which weights may be unreadable. It need
            not be called: the last reader to go does the same.
    """

    source: str
    format: str
    config: BartConfig
    generation_config: Mapping[str, Any]
    weights: Mapping[str, Callable[[], NDArray[np.float32]]]
    weight_bytes: int
    source_dtypes: Mapping[str, str]
    tokenizer_files: Mapping[str, Path] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None
