"""Asking: what requests want of a model's decoding, worked out once for all that want the same."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

from bart_onnx.configured import ConfiguredCall
from bart_onnx.text_generator import TextGenerator

# Ways of asking that are remembered; what a seed makes a way of its own pushes out old ones.
_KNOWN = 64


class Asking:
    """Calls of one model; any thread may ask."""

    def __init__(self, lm: TextGenerator) -> None:
        self._lm = lm
        self._known = lru_cache(_KNOWN)(self._made)

    def call(self, options: Mapping[str, Hashable], **rest: Hashable) -> ConfiguredCall:
        """A call by the generation config, with random numbers of its own.

        Args:
            options, rest: as `TextGenerator.by_config` takes them.

        Raises:
            InputError, InputTypeError: as that.
        """
        return self._known(tuple(options.items()), tuple(rest.items())).again()

    def _made(
        self, options: tuple[tuple[str, Any], ...], rest: tuple[tuple[str, Any], ...]
    ) -> ConfiguredCall:
        asked = self._lm.by_config(options=dict(options), **dict(rest))
        return ConfiguredCall(self._lm.runner, self._lm.preprocessor, asked)
