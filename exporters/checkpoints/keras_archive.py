"""Reads a `.keras` archive: its members are checked before any of them is opened.

Keras stores members as they are, so the weights are read where they lie, and no member can grow
when it is read. It knows no config and no weight.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bart_onnx.errors import CheckpointError
from exporters.checkpoints.keras_h5 import FileWindow
from exporters.checkpoints.local_files import JSON_LIMIT, some

_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_ASSETS = "assets/"
# Of a task there are five members; the list of 1 MiB has room for some 20,000.
_DIRECTORY_LIMIT = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_BLOCK = 1 << 20
# What zipfile raises of one, by what is wrong with it; it has no error of its own for all.
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    OSError,
    OverflowError,
    struct.error,
    ValueError,
)


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie in the archive."""

    start: int
    size: int
    crc: int


class KerasArchive:
    """The members of a `.keras` file by name."""

    def __init__(self, path: Path) -> None:
        """Check every member's place, name and kind.

        Raises:
            CheckpointError: the archive is damaged, or has a member that Keras would not write.
        """
        self.path = path
        try:
            with _Capped(path) as file, zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                self._members = {
                    info.filename: _member(path, file, info) for info in _checked(path, infos)
                }
        except CheckpointError:
            raise
        except _DAMAGE as error:
            raise CheckpointError(
                f"{path} cannot be read as a Keras archive ({error}); save or copy it again."
            ) from error

    def names(self) -> list[str]:
        """The members' names."""
        return list(self._members)

    def need(self, name: str) -> Member:
        """Where a member lies, once its bytes are those that were written.

        Raises:
            CheckpointError: it is missing, or its checksum is another.
        """
        if name not in self._members:
            raise CheckpointError(
                f"{self.path} needs {name}, but holds only {some(self.names()) or 'nothing'}; "
                "save it again with model.save()."
            )
        member = self._members[name]
        crc = 0
        with FileWindow(self.path, member.start, member.size) as window:
            while block := window.read(_BLOCK):
                crc = zlib.crc32(block, crc)
        if crc != member.crc:
            raise CheckpointError(
                f"{name} in {self.path} has the checksum {crc:08x}, but the archive says "
                f"{member.crc:08x}; copy it again."
            )
        return member

    def read(self, name: str) -> bytes:
        """The bytes of a small member.

        Raises:
            CheckpointError: as `need`, or it is larger than any of its kind.
        """
        size = self._members[name].size if name in self._members else 0
        if size > JSON_LIMIT:
            raise CheckpointError(
                f"{name} in {self.path} has {size} bytes; expected at most {JSON_LIMIT}."
            )
        member = self.need(name)
        with FileWindow(self.path, member.start, member.size) as window:
            return window.read(member.size) or b""


class _Capped(io.FileIO):
    """A file of which no more is read at once than an honest archive's list takes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, but refuse to read much; zipfile reads its list in one piece."""
        if size is None or size < 0:
            position = self.tell()
            size = self.seek(0, io.SEEK_END) - position
            self.seek(position)
        if size > _DIRECTORY_LIMIT:
            raise ValueError(f"its list of members has over {_DIRECTORY_LIMIT} bytes")
        return super().read(size) or b""


def _checked(path: Path, infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The members that are files, when none is of a kind, name or place that Keras gives none."""
    names = [info.filename for info in infos]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(infos) < 1000 else []
    if twice or len(infos) >= 1000:
        raise _refused(path, f"{some(twice)} twice" if twice else f"{len(infos)} members")
    for info in infos:
        name = info.filename
        parts = PurePosixPath(name).parts
        known = name in _MEMBERS or name.startswith(_ASSETS)
        if not known or ".." in parts or "\\" in name or "//" in name or "\0" in info.orig_filename:
            raise _refused(path, f"a member named {name[:80]!r}")
        mode = info.external_attr >> 16
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise _refused(path, f"{some([name])}, which is a link or no file")
        if info.flag_bits & 1:
            raise _refused(path, f"{some([name])}, which is encrypted")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _refused(path, f"{some([name])}, which is compressed")
    return [info for info in infos if not info.is_dir()]


def _member(path: Path, file: _Capped, info: zipfile.ZipInfo) -> Member:
    file.seek(info.header_offset)
    signature, name_size, extra_size = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name = file.read(name_size)
    if signature != b"PK\x03\x04" or name not in (
        info.filename.encode("utf-8"),
        info.orig_filename.encode("cp437", "replace"),
    ):
        raise _refused(path, f"{some([info.filename])}, whose two headers contradict each other")
    start = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    if start + info.file_size > path.stat().st_size:
        raise _refused(path, f"{some([info.filename])}, which ends after the archive")
    return Member(start, info.file_size, info.CRC)


def _refused(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} holds {found}; Keras writes no such archive, so it is not read. Save it again "
        "with model.save() if you trust it."
    )
