"""What a runner asks of a device's memory, and an arena that hands the same addresses out again.

A captured CUDA graph has its addresses in it. So memory that was let go is kept by its size: the
next caches of that size lie where the last did, and what was captured for them still fits.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from bart_onnx.errors import DeviceMemoryError

# As CUDA aligns what it allocates.
ALIGNMENT = 256


class DeviceMemory(Protocol):
    """Memory of one device and the stream that all work on it is put on, in order."""

    @property
    def stream(self) -> int:
        """The stream, as TensorRT takes it."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes of zeros, aligned to `ALIGNMENT`.

        Raises:
            DeviceMemoryError: there is no room; the message has the numbers.
        """

    def free(self, address: int) -> None:
        """Give back what `allocate` gave, when the stream has come to its end."""

    def clear(self, address: int, size: int) -> None:
        """Make bytes zero."""

    def to_device(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous array to an address; the array may be changed at once."""

    def to_host(self, address: int, array: NDArray[Any]) -> None:
        """Fill a contiguous array from an address, when all that was put on the stream is done."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes that do not overlap, from address to address."""

    def wait(self) -> None:
        """Until all that was put on the stream is done."""

    def capture(self, put: Callable[[], None]) -> Callable[[], None]:
        """What `put` puts on the stream, kept and not done: a call does it, as often as called."""


class Block:
    """Bytes on a device, given back to the arena with the last reference."""

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size = address, size


class Arena:
    """Hands out blocks, and keeps those that were given back for the next that is as large.

    Attributes:
        lock: held by whoever puts work on the memory's stream, so that none of it is caught up in
            what another thread captures.
        allocated: bytes.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self.lock = threading.RLock()
        self._free: dict[int, list[int]] = {}
        self.allocated = 0

    def take(self, size: int) -> Block:
        """A block of at least `size` bytes. What lies in it is what the last owner left, or zeros.

        Raises:
            DeviceMemoryError: there is no room.
        """
        size = max(1, -(-size // ALIGNMENT)) * ALIGNMENT
        with self.lock:
            kept = self._free.setdefault(size, [])
            if kept:
                # The lowest, so that what takes the same blocks in the same order finds them again.
                address = min(kept)
                kept.remove(address)
            else:
                address = self._allocate(size)
        block = Block(address, size)
        # A list's append is whole in any thread, wherever the garbage collector comes from.
        weakref.finalize(block, kept.append, address).atexit = False
        return block

    def _allocate(self, size: int) -> int:
        try:
            address = self._memory.allocate(size)
        except DeviceMemoryError:
            if not self._release():
                raise
            address = self._memory.allocate(size)
        self.allocated += size
        return address

    def _release(self) -> bool:
        """Give back to the device what nobody uses; whether there was any."""
        found = False
        for size, addresses in self._free.items():
            while addresses:
                self._memory.free(addresses.pop())
                self.allocated -= size
                found = True
        return found
