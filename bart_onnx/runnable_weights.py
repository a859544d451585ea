"""Weights, and the ONNX bundle that runs them: assembled and opened when it is first asked for.

It knows no call and no preset.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.builder import assemble_bundle
from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.devices import CPU, Device
from bart_onnx.errors import InputError
from bart_onnx.runners.opening import BundleRunner, open_runner
from bart_onnx.weights import weight_shapes

Weights = Mapping[str, Callable[[], NDArray[np.float32]]]


class RunnableWeights:
    """The weights of one BART as they are now, and what runs them.

    Args:
        config: the model's numbers.
        weights: each by its name in `bart_onnx.weights`: a function that reads it, float32.
        device: where to run; see `BartBackbone.from_preset`.
        threads: within an operator; None takes what affinity and cgroup allow.
    """

    def __init__(
        self,
        config: BartConfig,
        weights: Weights,
        device: str | Device = CPU,
        threads: int | None = None,
    ) -> None:
        self.config = config
        self._weights = weights
        self._device, self._threads = device, threads
        self._bundle: Bundle | None = None
        # Of the weights before: graphs say where weights lie and not what they are.
        self._graphs: Bundle | None = None
        self._release: Callable[[], Any] | None = None
        self._runner: BundleRunner | None = None

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, device: str | Device = CPU, threads: int | None = None
    ) -> RunnableWeights:
        """Those of an opened bundle; they are read from it only when asked for."""
        weights = {name: _reader(bundle, name) for name in bundle.weight_names()}
        found = cls(bundle.config, weights, device, threads)
        found._bundle = bundle
        return found

    @property
    def weights(self) -> Weights:
        """Every weight by its name: a function that reads it, float32."""
        return self._weights

    @weights.setter
    def weights(self, weights: Weights) -> None:
        """Take other weights; what runs next runs with them."""
        missing = sorted(set(weight_shapes(self.config)) - set(weights))
        if missing:
            raise InputError(f"The weights lack {', '.join(missing[:5])} ({len(missing)} in all).")
        self._weights = weights
        self._graphs, self._bundle, self._runner = self.last_bundle, None, None

    @property
    def bundle_so_far(self) -> Bundle | None:
        """The bundle that holds these weights, if there is one yet."""
        return self._bundle

    @property
    def last_bundle(self) -> Bundle | None:
        """The bundle of these weights, or that of those before; None where none ever was."""
        return self._bundle or self._graphs

    @property
    def bundle(self) -> Bundle:
        """The bundle that holds these weights, assembled now if there is none yet."""
        if self._bundle is None:
            home = tempfile.mkdtemp(prefix="bart_onnx-")
            release, self._release = self._release, weakref.finalize(self, rmtree, home, True)
            directory = Path(home) / "bundle"
            self._bundle = assemble_bundle(self.config, self._weights, directory, self._graphs)
            # The bundle whose graphs were copied may go now.
            self._graphs = None
            if release is not None:
                release()
        return self._bundle

    @property
    def runner(self) -> BundleRunner:
        """The bundle's graphs, opened at their first use."""
        if self._runner is None:
            self._runner = open_runner(self.bundle, self._device, self._threads)
        return self._runner


def _reader(bundle: Bundle, name: str) -> Callable[[], NDArray[np.float32]]:
    return lambda: np.array(bundle.weight(name), order="C")
