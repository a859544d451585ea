"""`hf://org/name[@revision]`: a published bundle or a checkpoint, downloaded into the hub's cache.

It knows URIs and which order things are done in; `files` says which files are needed and
`client` speaks to the hub. It reads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bart_onnx.errors import InputTypeError, PresetError
from bart_onnx.hub import client, files
from bart_onnx.hub.client import Listing, cached_snapshot
from bart_onnx.hub.uri import HubUri, is_hub_uri, parse_uri, suggest_uri

__all__ = [
    "HubUri",
    "Snapshot",
    "cached_snapshot",
    "download_bundle",
    "download_checkpoint",
    "download_size",
    "has_bundle",
    "is_hub_uri",
    "parse_uri",
    "suggest_uri",
]


@dataclass(frozen=True)
class Snapshot:
    """What was downloaded.

    Attributes:
        uri: where from.
        directory: holds the files (and perhaps others of the same commit); do not write to it.
        revision: the commit that the URI's revision named, 40 hexadecimal digits.
        size: bytes of all files needed, downloaded now or before.
        files: their names in `directory`.
    """

    uri: HubUri
    directory: Path
    revision: str
    size: int
    files: tuple[str, ...]


def has_bundle(uri: str, *, offline: bool = False) -> bool:
    """Whether the repository holds an exported bundle.

    Raises:
        PresetError, DownloadError, MissingPackageError: as `download_checkpoint`.
    """
    return files.holds_bundle(client.list_files(_parsed(uri), offline).sizes)


def download_bundle(uri: str, *, offline: bool = False) -> Snapshot:
    """Download a published bundle: its manifest, seal, and every file that the manifest lists.

    Raises:
        PresetError: the repository holds no bundle; or as `download_checkpoint`.
    """
    listing = client.list_files(_parsed(uri), offline)
    if not files.holds_bundle(listing.sizes):
        raise PresetError(
            f"{uri} was asked for as a bundle, but has {files.some(listing.sizes)}; "
            f"export it first: python -m bart_onnx.export --preset {uri}"
        )
    return _download(listing, allow_pickle=False)


def download_checkpoint(uri: str, *, allow_pickle: bool = False, offline: bool = False) -> Snapshot:
    """Download what is needed to export: a checkpoint's files, or a bundle's, if it is one.

    Of a checkpoint these are config.json, generation_config.json, the tokenizer's files, and the
    weights as safetensors; as pickles only with `allow_pickle` and where there is nothing else. Of
    a Keras preset they are its JSON files, its tokenizer's, and the weights as HDF5.

    Args:
        uri: `hf://org/name[@revision]`; the revision is a branch, tag or commit.
        allow_pickle: take pickled weights too.
        offline: use the cache only, as HF_HUB_OFFLINE=1 does.

    Raises:
        PresetError: the URI is malformed, or there is no such repository or revision.
        MissingFileError: the repository lacks a file that is needed.
        CheckpointError: its weights are pickles only, and those are not allowed.
        DownloadError: the hub did not answer or refused, the disk is full, or `offline` and the
            cache has no whole copy.
        MissingPackageError: huggingface_hub is not installed.
    """
    return _download(client.list_files(_parsed(uri), offline), allow_pickle)


def download_tokenizer(uri: str, *, offline: bool = False) -> Path:
    """Download the small files of a checkpoint, its tokenizer's among them, and no weights.

    Raises:
        As `download_checkpoint`.
    """
    listing = client.list_files(_parsed(uri), offline)
    names = [name for name in (files.CONFIG, *files.OPTIONAL) if name in listing.sizes]
    return client.fetch(listing, names)


@dataclass(frozen=True)
class DownloadSize:
    """Bytes of the files needed, and of those among them that the cache lacks."""

    needed: int
    missing: int


def download_size(uri: str, *, allow_pickle: bool = False, offline: bool = False) -> DownloadSize:
    """What `download_checkpoint` would download now.

    It fetches the repository's listing and, for shards and bundles, the file that lists them.

    Raises:
        As `download_checkpoint`.
    """
    listing = client.list_files(_parsed(uri), offline)
    names = _needed(listing, allow_pickle)
    needed = sum(listing.sizes[name] for name in names)
    return DownloadSize(needed, client.missing_bytes(listing, names))


def _parsed(uri: str) -> HubUri:
    if not isinstance(uri, str):
        raise InputTypeError(f"A hub URI is a string, found {type(uri).__name__}.")
    return parse_uri(uri)


def _needed(listing: Listing, allow_pickle: bool) -> list[str]:
    return files.needed_files(
        listing.uri, listing.sizes, lambda name: client.read_json(listing, name), allow_pickle
    )


def _download(listing: Listing, allow_pickle: bool) -> Snapshot:
    names = _needed(listing, allow_pickle)
    optional = () if files.holds_bundle(listing.sizes) else files.OPTIONAL
    directory = client.fetch(listing, names, optional)
    size = sum(listing.sizes[name] for name in names)
    return Snapshot(listing.uri, directory, listing.commit, size, tuple(names))
