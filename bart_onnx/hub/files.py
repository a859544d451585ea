"""Which files of a repository are needed. It knows names, no network and no content but indexes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from bart_onnx.bundle import MANIFEST, SEAL
from bart_onnx.errors import CheckpointError, DownloadError, MissingFileError
from bart_onnx.hub.uri import HubUri

CONFIG = "config.json"
OPTIONAL = ("generation_config.json", "tokenizer.json", "vocab.json", "merges.txt")
# One file, or an index that names several; safetensors before pickles.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

ReadJson = Callable[[str], Mapping[str, Any]]


def holds_bundle(names: Collection[str]) -> bool:
    """Whether files of these names are an exported bundle."""
    return MANIFEST in names and SEAL in names


def needed_files(
    uri: HubUri, names: Collection[str], read_json: ReadJson, allow_pickle: bool
) -> list[str]:
    """The files to download, small ones first; `read_json` reads one of the repository's files.

    Raises:
        MissingFileError: a file that is needed is not in the repository.
        CheckpointError: the weights are pickles only, and `allow_pickle` is False.
        DownloadError: a manifest or index names no files.
    """
    if holds_bundle(names):
        listed = _table(uri, MANIFEST, read_json(MANIFEST), "files")
        needed = [MANIFEST, SEAL, *(_checked(uri, MANIFEST, name) for name in listed)]
    else:
        optional = [name for name in OPTIONAL if name in names]
        needed = [CONFIG, *optional, *_weights(uri, names, read_json, allow_pickle)]
    missing = sorted(set(needed) - set(names))
    if missing:
        raise MissingFileError(
            f"{uri} needs {some(missing)}, but has only {some(names)}; choose another repository "
            "or revision, or ask its author."
        )
    return list(dict.fromkeys(needed))


def some(names: Collection[str], limit: int = 12) -> str:
    """Names for a message."""
    shown = ", ".join(repr(name) for name in sorted(names)[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (shown + more) or "no files"


def _weights(
    uri: HubUri, names: Collection[str], read_json: ReadJson, allow_pickle: bool
) -> list[str]:
    candidates = (*WEIGHTS, *PICKLES) if allow_pickle else WEIGHTS
    for name in candidates:
        if name in names:
            if not name.endswith(".index.json"):
                return [name]
            shards = _table(uri, name, read_json(name), "weight_map").values()
            return [name, *sorted({_checked(uri, name, shard) for shard in shards})]
    if any(name in names for name in PICKLES):
        raise CheckpointError(
            f"{uri} has its weights only as a pickle, a format that can run code when it is read, "
            "so it is neither downloaded nor read unasked. If you trust its author, pass "
            "--allow-pickle, or convert it to safetensors."
        )
    raise MissingFileError(
        f"{uri} has no weights that can be read ({' or '.join(WEIGHTS)}), only {some(names)}; "
        "choose another repository or revision."
    )


def _table(uri: HubUri, name: str, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = content.get(key)
    if not isinstance(table, Mapping) or not table:
        raise DownloadError(f"{name} of {uri} lists no {key}; tell the repository's author.")
    return table


def _checked(uri: HubUri, name: str, file: object) -> str:
    """`file`, if it is a plain relative path."""
    if isinstance(file, str) and file and "\\" not in file and "\0" not in file:
        path = PurePosixPath(file)
        if not path.is_absolute() and ".." not in path.parts and str(path) == file:
            return file
    raise DownloadError(
        f"{name} of {uri} names {str(file)[:80]!r}, which is no file of the repository; "
        "tell its author."
    )
