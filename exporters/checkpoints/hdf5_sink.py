"""A file for HDF5 to write that never fails while it does, and says afterwards what went wrong.

HDF5 (seen with 2.0.0) does not survive a failed write: it tries again whenever one of its objects
is let go of, and in the end the process dies of a segmentation fault.
"""

from __future__ import annotations

from typing import BinaryIO


class Hdf5Sink:
    """A binary file for `h5py.File(sink, "w")`; after its first error it only pretends to write.

    Args:
        file: open for reading and writing, unbuffered.

    Attributes:
        error: the first error, or whatever else ended a write.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def raise_error(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        """As of any file; what was only pretended to be written is not there."""
        return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]

    def read(self, size: int = -1) -> bytes:
        """As of any file. h5py asks for `readinto`, and takes for a file what has this."""
        return self._file.read(size)

    def write(self, data: memoryview) -> int:
        """All of `data`, or nothing any more."""
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        try:
            while rest and self.error is None:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:  # Ctrl-C too would end inside HDF5
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """As of any file, unless something went wrong."""
        try:
            if self.error is None:
                return self._file.truncate(size)
        except BaseException as error:
            self.error = error
        return size or 0

    def flush(self) -> None:
        """Nothing: the file has no buffer."""
