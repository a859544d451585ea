"""`.keras` archives that no Keras wrote, and what must be said of each."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hostile_hdf5 import Builder
from keras_files import archive_members, write_archive


def archive(change: Callable[[dict[str, bytes]], object], **options: Any) -> Builder:
    """An archive with other members."""

    def build(preset: Path) -> Path:
        members = archive_members()
        change(members)
        return write_archive(preset / "task.keras", members, **options)

    return build


def archive_bytes(change: Callable[[bytearray, list[zipfile.ZipInfo]], object]) -> Builder:
    """An archive with other bytes."""

    def build(preset: Path) -> Path:
        path = write_archive(preset / "task.keras", archive_members())
        with zipfile.ZipFile(path) as opened:
            infos = opened.infolist()
        data = bytearray(path.read_bytes())
        change(data, infos)
        path.write_bytes(data)
        return path

    return build


def flag(infos: list[zipfile.ZipInfo], data: bytearray, offset: int, value: bytes) -> None:
    """Write a value into the second member's entry in the list at the archive's end."""
    start = bytes(data).rindex(b"PK\x01\x02", 0, bytes(data).rindex(infos[1].filename.encode()))
    data[start + offset : start + offset + len(value)] = value


def linked_member(preset: Path) -> Path:
    """An archive with a symbolic link in it."""
    path = write_archive(preset / "task.keras", archive_members())
    with zipfile.ZipFile(path, "a") as opened:
        info = zipfile.ZipInfo("assets/link")
        info.external_attr = 0o120777 << 16
        opened.writestr(info, "/etc/passwd")
    return path


def twice(preset: Path) -> Path:
    """An archive with two members of one name."""
    path = write_archive(preset / "task.keras", archive_members())
    with zipfile.ZipFile(path, "a") as opened:
        info = zipfile.ZipInfo("config.jsoN")
        opened.writestr(info, "{}")
    data = path.read_bytes().replace(b"config.jsoN", b"config.json")
    path.write_bytes(data)
    return path


def long_list(preset: Path) -> Path:
    """An archive whose list of members has 3 MB."""
    members = {f"assets/{number:0100}": b"" for number in range(20_000)}
    return write_archive(preset / "task.keras", members)


def claims_a_list(preset: Path) -> Path:
    """An archive of 400 MB of zeros that says they are its list of members."""
    path = preset / "task.keras"
    size = 400 << 20
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 60_000, 60_000, size, 0, 0)
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(end)
    return path


ARCHIVES: Mapping[str, tuple[Builder, str]] = {
    "zip slip": (
        archive(lambda members: members.update({"assets/../../x": b""})),
        "a member named 'assets/../../x'",
    ),
    "zip of others": (archive(lambda members: members.update({"run.py": b""})), "named 'run.py'"),
    "zip of a root": (archive(lambda members: members.update({"/etc/x": b""})), "named '/etc/x'"),
    "zip deflated": (
        archive(
            lambda members: members.update({"assets/zeros": bytes(256 << 20)}),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "which is compressed",
    ),
    "zip encrypted": (
        archive_bytes(lambda data, infos: flag(infos, data, 8, b"\x01\x00")),
        "config.json, which is encrypted",
    ),
    "zip of a large claim": (
        archive_bytes(lambda data, infos: flag(infos, data, 20, b"\xff\xff\xff\x7f" * 2)),
        "ends after the archive|cannot be read as a Keras archive",
    ),
    "zip with two headers": (
        archive_bytes(
            lambda data, infos: data.__setitem__(
                slice(infos[1].header_offset + 30, infos[1].header_offset + 36), b"CONFIG"
            )
        ),
        "two headers contradict",
    ),
    "zip damaged": (
        archive_bytes(
            lambda data, infos: data.__setitem__(infos[2].header_offset + 1000, 0x5A),
        ),
        "model.weights.h5 in .* has the checksum",
    ),
    "zip linked": (linked_member, "assets/link, which is a link or no file"),
    "zip twice": (twice, "config.json twice"),
    "zip crowd": (long_list, "cannot be read as a Keras archive|20000 members"),
    "zip list": (claims_a_list, "cannot be read as a Keras archive"),
    "zip cut": (
        archive_bytes(lambda data, infos: data.__delitem__(slice(50_000, None))),
        "Keras arc",
    ),
    "zip without config": (
        archive(lambda members: members.pop("config.json")),
        "needs config.json, but holds only",
    ),
    "zip without tokenizer": (
        archive(lambda members: members.pop("assets/preprocessor/tokenizer/merges.txt")),
        "not its tokenizer's",
    ),
    "zip class": (
        archive(
            lambda m: m.update({"config.json": m["config.json"].replace(b'BartSeq2SeqLM"', b'E"')})
        ),
        "config.json in .* names the class",
    ),
    "zip config": (
        archive(lambda members: members.update({"config.json": b" " * (5 << 20)})),
        "has 5242880 bytes",
    ),
}
