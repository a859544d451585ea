"""`kaggle://org/model/keras/variant[/version]`: a Keras preset, downloaded into kagglehub's cache.

It asks kagglehub for one file after the other, as KerasHub does, so the two share what either
downloaded. It knows URIs, which files a preset has, and kagglehub's cache; it reads no weights.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from bart_onnx.errors import (
    BartOnnxError,
    CheckpointError,
    DownloadError,
    InputError,
    InputTypeError,
    MissingFileError,
    MissingPackageError,
    PresetError,
)
from bart_onnx.hub.client import is_offline
from bart_onnx.hub.files import CONFIG, KERAS_INDEX, KERAS_OPTIONAL, KERAS_WEIGHTS, keras_shards
from bart_onnx.json_objects import read_object

_logger = logging.getLogger(__name__)

SCHEME = "kaggle://"
FORM = "kaggle://org/model/keras/variant[/version]"

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_URI = re.compile(f"{SCHEME}({_NAME})/({_NAME})/([A-Za-z0-9]+)/({_NAME})(?:/([1-9][0-9]{{0,8}}))?")
_LOGIN = (
    "Accept its terms on its page at Kaggle if it has any, and set KAGGLE_API_TOKEN, or "
    "KAGGLE_USERNAME and KAGGLE_KEY, to yours"
)

# The file of that name in the preset, or None where the preset has none.
Find = Callable[[str], Path | None]


@dataclass(frozen=True)
class KaggleUri:
    """A variant of a model on Kaggle, and the version asked for (None: the newest)."""

    organization: str
    model: str
    variant: str
    version: int | None = None

    @property
    def handle(self) -> str:
        """What kagglehub calls it."""
        version = f"/{self.version}" if self.version else ""
        return f"{self.organization}/{self.model}/keras/{self.variant}{version}"

    def __str__(self) -> str:
        return f"{SCHEME}{self.handle}"


@dataclass(frozen=True)
class KagglePreset:
    """What was downloaded: the URI with its version, and the directory; do not write to it."""

    uri: KaggleUri
    directory: Path


def is_kaggle_uri(preset: object) -> bool:
    """Whether a preset is meant as a Kaggle URI, well-formed or not."""
    return isinstance(preset, str) and preset.startswith(SCHEME)


def parse_uri(uri: str) -> KaggleUri:
    """The parts of a URI.

    Raises:
        InputTypeError: it is no string.
        PresetError: it is not of the form that the message shows, or not of a Keras model.
    """
    if not isinstance(uri, str):
        raise InputTypeError(f"A Kaggle URI is a string, found {type(uri).__name__}.")
    match = _URI.fullmatch(uri)
    if match is None or ".." in uri:
        raise PresetError(f"{uri[:200]!r} is no Kaggle URI; expected {FORM}.")
    organization, model, framework, variant, version = match.groups()
    if framework != "keras":
        raise PresetError(
            f"{uri!r} is a model for {framework!r}, and only Keras presets can be read; "
            f"expected {FORM}."
        )
    return KaggleUri(organization, model, variant, int(version) if version else None)


def download(uri: str, *, offline: bool = False) -> KagglePreset:
    """Download the files of a Keras preset, where they are not in kagglehub's cache.

    Args:
        uri: `kaggle://org/model/keras/variant[/version]`.
        offline: use the cache only, as HF_HUB_OFFLINE=1 does; without a version, the newest there.

    Raises:
        PresetError: the URI is malformed, or Kaggle has no such model or version.
        MissingFileError: the preset lacks a file that is needed.
        DownloadError: Kaggle did not answer or refused, the disk is full, or `offline` and the
            cache has no whole copy.
        MissingPackageError: kagglehub is not installed.
    """
    wanted = parse_uri(uri)
    if is_offline(offline):
        return _cached(wanted)
    package = _package()
    config = _fetch(package, wanted, CONFIG, absent=(404,))
    if config is None:
        raise PresetError(
            f"{wanted} is unknown: Kaggle has no such model, variant or version, or it has no "
            f"{CONFIG} and is no Keras preset. Check the name (expected {FORM})."
        )
    found = wanted
    if config.parent.name.isdecimal():
        # All files from the version that the first one came from, whatever is published meanwhile.
        found = replace(wanted, version=int(config.parent.name))
    _need_all(found, lambda name: _fetch(package, found, name))
    return KagglePreset(found, config.parent)


def cache_directory() -> Path:
    """Where kagglehub keeps models, by the variable that it reads."""
    cache = os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub"
    return Path(cache).expanduser() / "models"


def _need_all(uri: KaggleUri, find: Find) -> None:
    """Find every file of a preset; config.json has been found."""
    for name in KERAS_OPTIONAL:
        find(name)
    if find(KERAS_WEIGHTS) is not None:
        return
    index = find(KERAS_INDEX)
    if index is None:
        raise MissingFileError(
            f"{uri} has neither {KERAS_WEIGHTS} nor {KERAS_INDEX}; choose another variant or "
            "version."
        )
    for name in keras_shards(uri, _read_index(uri, index)):
        if find(name) is None:
            raise MissingFileError(
                f"{uri} lists {name!r} in {KERAS_INDEX}, but has no such file; choose another "
                "version."
            )


def _cached(uri: KaggleUri) -> KagglePreset:
    variant = cache_directory() / uri.organization / uri.model / "keras" / uri.variant
    versions = [uri.version] if uri.version else _cached_versions(variant)
    for version in versions:
        directory = variant / str(version)
        find = _cache_finder(variant, directory)
        if find(CONFIG) is not None:
            found = replace(uri, version=version)
            try:
                _need_all(found, find)
            except MissingFileError as error:
                raise DownloadError(
                    f"{uri} was asked for offline, and {directory} has only a part of it "
                    f"({error}); run once without --offline (and without HF_HUB_OFFLINE)."
                ) from error
            return KagglePreset(found, directory)
    raise DownloadError(
        f"{uri} was asked for offline, and {variant} has no copy of it; run once without --offline "
        "(and without HF_HUB_OFFLINE)."
    )


def _cached_versions(variant: Path) -> list[int]:
    """Versions in the cache, the newest first."""
    try:
        names = [path.name for path in variant.iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _cache_finder(variant: Path, directory: Path) -> Find:
    """Finds files that kagglehub marked as whole: one by one, or all of a version at once."""
    whole = (variant / f"{directory.name}.complete").exists()

    def find(name: str) -> Path | None:
        marker = variant / ".complete" / directory.name / f"{name}.complete"
        path = directory / name
        return path if (whole or marker.exists()) and path.is_file() else None

    return find


def _package() -> ModuleType:
    try:
        # Its messages go for ever where the standard output is now, which is for text.
        with redirect_stdout(sys.stderr):
            import kagglehub
    except ImportError as error:
        raise MissingPackageError(
            "kaggle:// presets need kagglehub, which is not installed; run "
            'pip install "bart_onnx[hub]".'
        ) from error
    package: ModuleType = kagglehub
    return package


def _fetch(
    package: ModuleType, uri: KaggleUri, name: str, absent: tuple[int, ...] = (403, 404)
) -> Path | None:
    """A file of a preset, or None where Kaggle answers with a status that means it has none.

    Of a model that it gave config.json of, Kaggle says 403 too for a file that is not there.
    """
    with _translated(uri):
        try:
            # kagglehub writes there that there is a newer one of it.
            with redirect_stdout(sys.stderr):
                path = Path(package.model_download(uri.handle, path=name))
        except Exception as error:
            # The second is what a notebook at Kaggle, where models are mounted, gets.
            if _status(error) in absent or "is not present in the model files" in str(error):
                return None
            raise
    return path if path.is_file() else None


def _read_index(uri: KaggleUri, path: Path) -> dict[str, object]:
    try:
        return {**read_object(path)}
    except (OSError, InputError) as error:
        raise CheckpointError(
            f"{KERAS_INDEX} of {uri} cannot be read ({error}); remove {path} and try again."
        ) from error


@contextmanager
def _translated(uri: KaggleUri) -> Iterator[None]:
    try:
        yield
    except BartOnnxError:
        raise
    except Exception as error:  # a network library's faults are many; the cause stays in the log
        _logger.debug("kagglehub failed for %s", uri, exc_info=error)
        raise DownloadError(_explanation(error, uri)) from None


def _explanation(error: Exception, uri: KaggleUri) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    status = _status(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk was full while {uri} was downloaded; make room, or set KAGGLEHUB_CACHE to a "
            "directory on another disk."
        )
    if status in (401, 403) or names & {"UnauthenticatedError", "CredentialError"}:
        return (
            f"Kaggle refused {uri} ({found}): there is no such model, or it may not be read by "
            f"all. {_LOGIN}."
        )
    if "redentials" in str(error):
        return f"Your Kaggle credentials cannot be used for {uri} ({found}). {_LOGIN}."
    if status is not None:
        return f"Kaggle answered HTTP {status} for {uri} ({found}); try again later."
    if "DataCorruptionError" in names:
        return f"What Kaggle sent of {uri} is damaged ({found}); try again."
    return (
        f"{uri} could not be had from Kaggle ({found}). Check the network and try again; what was "
        "downloaded before is used with --offline or HF_HUB_OFFLINE=1."
    )


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
