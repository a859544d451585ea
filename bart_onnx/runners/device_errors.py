"""What onnxruntime says when a device gives out, as errors of this package."""

from __future__ import annotations

import os
import re

from bart_onnx.errors import DeviceError, DeviceMemoryError
from bart_onnx.runners.gpus import gpus

# What onnxruntime's arena, CUDA, cuBLAS and cuDNN say of it.
_NO_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|ALLOC_FAILED|bad_alloc|bad allocation"
    r"|BFCArena::AllocateRaw|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(?:buffer of size|requested bytes of|requested)\s*:?\s*(\d+)")
_LONGEST_REASON = 300


def device_error(error: Exception, memory: str, index: int, doing: str) -> DeviceError:
    """The error to raise in place of one of onnxruntime's.

    Args:
        memory: "cuda" or "cpu".
        doing: what memory was wanted for, with its numbers.
    """
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    if not is_of_memory(error):
        return DeviceError(f"onnxruntime failed on {memory}:{index} at {doing}: {reason}")
    asked = _ASKED.search(str(error))
    bytes_asked = f", where {asked[1]} bytes more were asked for" if asked else ""
    return DeviceMemoryError(
        f"{memory}:{index} has too little free memory for {doing}{bytes_asked}"
        f"{_free(memory, index)}. Decode fewer rows at once: Device(batch_tokens=...) bounds them, "
        f"and Device(smaller_batches=True) tries halves. onnxruntime said: {reason}"
    )


def is_of_memory(error: Exception) -> bool:
    """Whether it is for want of memory that onnxruntime failed."""
    return _NO_MEMORY.search(str(error)) is not None


def _free(memory: str, index: int) -> str:
    """What the driver says of the GPU; nothing where its numbers may be another GPU's."""
    if memory != "cuda" or "CUDA_VISIBLE_DEVICES" in os.environ:
        return ""
    found = next((gpu for gpu in gpus() if gpu.index == index), None)
    if found is None:
        return ""
    return f"; {found.free_bytes} of its {found.memory_bytes} bytes are free"
