"""Which TensorRT is installed, and which cards it builds engines for. It knows no BART.

`tensorrt` is taken where it is installed, `tensorrt_rtx` else: their Python APIs are alike.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from bart_onnx.errors import MissingPackageError

INSTALL = 'pip install "bart_onnx[tensorrt]"'
TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
_FLAVOURS = (TENSORRT, TENSORRT_RTX)
_NO_CARDS = ("NONE", "CURRENT")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        flavour: the name of its module.
        module: the module.
    """

    flavour: str
    module: Any

    @property
    def version(self) -> str:
        """Its version, on which engines depend."""
        return str(self.module.__version__)

    @property
    def name(self) -> str:
        """Flavour and version, for people."""
        return f"{self.flavour} {self.version}"

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Cards that it builds for without having one, as in ("sm80", "sm89")."""
        known = getattr(self.module, "ComputeCapability", None)
        names = () if known is None else known.__members__
        return tuple(name.lower() for name in names if name not in _NO_CARDS)


@cache
def tensorrt_library() -> Library:
    """The TensorRT that is installed.

    Raises:
        MissingPackageError: none is, or it cannot be loaded.
    """
    reasons = []
    for flavour in _FLAVOURS:
        try:
            return Library(flavour, importlib.import_module(flavour))
        except ImportError as error:
            reasons.append(f"{flavour}: {error}")
        except OSError as error:  # its libraries are there, and what they need is not
            reasons.append(f"{flavour} cannot be loaded: {error}")
    raise MissingPackageError(
        f"TensorRT is not installed ({'; '.join(reasons)}). Install it with: {INSTALL} - on an "
        "H100 or H200, which TensorRT-RTX does not serve: pip install tensorrt"
    )


class Messages:
    """What TensorRT said while something was done: errors are kept, the rest is logged."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def take(self, severity: Any, text: str) -> None:
        """Called by TensorRT's logger."""
        if severity.name in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity.name == "WARNING":
            _log.debug("%s", text)

    def __str__(self) -> str:
        return "; ".join(self.errors) or "it gave no reason"


def logger(library: Library, messages: Messages) -> Any:
    """A logger of TensorRT's that hands everything to `messages`."""
    base: Any = library.module.ILogger

    class Logger(base):  # type: ignore[misc] # the base is known only when TensorRT is
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            messages.take(severity, msg)

    return Logger()


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(names) or "none"
