"""Which files of a repository are needed. It knows names, no network and no content but indexes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from bart_onnx.errors import CheckpointError, DownloadError, MissingFileError
from bart_onnx.hub.uri import HubUri
from bart_onnx.sealed import MANIFEST, SEAL

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
_OPTIONAL = (GENERATION_CONFIG, "tokenizer.json", "vocab.json", "merges.txt")
KERAS_OPTIONAL = (
    "tokenizer.json",
    "preprocessor.json",
    "task.json",
    "assets/tokenizer/vocabulary.json",
    "assets/tokenizer/merges.txt",
)
OPTIONAL = tuple(dict.fromkeys((*_OPTIONAL, *KERAS_OPTIONAL)))
# One file, or an index that names several; safetensors before pickles.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
KERAS_WEIGHTS, KERAS_INDEX = "model.weights.h5", "model.weights.json"

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
    elif _is_keras(names, read_json):
        # Not one of Keras' own files, so Kaggle is never asked for it: kagglehub would ask again
        # each time for a file that is not there.
        known = (*KERAS_OPTIONAL, GENERATION_CONFIG)
        optional = [name for name in known if name in names]
        weights = [KERAS_WEIGHTS]
        if KERAS_WEIGHTS not in names:
            weights = [KERAS_INDEX, *keras_shards(uri, read_json(KERAS_INDEX))]
        needed = [CONFIG, *optional, *weights]
    else:
        optional = [name for name in _OPTIONAL if name in names]
        needed = [CONFIG, *optional, *_weights(uri, names, read_json, allow_pickle)]
    missing = sorted(set(needed) - set(names))
    if missing:
        raise MissingFileError(
            f"{uri} needs {some(missing)}, but has only {some(names)}; choose another repository "
            "or revision, or ask its author."
        )
    return list(dict.fromkeys(needed))


def keras_shards(uri: object, index: Mapping[str, Any]) -> list[str]:
    """The files that a Keras preset's index names.

    Raises:
        DownloadError: it names none, or one that is no file of the repository.
    """
    values = _table(uri, KERAS_INDEX, index, "weight_map").values()
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return sorted({_checked(uri, KERAS_INDEX, name) for name in names})


def some(names: Collection[str], limit: int = 12) -> str:
    """Names for a message."""
    shown = ", ".join(f"{name!r:.200}" for name in sorted(names)[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (shown + more) or "no files"


def _is_keras(names: Collection[str], read_json: ReadJson) -> bool:
    """Whether this is a Keras preset; a repository with weights of both kinds is what its
    config.json says it is.
    """
    if CONFIG not in names or not {KERAS_WEIGHTS, KERAS_INDEX} & set(names):
        return False
    others = {*WEIGHTS, *PICKLES} & set(names)
    return not others or "registered_name" in read_json(CONFIG)


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


def _table(uri: object, name: str, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = content.get(key)
    if not isinstance(table, Mapping) or not table:
        raise DownloadError(f"{name} of {uri} lists no {key}; tell the repository's author.")
    return table


def _checked(uri: object, name: str, file: object) -> str:
    """`file`, if it is a plain relative path."""
    if isinstance(file, str) and file and "\\" not in file and "\0" not in file:
        path = PurePosixPath(file)
        if not path.is_absolute() and ".." not in path.parts and str(path) == file:
            return file
    raise DownloadError(
        f"{name} of {uri} names {str(file)[:80]!r}, which is no file of the repository; "
        "tell its author."
    )
