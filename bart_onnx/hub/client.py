"""Speaks to the hub through huggingface_hub and reads its cache; every fault becomes ours.

It knows no URI syntax and not which files matter. The environment (HF_ENDPOINT, HF_HOME,
HF_HUB_CACHE, HF_HUB_OFFLINE) is read at each call, which huggingface_hub does only when imported.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from bart_onnx.errors import (
    BartOnnxError,
    DownloadError,
    InputError,
    MissingFileError,
    MissingPackageError,
)
from bart_onnx.hub.abandoned import remove_abandoned
from bart_onnx.hub.failures import translate
from bart_onnx.hub.uri import HubUri
from bart_onnx.json_objects import LIMIT, read_object

_logger = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
_MAIN = "main"
_TRUE = {"1", "ON", "YES", "TRUE"}
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit: name to bytes.

    `cached` is the snapshot that was listed where only the cache may be used; else None.
    """

    uri: HubUri
    commit: str
    sizes: Mapping[str, int]
    cached: Path | None = None


def endpoint() -> str:
    """The hub's address."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def cache_directory() -> Path:
    """Where huggingface_hub keeps downloads, by the same variables in the same order."""
    environment = os.environ
    home = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or os.path.join(home, "huggingface")
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(cache or os.path.join(home, "hub"))).expanduser()


def is_offline(offline: bool) -> bool:
    """Whether only the cache may be used: asked for, or by the environment."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return offline or asked.upper() in _TRUE


def list_files(uri: HubUri, offline: bool) -> Listing:
    """What a repository holds.

    Raises:
        PresetError: there is no such repository or revision.
        DownloadError: the hub did not answer or refused; offline, the cache has no copy.
        MissingPackageError: huggingface_hub is not installed.
    """
    if is_offline(offline):
        return _list_cache(uri)
    hub = _package()
    with _translated(uri):
        api = hub.HfApi(endpoint=endpoint(), library_name="bart_onnx")
        found = api.model_info(uri.repository, revision=uri.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
        commit = found.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise DownloadError(
            f"{endpoint()} answered for {uri} with commit {commit[:60]!r}, which is none; check "
            "that HF_ENDPOINT is the address of a hub."
        )
    return Listing(uri, commit, sizes)


def read_json(listing: Listing, name: str) -> dict[str, Any]:
    """The content of a small JSON file of the repository, downloaded if need be.

    Raises:
        DownloadError: it could not be downloaded or is no JSON object.
    """
    if listing.sizes.get(name, 0) > LIMIT:
        raise DownloadError(
            f"{name} of {listing.uri} has {listing.sizes[name]} bytes, more than any such file; "
            "tell the repository's author."
        )
    path = listing.cached / name if listing.cached else _fetch_one(listing, name)
    try:
        return read_object(path)
    except OSError as error:
        raise DownloadError(
            f"{name} of {listing.uri} cannot be read ({error}); tell the repository's author."
        ) from error
    except InputError as error:
        raise DownloadError(
            f"{name} of {listing.uri} {error}; tell the repository's author."
        ) from None


def missing_bytes(listing: Listing, names: Sequence[str]) -> int:
    """How many bytes of these files are not in the cache."""
    snapshot = _snapshot(listing.uri, listing.commit)
    return sum(listing.sizes[name] for name in names if not (snapshot / name).is_file())


def fetch(listing: Listing, names: Sequence[str], optional: Sequence[str] = ()) -> Path:
    """Bring these files into the cache; returns the snapshot's directory.

    `optional` are names that the repository may have: offline, one that it has and the cache
    lacks is an error, so that an interrupted download is not taken for a whole one.

    Raises:
        DownloadError: the hub did not answer, refused or stopped, or the disk is full.
        MissingFileError: a file was listed, and is not there.
    """
    hub = _package()
    if listing.cached is None:
        remove_abandoned(_repository(listing.uri))
        _check_space(listing, names)
    with _translated(listing.uri, offline=listing.cached is not None):
        directory = Path(
            hub.snapshot_download(
                listing.uri.repository,
                revision=listing.uri.revision or _MAIN,
                cache_dir=cache_directory(),
                endpoint=endpoint(),
                library_name="bart_onnx",
                local_files_only=listing.cached is not None,
                allow_patterns=[glob.escape(name) for name in (*names, *optional)],
            )
        )
    if directory.name != listing.commit:
        raise DownloadError(
            f"{listing.uri} moved from commit {listing.commit} to {directory.name} while it was "
            "downloaded; run it again."
        )
    for name in names:
        size = (directory / name).stat().st_size if (directory / name).is_file() else None
        if size != listing.sizes[name]:
            raise MissingFileError(
                f"{name} of {listing.uri} should have {listing.sizes[name]} bytes, but "
                f"{directory} has {'none' if size is None else size}; remove that directory and "
                "download it again."
            )
    return directory


def _package() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingPackageError(
            "hf:// presets need huggingface_hub, which is not installed; run "
            'pip install "bart_onnx[hub]".'
        ) from error
    return huggingface_hub


@contextmanager
def _translated(uri: HubUri, offline: bool = False) -> Iterator[None]:
    try:
        yield
    except BartOnnxError:
        raise
    except Exception as error:  # a network library's faults are many; the cause stays in the log
        _logger.debug("huggingface_hub failed for %s", uri, exc_info=error)
        cached = _cached_commit(uri) if cached_snapshot(uri) else None
        raise translate(error, uri, endpoint(), cached, offline) from None


def _fetch_one(listing: Listing, name: str) -> Path:
    hub = _package()
    with _translated(listing.uri):
        return Path(
            hub.hf_hub_download(
                listing.uri.repository,
                name,
                revision=listing.commit,
                cache_dir=cache_directory(),
                endpoint=endpoint(),
                library_name="bart_onnx",
            )
        )


def _check_space(listing: Listing, names: Sequence[str]) -> None:
    needed = missing_bytes(listing, names)
    place = cache_directory()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DownloadError(
            f"{listing.uri} needs {needed} bytes in {cache_directory()}, and its disk has {free} "
            "free; make room, or set HF_HOME to a directory on another disk."
        )


def _list_cache(uri: HubUri) -> Listing:
    snapshot = cached_snapshot(uri)
    if snapshot is None:
        raise DownloadError(
            f"{uri} was asked for offline, and {cache_directory()} has no copy of it; run once "
            "without --offline (and without HF_HUB_OFFLINE)."
        )
    sizes = {
        path.relative_to(snapshot).as_posix(): path.stat().st_size
        for path in snapshot.rglob("*")
        if path.is_file()
    }
    return Listing(uri, snapshot.name, sizes, cached=snapshot)


def cached_snapshot(uri: HubUri) -> Path | None:
    """The directory in the cache of what a URI named when it was last asked for, or None."""
    commit = _cached_commit(uri)
    snapshot = _snapshot(uri, commit) if commit else None
    return snapshot if snapshot and snapshot.is_dir() else None


def _cached_commit(uri: HubUri) -> str | None:
    revision = uri.revision or _MAIN
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        commit = (_repository(uri) / "refs" / revision).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _snapshot(uri: HubUri, commit: str) -> Path:
    return _repository(uri) / "snapshots" / commit


def _repository(uri: HubUri) -> Path:
    return cache_directory() / f"models--{uri.repository.replace('/', '--')}"
