"""Finds the datasets of an HDF5 file and where their bytes lie, without reading any of them.

    python -m exporters.checkpoints.keras_h5

is the child process that opens them: with a file that was made for it HDF5 may go round for ever or
die, and no error of Python's can end that.

Of what HDF5 can do, Keras uses little, and only that is let through: groups and datasets that are
linked once, and datasets whose bytes lie in one piece in the file itself. Compressed ones are not:
HDF5 inflates a chunk to whatever size its stream has, not to the one that the file states. It knows
no dataset's name or meaning.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5g, h5l, h5t

from bart_onnx.errors import CheckpointError
from exporters.checkpoints.child import run_child
from exporters.checkpoints.local_files import some
from exporters.checkpoints.safetensors_file import TensorEntry

# A BART has some 70 objects a layer and depth 7 at most, training state included.
OBJECT_LIMIT = 1 << 16
# Its names are kept with all groups above, some 100 characters long.
DEPTH_LIMIT, NAME_LIMIT = 12, 512
# A BART takes half a second, and 60 MB.
_SECONDS, _MEMORY = 60, 1 << 30

_FLOATS = {"F32": h5t.IEEE_F32LE, "F16": h5t.IEEE_F16LE}
# Numbers and flags, and the two opaque bytes that Keras keeps a bfloat16 in.
_PLAIN_TYPES = (h5t.INTEGER, h5t.FLOAT, h5t.OPAQUE, h5t.ENUM)
_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link into another file"}
_LAYOUTS = {
    h5d.COMPACT: "compact",
    h5d.CHUNKED: "in chunks, compressed or not",
    h5d.VIRTUAL: "virtual, made of other datasets",
}


class FileWindow(io.RawIOBase):
    """A part of a file as a file of its own: `size` bytes from `start` on."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._size, self._position = start, size, 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the window's start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as every file does."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, or what of it the window has bytes for."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        self._file.seek(self._start + self._position)
        done = 0
        while done < wanted:
            count = self._file.readinto(view[done:wanted])
            if not count:
                break
            done += count
        self._position += done
        return done


@dataclass(frozen=True)
class Hdf5:
    """An HDF5 file, or one that lies inside another: `size` bytes from `start` on, None for all."""

    path: Path
    start: int = 0
    size: int | None = None


def read_datasets(files: Sequence[Hdf5]) -> list[dict[str, TensorEntry]]:
    """Name to place of every dataset, of each file.

    Dtypes are spelled as safetensors does where they can be weights, else as numpy does.

    Raises:
        CheckpointError: a file is damaged, or holds a link, a dataset that lies elsewhere or in
            pieces, a type that is no number, or all more objects than any BART; or HDF5 did not
            come to an end with them, or not with the memory that it is allowed.
    """
    given = json.dumps([[str(each.path), each.start, each.size] for each in files])
    child = run_child(__name__, seconds=_SECONDS, given=given, memory=_MEMORY)
    try:
        # What a library may have said before is not the answer.
        answer = json.loads(child.said.splitlines()[-1]) if not child.fault else None
    except (ValueError, LookupError):
        answer = None
    if answer is None:
        paths = some([str(each.path) for each in files])
        raise _unreadable(paths, child.fault or f"the child said {child.said[-80:]!r}")
    if "refused" in answer:
        raise CheckpointError(answer["refused"])
    return [
        {
            name: TensorEntry(name, each.path, offset, dtype, tuple(shape))
            for name, offset, dtype, shape in found
        }
        for each, found in zip(files, answer["datasets"], strict=True)
    ]


def main() -> int:
    """What the child does: say on stdout, in JSON, where what is, or why it is not read."""
    answer: dict[str, object]
    try:
        found: list[list[list[object]]] = []
        for path, start, size in json.load(sys.stdin):
            entries = find_datasets(Hdf5(Path(path), start, size)).values()
            found.append([[each.name, each.offset, each.dtype, each.shape] for each in entries])
            if sum(map(len, found)) > OBJECT_LIMIT:
                raise _refused(Path(path), f"with those before it over {OBJECT_LIMIT} objects")
        answer = {"datasets": found}
    except CheckpointError as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer))
    return 0


