"""What a user may call a device, how a GPU is to be used, and which precisions run where.

It opens nothing and knows no library.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from bart_onnx.errors import DeviceError, InputError

CPU = "cpu"
CUDA = "cuda"
TENSORRT = "tensorrt"
AUTO = "auto"
NAMES = (CPU, CUDA, TENSORRT, AUTO)

# One line a device: the precisions of the bundles that it runs.
PRECISIONS = {
    CPU: ("fp32", "int8"),
    CUDA: ("fp32", "fp16", "bf16"),
    TENSORRT: ("fp32", "fp16", "bf16"),
}


@dataclass(frozen=True)
class Device:
    """A device, and how it is used. A name such as "cuda" stands for one with all the defaults.

    Attributes:
        name: "cpu", "cuda", "tensorrt" or "auto".
        index: which GPU, counted from 0.
        cuda_graphs: whether steps are captured and replayed.
        warm_up: of how many rows the first steps are taken when a model is opened, and not when it
            is used; none for ().
        batch_tokens: tokens that the caches of rows decoded together may come to hold on a GPU.
        smaller_batches: whether a batch that finds too little memory is decoded in halves.

    Raises:
        DeviceError: another name.
        InputError: a number out of its range.
    """

    name: str = CPU
    index: int = 0
    cuda_graphs: bool = True
    warm_up: tuple[int, ...] = (1,)
    batch_tokens: int = 131_072
    smaller_batches: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise DeviceError(f"Device {self.name!r} is unknown; devices: {', '.join(NAMES)}.")
        if self.index < 0:
            raise InputError(f"A device's index must be at least 0, found {self.index}.")
        if min(self.warm_up, default=1) < 1:
            raise InputError(
                f"warm_up must hold numbers of rows, at least 1, found {self.warm_up}."
            )
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, found {self.batch_tokens}.")

    @classmethod
    def of(cls, device: str | Device) -> Device:
        """A device as it was given: a Device, a name, or a name and an index, as in "cuda:1"."""
        if isinstance(device, Device):
            return device
        if match := re.fullmatch(r"(cuda|tensorrt):(\d+)", str(device)):
            return cls(match[1], index=int(match[2]))
        return cls(str(device))


def check_precision(device: str, precision: str, preset: str) -> None:
    """Refuse a bundle that a device does not run.

    Args:
        preset: what to export again.

    Raises:
        DeviceError: the message names the command that exports one which does.
    """
    runs = PRECISIONS[device]
    if precision in runs:
        return
    other = [name for name, precisions in PRECISIONS.items() if precision in precisions]
    command = ["python", "-m", "bart_onnx.export", "--preset", preset, "--precision", runs[0]]
    elsewhere = f"; {precision} runs on {' and '.join(other)}" if other else ""
    raise DeviceError(
        f"Device {device!r} runs {', '.join(runs)} bundles, and the one of {preset!r} is "
        f"{precision}{elsewhere}. Export it for this device: {shlex.join(command)}"
    )
