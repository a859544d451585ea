"""Rewrites a pickled PyTorch checkpoint as safetensors, in a child process.

    python -m exporters.checkpoints.pickle_file SOURCE TARGET

is that child: the only place that unpickles, with `weights_only=True`, and the only one here that
imports torch. It knows no tensor's name.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from bart_onnx.errors import CheckpointError, MissingPackageError
from exporters.checkpoints.child import run_child

_REFUSED, _NO_TORCH = 3, 4
_SECONDS = 1800  # 1.6 GB take under a minute; a pickle that keeps the child busy must end too


class ConvertedPickles:
    """Safetensors files made from pickles; their directory goes when this goes or is closed."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bart_onnx-pickle-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)

    def close(self) -> None:
        """Remove the files now."""
        self._remove()

    def add(self, source: Path, name: str) -> Path:
        """Convert a pickle into the file `name` of the directory and return its path.

        Raises:
            CheckpointError: it is no pickle of tensors only, or the child failed.
            MissingPackageError: torch is not installed.
        """
        target = self.directory / name
        child = run_child(
            __name__,
            [str(source.absolute()), str(target)],
            seconds=_SECONDS,
            directory=self.directory,
            answers=(0, _REFUSED, _NO_TORCH),
        )
        if child.status == _NO_TORCH:
            raise MissingPackageError(
                f"{source} is a pickle, which torch reads, and torch is not installed; run "
                'pip install "bart_onnx[export]".'
            )
        if child.status != 0:
            raise _refused(source, child.fault or child.said.strip())
        return target


def main(arguments: Sequence[str]) -> int:
    """What the child does: read SOURCE, write TARGET, say on stdout why not."""
    source, target = map(Path, arguments)
    try:
        import torch
    except ImportError:
        return _NO_TORCH
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
        _write(_checked(tensors), target)
    except Exception as error:  # any fault of a hostile file; nothing is kept of it
        target.unlink(missing_ok=True)
        print(_reason(error))
        return _REFUSED
    return 0


def _checked(loaded: object) -> dict[str, object]:
    import torch

    if not isinstance(loaded, dict):
        raise TypeError(f"it holds a {type(loaded).__name__}, not a dict of tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise TypeError(
                f"it holds a {type(value).__name__} under {str(name)[:80]!r}, "
                "and only names with tensors are read"
            )
    return loaded


def _write(tensors: dict[str, object], target: Path) -> None:
    """Write one tensor after the other: tied ones twice, and never a second copy in memory."""
    import torch

    names = {
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float64: "F64",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
    header: dict[str, object] = {}
    end = 0
    for name, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor)
        if tensor.dtype not in names or tensor.layout is not torch.strided:
            raise TypeError(f"tensor {name[:80]!r} is {tensor.dtype} and {tensor.layout}")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            assert isinstance(tensor, torch.Tensor)
            tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tofile(file)


def _reason(error: Exception) -> str:
    text = str(error)
    # torch's message advises to load without weights_only; keep what it found, drop the advice.
    found = re.search(r"Unsupported (?:global|operand|class|type)[^\n]{0,160}", text)
    if found:
        text = found.group().split(" was not an allowed")[0]
    elif "WeightsUnpickler error:" in text:
        text = text.split("WeightsUnpickler error:")[1].strip()
    return f"{type(error).__name__}: {text.strip().splitlines()[0][:300] if text else ''}"


def _refused(source: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{source} was to be read as a pickle of tensors (weights_only), and was refused: "
        f"{reason}. Nothing in it was executed; use a safetensors file."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
