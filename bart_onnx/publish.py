"""Writing a bundle so that it is there whole or not at all. It knows files, and nothing of BART.

Everything is written into a hidden directory beside the target, sealed, synced to the disk and
renamed into place. A process that dies on the way leaves a directory that no name leads to; the
next one to publish there removes it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bart_onnx.bundle import MANIFEST, SEAL, file_sha256
from bart_onnx.errors import BartOnnxError, ExportError

_PREFIX, _SUFFIX = ".", ".unfinished"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A new directory beside `target` that becomes `target` when the block ends well.

    The caller holds whatever lock keeps others from publishing to `target`.

    Raises:
        ExportError: `target` already has something in it, or the disk is full or not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ExportError(
                f"{target} already has something in it. Remove it, or choose another output."
            )
        _remove_unfinished(target)
        staging = Path(
            tempfile.mkdtemp(_SUFFIX, f"{_PREFIX}{target.name}.{os.getpid()}.", target.parent)
        )
        try:
            yield staging
            _publish(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BartOnnxError:
        raise
    except OSError as error:
        raise ExportError(_explain(error, target)) from error


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
    (directory / SEAL).write_text(f"{file_sha256(directory / MANIFEST)}  {MANIFEST}\n")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as UTF-8 JSON that people can read."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _publish(staging: Path, target: Path) -> None:
    staging.chmod(0o777 & ~_umask())
    for path in (*staging.rglob("*"), staging):
        _sync(path)
    os.rename(staging, target)
    _sync(target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unfinished(target: Path) -> None:
    """Remove what exports to this target left behind when their process died."""
    for path in target.parent.glob(f"{_PREFIX}{target.name}.*{_SUFFIX}"):
        process = path.name.removeprefix(f"{_PREFIX}{target.name}.").split(".")[0]
        if process.isdigit() and not _runs(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _explain(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_existing(target.parent)).free
        return (
            f"The disk is full: {free:,} bytes are free where {target} was being written. Nothing "
            "was published; free some space or choose another output."
        )
    return f"{target} could not be written: {error}. Nothing was published."


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
