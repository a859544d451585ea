"""Writing a bundle so that it is there whole or not at all. It knows files, and nothing of BART.

Everything is written into a hidden directory beside the target, sealed, synced to the disk and
renamed into place. The writer holds a lock on that directory, which the system lets go when the
writer ends, however it ends: so another writer waits for a live one and takes over from a dead one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bart_onnx.durable import make_directory, sync
from bart_onnx.errors import BartOnnxError, ExportError
from bart_onnx.locks import held_if_free, leads_to
from bart_onnx.sealed import MANIFEST, SEAL, file_sha256, seal_text

_UNFINISHED = ".unfinished"


@contextmanager
def claim(target: Path) -> Iterator[Path]:
    """An empty hidden directory beside `target` that is this writer's alone; `publish` it.

    Waits while another writer has it. What a writer that died left there is removed, and so is the
    directory itself at the end, unless it was published.

    Raises:
        ExportError: the disk is full, or the place cannot be written to.
    """
    staging = target.parent / f".{target.name}{_UNFINISHED}"
    try:
        make_directory(target.parent)
        with _locked(staging) as lock:
            try:
                _empty(staging)
                yield staging
            finally:
                if leads_to(staging, lock):
                    shutil.rmtree(staging, ignore_errors=True)
    except BartOnnxError:
        raise
    except OSError as error:
        raise ExportError(_explain(error, target)) from error


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A claimed directory that is published when the block ends well; nothing is, when it fails.

    Raises:
        ExportError: `target` has something in it, the disk is full, or the place cannot be written.
    """
    with claim(target) as staging:
        check_free(target)
        yield staging
        publish(staging, target)


def check_free(target: Path) -> None:
    """Refuse a place that has something in it.

    Raises:
        ExportError: `target` is there and is no empty directory.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(
            f"{target} already has something in it. Remove it, or choose another output."
        )


def publish(staging: Path, target: Path) -> None:
    """Sync a claimed directory to the disk and give it its name, in one step of the file system.

    Raises:
        ExportError: `target` has something in it by now, or the disk did not confirm its name.
    """
    publish_all({staging: target}, target)


def publish_all(places: Mapping[Path, Path], bundle: Path) -> None:
    """Sync directories under claimed ones to the disk and give them their names: all, or none.

    Only who is killed meanwhile leaves some, the first ones.

    Args:
        places: directory -> target.
        bundle: which of what is published to verify, where the disk did not confirm a name.

    Raises:
        ExportError: a target has something in it by now, or the disk did not confirm a name.
    """
    for target in places.values():
        check_free(target)
    for staging in places:
        for path in (*staging.rglob("*"), staging):
            sync(path)
    try:
        for staging, target in places.items():
            os.rename(staging, target)
    except BaseException:
        for staging, target in places.items():
            if not staging.exists():
                os.rename(target, staging)
        raise
    try:
        for parent in {target.parent for target in places.values()}:
            sync(parent)
    except OSError as error:
        raise ExportError(
            f"{' and '.join(map(str, places.values()))} was published, but the disk did not "
            f"confirm its name: {error}. Check it: "
            f"python -m bart_onnx.verify {shlex.quote(str(bundle))}"
        ) from error


def remove_abandoned(store: Path) -> None:
    """Remove what killed writers left under any of a store's directories, and nobody took over."""
    with suppress(OSError):  # what cannot be looked at now is looked at the next time
        for path in store.glob(f"*/.*{_UNFINISHED}"):
            with held_if_free(path) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)


def seal(directory: Path, manifest: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Write manifest.json, with every file's size and sha256, and manifest.sha256.

    Args:
        known: sha256 of files that were hashed while they were written, by name.
    """
    paths = {
        path.relative_to(directory).as_posix(): path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    files = {
        name: {"size": path.stat().st_size, "sha256": known.get(name) or file_sha256(path)}
        for name, path in paths.items()
        if name not in (MANIFEST, SEAL)
    }
    write_json(directory / MANIFEST, {**manifest, "files": files})
    (directory / SEAL).write_text(seal_text(directory / MANIFEST))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as UTF-8 JSON that people can read."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """An exclusive lock on a directory, made if it is not there: the open file that holds it."""
    while True:
        # Not exist_ok: between its two looks the owner may publish the directory.
        with suppress(FileExistsError):
            directory.mkdir()
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its owner has just published or removed it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if leads_to(directory, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _explain(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = "The disk is full" if error.errno == errno.ENOSPC else "The disk's quota is used up"
        left = os.statvfs(_existing(target.parent))
        # Some file systems count no files, and say 0 of 0.
        files = f", and room for {left.f_favail:,} more files," if left.f_files else ""
        return (
            f"{full}: {left.f_bavail * left.f_frsize:,} bytes are free{files} where {target} was "
            "being written. Nothing was published; free some space or choose another output."
        )
    return f"{target} could not be written: {error}. Nothing was published."


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
