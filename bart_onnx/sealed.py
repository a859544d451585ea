"""A sealed directory: a manifest with the size and sha256 of every file, and a seal over it.

    manifest.json       {"files": {NAME: {"size", "sha256"}}, ...}
    manifest.sha256     the sha256 of manifest.json, as `sha256sum` writes it

Every byte is covered: those of the other files by the manifest, the manifest's by the seal, and the
seal's by its form. It knows no bundle and no engine.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from bart_onnx.errors import (
    BartOnnxError,
    BundleDamagedError,
    BundleError,
    InputError,
    MissingFileError,
)
from bart_onnx.file_places import fault_of, is_stored
from bart_onnx.json_objects import LIMIT, read_object

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"

_LARGEST_SEAL = 4096
_SEAL_FORM = re.compile(rf"[0-9a-f]{{64}}  {re.escape(MANIFEST)}\n")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_text(manifest: Path) -> str:
    """What the seal of a manifest says."""
    return f"{file_sha256(manifest)}  {MANIFEST}\n"


def sealed_manifest(directory: Path, what: str, remedy: str) -> dict[str, Any]:
    """The content of the manifest, if it is what the seal says.

    Args:
        what: what the directory should hold, for messages: "bundle".
        remedy: what to do about a damaged one.

    Raises:
        MissingFileError: the directory, its manifest or seal is not there.
        BundleDamagedError: the manifest is not what the seal says, or no JSON object.
        BundleError: it is larger than any manifest, or cannot be read.
    """
    with readable(directory):
        _check_seal(directory, what, remedy)
    return read_json(directory / MANIFEST, remedy)


def _check_seal(directory: Path, what: str, remedy: str) -> None:
    path = directory / MANIFEST
    if not directory.is_dir():
        raise MissingFileError(f"{directory} is no directory. Give the directory of a {what}.")
    if not path.is_file() or not (directory / SEAL).is_file():
        missing = SEAL if path.is_file() else MANIFEST
        raise MissingFileError(f"{directory} is no {what}: it has no {missing}. {remedy}")
    if path.stat().st_size > LIMIT:
        raise BundleError(f"{path} has {path.stat().st_size} bytes, more than any manifest.")
    written = _seal(directory).split()
    found = file_sha256(path)
    if not written or written[0] != found:
        says = " ".join(written) or "nothing"
        raise BundleDamagedError(f"{path} has sha256 {found}, but {SEAL} says {says:.80}. {remedy}")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        MissingFileError, BundleDamagedError: there is none.
        BundleError: it cannot be read.
    """
    with readable(path):
        try:
            return read_object(path)
        except FileNotFoundError as error:
            raise MissingFileError(f"{path} is missing. {remedy}") from error
        except InputError as error:
            raise BundleDamagedError(f"{path} {error}. {remedy}") from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What keeps files from being read is told as a fault of what holds them.

    Raises:
        BundleError: `path`, or the file that was opened, cannot be read.
    """
    try:
        yield
    except BartOnnxError:
        raise
    except OSError as error:
        raise BundleError(f"{unreadable(Path(error.filename or path), error)}.") from error


def unreadable(path: Path, error: OSError) -> str:
    """That a path cannot be read, and what to look at."""
    what = "its permissions" if isinstance(error, PermissionError) else "the disk that it is on"
    return f"{path} cannot be read: {error.strerror or error}; check {what}"


def check_entries(directory: Path, manifest: Mapping[str, Any], remedy: str) -> None:
    """That the manifest lists files, each with a size, by names that stay inside.

    Raises:
        BundleError: it does not.
    """
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise BundleError(f"{directory / MANIFEST} has no table 'files'. {remedy}")
    for name, file in files.items():
        if not isinstance(file, dict) or not isinstance(file.get("size"), int):
            raise BundleError(f"{directory / MANIFEST}: file {name!r:.200} has no size. {remedy}")
        plain(name)


def plain(name: str) -> str:
    """`name`, if it is a plain relative path that stays inside the directory.

    Raises:
        BundleError: it is none.
    """
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    if not inside or not path.parts or "\0" in name or len(name) > 200:
        raise BundleError(f"The manifest names a file outside the bundle: {name!r:.200}.")
    return name


def check_file(
    directory: Path, name: str, expected: Mapping[str, Any], hashed: bool, remedy: str
) -> None:
    """That a file is what its entry says.

    Args:
        hashed: whether to compare its sha256, or its size only.

    Raises:
        MissingFileError, BundleDamagedError: it is not.
        BundleError: it is a link that leads out of the directory, or cannot be read.
    """
    with readable(directory / name):
        _check_file(directory, name, expected, hashed, remedy)


def _check_file(
    directory: Path, name: str, expected: Mapping[str, Any], hashed: bool, remedy: str
) -> None:
    path = directory / name
    if not path.is_file():
        raise MissingFileError(f"{path} is missing, though the manifest lists it. {remedy}")
    fault = fault_of(directory, name)
    if fault is not None:
        raise BundleError(f"{path} {fault}. {remedy}")
    size = path.stat().st_size
    if size != expected["size"]:
        raise BundleDamagedError(
            f"{path} has {size} bytes; the manifest says {expected['size']}. {remedy}"
        )
    if not hashed:
        return
    found = file_sha256(path)
    if found != expected.get("sha256"):
        raise BundleDamagedError(
            f"{path} has sha256 {found}; the manifest says {expected.get('sha256')!s:.80}. {remedy}"
        )


def damage(directory: Path, what: str, remedy: str) -> Iterator[tuple[str, str]]:
    """Everything that is not as it was sealed: its name, and a line; nothing where all is whole.

    What is neither a plain file nor a directory is damage too, and so is what the manifest does not
    list, or cannot be looked at. A link is, unless it leads to where huggingface_hub keeps the
    files of its snapshots.
    """
    try:
        manifest = sealed_manifest(directory, what, remedy)
        check_entries(directory, manifest, remedy)
        sealing = _seal(directory)
    except BartOnnxError as error:
        # Without a manifest to trust, nothing can be said of the other files.
        yield MANIFEST, str(error)
        return
    if not _SEAL_FORM.fullmatch(sealing):
        told = f"{directory / SEAL} is not as it was written, though it has the digest. {remedy}"
        yield SEAL, told
    files = manifest["files"]
    for name, expected in files.items():
        try:
            check_file(directory, name, expected, hashed=True, remedy=remedy)
        except BartOnnxError as error:
            yield name, str(error)
    for name, told in _strangers(directory, {*files, MANIFEST, SEAL}):
        yield name, f"{told}. {remedy}"


def _strangers(directory: Path, known: set[str]) -> Iterator[tuple[str, str]]:
    """What is there beside the files that are known, or in place of one."""
    parents = {str(path) for name in known for path in PurePosixPath(name).parents}
    unread: list[OSError] = []
    for folder, folders, names in os.walk(directory, onerror=unread.append):
        for each in sorted((*folders, *names)):
            path = Path(folder, each)
            name = path.relative_to(directory).as_posix()
            try:
                told = _strange(directory, name, known, parents)
            except OSError as error:
                told = unreadable(path, error)
            if told:
                yield name, told
    for unlisted in unread:
        yield str(unlisted.filename), unreadable(Path(unlisted.filename), unlisted)


def _strange(directory: Path, name: str, known: set[str], parents: set[str]) -> str:
    path = directory / name
    if path.is_symlink():
        kept = name in known and is_stored(directory, name)
        return "" if kept else f"{path} is a link, to {os.readlink(path)}"
    if path.is_dir():
        what = "a directory of which the manifest knows nothing"
        return "" if name in parents else f"{path} is {what}"
    return "" if name in known else f"{path} is not in the manifest"


def _seal(directory: Path) -> str:
    with readable(directory / SEAL), (directory / SEAL).open("rb") as file:
        return file.read(_LARGEST_SEAL).decode(errors="replace")
