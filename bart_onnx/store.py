"""Where exported bundles are kept, and which directory belongs to which preset.

    $BART_ONNX_HOME, else $XDG_CACHE_HOME/bart_onnx, else ~/.cache/bart_onnx
        bundles/KEY/PRECISION/

It knows names and directories; it opens none of them.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path


def home() -> Path:
    """The directory under which this package keeps what it makes."""
    own = os.environ.get("BART_ONNX_HOME")
    if own:
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "bart_onnx"


def bundle_path(preset: str, precision: str) -> Path:
    """The directory for the bundle of a preset's name, URI or checkpoint directory.

    A directory's key changes with the size and time of every file in it, so that a checkpoint that
    was written anew is exported anew.
    """
    directory = Path(preset).expanduser()
    key = _directory_key(directory) if directory.is_dir() else _slug(preset)
    return home() / "bundles" / key / precision


def _directory_key(directory: Path) -> str:
    directory = directory.resolve()
    digest = hashlib.sha256(str(directory).encode())
    for path in sorted(directory.iterdir()):
        status = path.stat()
        digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return f"{_slug(directory.name)}-{digest.hexdigest()[:16]}"


def _slug(text: str) -> str:
    """`text` as a file name; distinct URIs get distinct names."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "--", text).strip(".") or "preset"
