"""Files made from a JSON object that says what is in them, so that a change of it is a whole file.

A changed byte of HDF5, a zip or a safetensors header mostly ends in the library's own checks of
that format. Here the library writes what was asked, and what ends up odd is for ours.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz_seeds import DATASETS, as_json, safetensors
from keras_files import archive_members

_WRITTEN = 1 << 12
_FAULTS = (
    *(ValueError, TypeError, KeyError, OSError, RuntimeError, OverflowError, AttributeError),
    SyntaxError,  # numpy reads a dtype as Python
)


def put_files(*names: str) -> Callable[[bytes, Path], object]:
    """Writes an input as several files, one after the other up to a NUL; none for an empty one."""

    def put(data: bytes, directory: Path) -> None:
        parts = data.split(b"\0", len(names) - 1)
        for name, part in zip_longest(names, parts, fillvalue=b""):
            path = directory / str(name)
            if part:
                path.write_bytes(part)
            else:
                path.unlink(missing_ok=True)

    return put


def put_training_state(data: bytes, path: Path) -> None:
    """A training state whose run is this JSON; behind a NUL, what is the whole file."""
    if data.startswith(b"\0"):
        path.write_bytes(data[1:])
        return
    values = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    run = data.decode("utf-8", "backslashreplace")
    path.write_bytes(safetensors(as_json({"__metadata__": {"run": run}, "values": values}), 8))


def training_states() -> list[bytes]:
    """One that `fit` leaves in its second epoch, and another version's."""
    totals = {"loss": 1.5, "places": 4, "correct": 2.0, "weight": 4.0, "tokens": 8}
    fit = {"epoch": 1, "batch": 2, "totals": totals, "history": {"loss": [0.5]}, "epochs": [0]}
    fit |= {"best": 0.5, "best_epoch": 0, "waited": 0, "stopped": False}
    run = {"format": "bart_onnx training state", "version": 1, "terms": {"seed": 0}}
    saved = as_json({**run, "position": {"steps": 6, "fit": fit}})
    header = as_json({"__metadata__": {"run": saved.decode()}})
    return [saved, as_json({**run, "version": 2}), b"\0" + safetensors(header, 0)]


def _described(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def put_hdf5(data: bytes, path: Path) -> None:
    """An HDF5 file of the datasets, links and groups that are described by name.

    What h5py does not write is left out, and so is what an object lacks.
    """
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        for name, each in list(_described(data).items())[:32]:
            with suppress(*_FAULTS):
                _put_object(file, name, each if isinstance(each, dict) else {})
        file.flush()
        path.write_bytes(file.id.get_file_image())


def _put_object(file: h5py.File, name: str, each: Mapping[str, Any]) -> None:
    if "link" in each:
        file[name] = _link(file, each["link"], each.get("to", "/"))
    elif "shape" not in each:
        file.require_group(name)
    elif each.get("null"):
        file[name] = h5py.Empty(each["null"])
    else:
        file.create_dataset(name, **_of_dataset(each))
    for key, value in dict(each.get("attributes", {})).items():
        file[name].attrs[key] = value


def _link(file: h5py.File, kind: str, target: str) -> Any:
    if kind == "soft":
        return h5py.SoftLink(target)
    if kind == "external":
        return h5py.ExternalLink("x.weights.h5", target)
    return np.dtype(target) if kind == "type" else file[target]


def _of_dataset(each: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `create_dataset`; large ones get no bytes."""
    shape, dtype = [int(size) for size in each["shape"]], np.dtype(each.get("dtype", "f4"))
    arguments: dict[str, Any] = {"shape": shape, "dtype": dtype}
    if "external" in each:
        # Without data and under one name, or HDF5 would write into any file that an input names.
        arguments["external"] = [("x.bin", *each["external"])]
    elif _written(shape, each.get("chunks")) * dtype.itemsize <= _WRITTEN and not each.get("bare"):
        arguments["data"] = np.zeros(shape, dtype)
    known = ("chunks", "compression", "maxshape", "shuffle", "fletcher32", "track_times")
    return arguments | {key: _tupled(each[key]) for key in known if key in each}


def _written(shape: Sequence[int], chunks: Any) -> int:
    """How many elements HDF5 takes memory for: a chunk is written whole."""
    return max(math.prod(shape), math.prod(chunks) if isinstance(chunks, list) else 0)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def hdf5_descriptions() -> list[bytes]:
    """The numbers of a backbone; and, of what HDF5 can, all that is refused."""
    sizes = {"shape": [2, 2], "dtype": "f4"}
    refused = {
        "a": {"link": "soft", "to": "/layers"},
        "b": {"link": "external", "to": "/"},
        "c": {"link": "hard", "to": "/layers/a/vars/0"},
        "d": {"link": "type", "to": "f4"},
        "e": {**sizes, "chunks": [1, 2], "compression": "gzip", "maxshape": [None, 2]},
        "f": {**sizes, "external": [0, 16]},
        "g": {"shape": [], "null": "f4"},
        "h": {**sizes, "bare": True},
        "i": {"shape": [1 << 40, 2]},
        "j": {"shape": [2], "dtype": "S4"},
        "k": {},
    }
    kept = {"layers/a/vars/0": {"shape": [2], "dtype": "V2", "attributes": {"dtype": "bfloat16"}}}
    honest = {name: {"shape": shape, "dtype": "f4"} for name, shape in DATASETS.items()}
    return [
        as_json(honest),
        as_json(honest | kept),
        *(as_json({**kept, name: each}) for name, each in refused.items()),
    ]


def put_archive(data: bytes, path: Path) -> None:
    """A zip of the members that are described by name: text or JSON, compression and mode."""
    file = io.BytesIO()
    with suppress(struct.error), zipfile.ZipFile(file, "w") as made:
        for name, each in list(_described(data).items())[:32]:
            with suppress(*_FAULTS, struct.error, zipfile.LargeZipFile):
                described = each if isinstance(each, dict) else {"text": str(each)}
                member = zipfile.ZipInfo(name)
                member.compress_type = described.get("type", 0)
                member.external_attr = (described.get("mode", 0) & 0xFFFF) << 16
                member.extra = bytes([*described.get("extra", [])])
                member.comment = bytes([*described.get("comment", [])])
                made.writestr(member, _text_of(described))
    path.write_bytes(file.getvalue())


def _text_of(described: Mapping[str, Any]) -> str:
    return json.dumps(described["json"]) if "json" in described else str(described.get("text", ""))


def archive_descriptions() -> list[bytes]:
    """The members of an archive that Keras saved; and a few that it would not."""
    config = {"json": json.loads(archive_members()["config.json"])}
    honest: dict[str, object] = {"config.json": config, "metadata.json": "{}"}
    honest["model.weights.h5"] = {"text": "weights", "type": 0, "mode": 0o100600}
    odd = {"assets/x": {"text": "a", "type": 8, "mode": 0o120777, "extra": [1, 0, 1, 0, 0]}}
    return [as_json(honest), as_json(honest | odd), as_json(honest | {"../x": "a"})]