def find_datasets(hdf5: Hdf5) -> dict[str, TensorEntry]:
    """The same of one file, in this process.

    Raises:
        CheckpointError: as that, but for a file with which HDF5 comes to no end.
    """
    path, start = hdf5.path, hdf5.start
    size = path.stat().st_size - start if hdf5.size is None else hdf5.size
    with _blame(path), FileWindow(path, start, size) as window, h5py.File(window, "r") as file:
        return {
            name: _entry(path, name, h5d.open(file.id, name.encode()), start, size)
            for name in _walk(path, file.id)
        }


@contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Turn what HDF5 says of a damaged file into an error that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError) as error:
        raise _unreadable(path, error) from error


def _walk(path: Path, file: Any) -> Iterator[str]:
    """The names of all datasets; every link on the way to one has been checked."""
    groups = [("", 0)]
    # `h5o.get_info` would tell as much, but it also adds up the sizes of a group's index, from each
    # node to its neighbour; in HDF5 2.0 a node that is its own neighbour keeps it there for ever.
    places = {h5g.get_objinfo(file).objno}
    objects = 0
    while groups:
        prefix, depth = groups.pop()
        group = h5g.open(file, b"/" + prefix.encode())
        objects += group.get_num_objs()
        if objects > OBJECT_LIMIT:
            raise _refused(path, f"over {OBJECT_LIMIT} objects")
        for raw in list(group):
            name = prefix + raw.decode("utf-8")
            if len(name) > NAME_LIMIT:
                raise _refused(path, f"a name of over {NAME_LIMIT} characters")
            # As a path it would lead through a link that was not looked at.
            if b"/" in raw or raw in (b".", b".."):
                raise _refused(path, f"the name {raw[:80]!r}")
            link = group.links.get_info(raw).type
            if link != h5l.TYPE_HARD:
                raise _refused(path, f"{_LINKS.get(link, 'a link')} at {some([name])}")
            found = h5g.get_objinfo(group, raw)
            if found.objno in places:
                raise _refused(path, f"a second link to one object at {some([name])}")
            places.add(found.objno)
            if found.type == h5g.DATASET:
                yield name
            elif found.type != h5g.GROUP:
                raise _refused(path, f"a datatype of its own at {some([name])}")
            elif depth == DEPTH_LIMIT:
                raise _refused(path, f"groups over {DEPTH_LIMIT} deep at {some([name])}")
            else:
                groups.append((f"{name}/", depth + 1))


def _entry(path: Path, name: str, dataset: Any, start: int, size: int) -> TensorEntry:
    what = some([name])
    kind = dataset.get_type()
    if kind.committed() or kind.get_class() not in _PLAIN_TYPES:
        raise _refused(path, f"dataset {what} of a type that is no plain number")
    if dataset.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise _refused(path, f"dataset {what} without a shape")
    properties = dataset.get_create_plist()
    if properties.get_external_count():
        raise _refused(path, f"dataset {what}, whose data are in another file")
    layout = properties.get_layout()
    if layout != h5d.CONTIGUOUS:
        raise _refused(
            path, f"dataset {what}, which is stored {_LAYOUTS.get(layout, 'in an unknown way')}"
        )
    needed = math.prod(dataset.shape) * kind.get_size()
    stored, offset = dataset.get_storage_size(), dataset.get_offset()
    if needed == 0 or stored != needed or offset is None or offset + needed > size:
        raise _refused(
            path,
            f"dataset {what} of shape {list(dataset.shape)}, which needs {needed} bytes and has "
            f"{stored if offset is not None else 0} in a file of {size}",
        )
    return TensorEntry(name, path, start + offset, _dtype(dataset, kind), tuple(dataset.shape))


def _dtype(dataset: Any, kind: Any) -> str:
    for dtype, stored in _FLOATS.items():
        if kind.equal(stored):
            return dtype
    if kind.get_class() != h5t.OPAQUE:
        return str(kind.dtype)
    # Of what Keras writes only a bfloat16 is two opaque bytes, with its name as "dtype". That is
    # not read: it lies in a heap, for which HDF5 takes whatever time and memory the file states.
    labels = h5py.Dataset(dataset).attrs
    if kind.get_size() == 2 and "dtype" in labels:
        return "BF16" if labels.get_id("dtype").get_type().get_class() == h5t.STRING else "opaque"
    return "opaque"


def _unreadable(path: Path | str, fault: object) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as HDF5 ({fault}); download or save it again.")


def _refused(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} holds {found}, which Keras does not write for a BART, so it is not read. "
        "Download it again, or load it in Keras and save it anew if you trust it."
    )


if __name__ == "__main__":
    sys.exit(main())
