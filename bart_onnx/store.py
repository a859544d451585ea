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

from bart_onnx.errors import InputError
from bart_onnx.presets import PRESETS


def home() -> Path:
    """The directory under which this package keeps what it makes."""
    own = os.environ.get("BART_ONNX_HOME")
    if own:
        return user_path(own)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(cache) / "bart_onnx"


def user_path(text: str | Path) -> Path:
    """A path as a user writes it, with `~` and `~name` understood.

    Raises:
        InputError: `~name` names no user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text} cannot be understood as a path: {error}") from error


def preset_path(preset: str) -> Path | None:
    """The directory or file that a preset names, or None where it names none."""
    try:
        path = user_path(preset)
        return path if preset and path.exists() else None
    except (InputError, OSError, ValueError):  # a name too long, or with a NUL, is no path
        return None


def shipped_path(preset: str) -> Path | None:
    """The bundle that comes with this package under a built-in name, or None.

    In a wheel it lies in the package; in a checkout, in models/.
    """
    if preset not in PRESETS:
        return None
    package = Path(__file__).parent
    places = (package / "shipped" / preset, package.parent / "models" / preset)
    return next((place for place in places if (place / "manifest.json").is_file()), None)


def bundles_directory() -> Path:
    """The directory under which bundles are kept."""
    return home() / "bundles"


def bundle_path(preset: str, precision: str) -> Path:
    """The directory for the bundle of a preset's name, URI, or checkpoint directory or file."""
    path = preset_path(preset)
    key = _slug(preset) if path is None else _path_key(path)
    return bundles_directory() / key / precision


def identity(preset: str) -> str:
    """What tells whether two exports are of the same thing, however a user spelt it.

    A name or URI is itself. A file is its name, size and time, and a directory those of its files,
    so that a checkpoint that was written anew is another.
    """
    path = preset_path(preset)
    if path is None:
        return preset
    digest = hashlib.sha256()
    files = [path.resolve()]
    if path.is_dir():
        # A Keras preset has its tokenizer's files two directories down.
        files = sorted([*path.iterdir(), *path.glob("assets/tokenizer/*")])
    for file in files:
        status = file.stat() if file.exists() else file.lstat()
        digest.update(f"\0{file.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return f"files {digest.hexdigest()}"


def _path_key(path: Path) -> str:
    path = path.resolve()
    digest = hashlib.sha256(f"{path}\0{identity(str(path))}".encode())
    return f"{_slug(path.name)}-{digest.hexdigest()[:16]}"


def _slug(text: str) -> str:
    """`text` as a file name; where a character was replaced, with a digest that tells texts apart.

    "hf://org/name" gives "hf--org--name-" and eight digits.
    """
    name = re.sub(r"[^A-Za-z0-9._@-]+", "--", text)[:100].strip(".") or "preset"
    if name == text:
        return name
    return f"{name}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
