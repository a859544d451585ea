"""Keras presets whose weight file no Keras wrote: how to make each, and what must be said of it.

A builder gets a copy of the golden preset, changes it, and returns what is to be opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
from keras_files import arrays_of, change_json, write_arrays

EMBEDDING = "layers/reversible_embedding/vars/0"
VOCABULARY, WIDTH = 305, 32
FULL = np.zeros((VOCABULARY, WIDTH), "f4")

Builder = Callable[[Path], Path]


def hdf5(change: Callable[[h5py.File, Path], object]) -> Builder:
    """A preset whose weight file was changed."""

    def build(preset: Path) -> Path:
        with h5py.File(preset / "model.weights.h5", "r+") as file:
            change(file, preset)
        return preset

    return build


def text(name: str, content: bytes) -> Builder:
    """A preset one of whose files has another content."""

    def build(preset: Path) -> Path:
        (preset / name).write_bytes(content)
        return preset

    return build


def instead(name: str, make: Callable[[h5py.File, Path], object]) -> Builder:
    """A preset one of whose datasets is replaced."""

    def change(file: h5py.File, preset: Path) -> None:
        del file[name]
        make(file, preset)

    return hdf5(change)


def replaced(array: np.ndarray) -> Builder:
    """Another array as the embedding."""
    return instead(EMBEDDING, lambda file, preset: file.create_dataset(EMBEDDING, data=array))


def make_virtual(file: h5py.File, preset: Path) -> None:
    """A dataset made of one in another file."""
    layout = h5py.VirtualLayout((VOCABULARY, WIDTH), "f4")
    layout[:] = h5py.VirtualSource(preset / "other.h5", "x", (VOCABULARY, WIDTH))
    file.create_virtual_dataset(EMBEDDING, layout)


def make_external(file: h5py.File, preset: Path) -> None:
    """A dataset whose bytes are in another file."""
    outside = preset.parent / f"{preset.name}.bin"
    outside.write_bytes(bytes(4 * VOCABULARY * WIDTH))
    file.create_dataset(
        EMBEDDING, (VOCABULARY, WIDTH), "f4", external=[(str(outside), 0, h5py.h5f.UNLIMITED)]
    )


def make_committed(file: h5py.File, preset: Path) -> None:
    """A dataset of a type that the file names."""
    file["kind"] = np.dtype("f4")
    file.create_dataset(EMBEDDING, (VOCABULARY, WIDTH), file["kind"])


def make_nested(file: h5py.File, preset: Path) -> None:
    """Groups in groups."""
    file.create_group("/".join("g" * 1000))


def make_cycle(file: h5py.File, preset: Path) -> None:
    """A group that holds itself."""
    file["layers/again"] = file["layers"]


def make_crowd(file: h5py.File, preset: Path) -> None:
    """More groups than any BART has."""
    crowd = file.create_group("crowd")
    for number in range(1 << 16):
        crowd.create_group(str(number))


def no_data(file: h5py.File, preset: Path) -> None:
    """A dataset that says it is large and is not there."""
    file.create_dataset(EMBEDDING, (1 << 23, 1 << 15), "f4")


def no_data_as_configured(preset: Path) -> Path:
    """The same, and a config that wants it so."""
    change_json(
        preset / "config.json",
        lambda content: content["config"].update(vocabulary_size=1 << 23, hidden_dim=1 << 15),
    )
    return instead(EMBEDDING, no_data)(preset)


def compressed(file: h5py.File, preset: Path) -> None:
    """A dataset that grows a thousandfold: 256 MiB of zeros."""
    shape, chunks = (1 << 21, WIDTH), (1 << 15, WIDTH)
    dataset = file.create_dataset(EMBEDDING, shape, "f4", chunks=chunks, compression="gzip")
    for row in range(0, shape[0], chunks[0]):
        dataset[row : row + chunks[0]] = 0


def compressed_as_configured(preset: Path) -> Path:
    """The same, and a config that wants it so."""
    change_json(
        preset / "config.json", lambda content: content["config"].update(vocabulary_size=1 << 21)
    )
    return instead(EMBEDDING, compressed)(preset)


def cut(preset: Path) -> Path:
    """A weight file without its second half."""
    path = preset / "model.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return preset


def without_layer(file: h5py.File, preset: Path) -> None:
    """A group gone, and one too many."""
    del file["layers/transformer_decoder_1/_cross_attention_layer/key_dense"]
    file["layers/transformer_encoder/_lora/vars/0"] = np.zeros(3, "f4")


WEIGHT_FILES: Mapping[str, tuple[Builder, str]] = {
    "external link": (
        instead(
            EMBEDDING,
            lambda file, _: file.__setitem__(EMBEDDING, h5py.ExternalLink("/etc/x.h5", "/x")),
        ),
        "a link into another file at layers/reversible_embedding/vars/0",
    ),
    "external group": (
        hdf5(lambda file, _: file.__setitem__("more", h5py.ExternalLink("other.h5", "/"))),
        "a link into another file at more",
    ),
    "soft link": (
        instead(EMBEDDING, lambda file, _: file.__setitem__(EMBEDDING, h5py.SoftLink("/nowhere"))),
        "a soft link at layers/reversible_embedding/vars/0",
    ),
    "virtual dataset": (instead(EMBEDDING, make_virtual), "stored virtual"),
    "external storage": (instead(EMBEDDING, make_external), "data are in another file"),
    "named type": (
        hdf5(lambda file, _: file.__setitem__("kind", np.dtype("f4"))),
        "a datatype of its own at kind",
    ),
    "dataset of a named type": (instead(EMBEDDING, make_committed), "datatype|plain number"),
    "strings": (
        hdf5(lambda file, _: file.__setitem__("words", ["a", "b"])),
        "dataset words of a type that is no plain number",
    ),
    "references": (
        hdf5(lambda file, _: file.create_dataset("links", (2,), h5py.ref_dtype)),
        "no plain number",
    ),
    "records": (
        hdf5(lambda file, _: file.__setitem__("rows", np.zeros(2, [("a", "f4")]))),
        "no plain number",
    ),
    "no shape": (hdf5(lambda file, _: file.__setitem__("none", h5py.Empty("f4"))), "without a sha"),
    "second link": (hdf5(lambda file, _: file.__setitem__("x", file[EMBEDDING])), "a second link"),
    "cycle": (hdf5(make_cycle), "a second link to one object"),
    "deep": (hdf5(make_nested), "groups over 12 deep"),
    "long name": (
        hdf5(lambda file, _: file.create_group(f"{'a' * 300}/{'b' * 300}")),
        "a name of over 512 characters",
    ),
    "crowd": (hdf5(make_crowd), "over 65536 objects"),
    "shape without data": (instead(EMBEDDING, no_data), "needs 1099511627776 bytes and has 0"),
    "shape without data, configured": (no_data_as_configured, "needs 1099511627776 bytes and has"),
    "chunks without data": (
        instead(
            EMBEDDING,
            lambda file, _: file.create_dataset(EMBEDDING, (1 << 40, 32), "f4", chunks=(64, 32)),
        ),
        "stored in chunks",
    ),
    "compressed": (instead(EMBEDDING, compressed), "stored in chunks, compressed or not"),
    "compressed, configured": (compressed_as_configured, "stored in chunks, compressed or not"),
    "cut": (cut, "cannot be read as HDF5"),
    "no hdf5": (text("model.weights.h5", b"PK\x03\x04" * 100), "cannot be read as HDF5"),
    "empty": (text("model.weights.h5", b""), "cannot be read as HDF5"),
    "wrong shape": (
        replaced(np.zeros((VOCABULARY + 1, WIDTH), "f4")),
        r"1 of wrong shape: layers/reversible_embedding/vars/0 \[306, 32\], expected \[305, 32\]",
    ),
    "wrong rank": (replaced(FULL.reshape(-1)), r"1 of wrong shape: .* \[9760\], expected"),
    "float64": (replaced(FULL.astype("f8")), "a dtype other than .*: .*vars/0 float64"),
    "int8": (replaced(FULL.astype("i1")), "a dtype other than float32, float16, bfloat16: .* int8"),
    "big-endian": (replaced(FULL.astype(">f4")), "a dtype other than"),
    "opaque": (replaced(FULL.astype("f2").view("V2")), "a dtype other than .* opaque"),
    "groups": (
        hdf5(without_layer),
        "2 missing: layers/transformer_decoder_1/_cross_attention_layer/key_dense/vars/0, "
        ".*key_dense/vars/1; 1 unexpected: layers/transformer_encoder/_lora/vars/0",
    ),
    "twice": (
        hdf5(lambda file, _: file.__setitem__(f"backbone/{EMBEDDING}", FULL)),
        "which are the same weight",
    ),
    "weights of nothing": (
        lambda preset: write_arrays(preset / "x.weights.h5", {"dense/vars/0": FULL}),
        "tells no BART's numbers",
    ),
    "weights of too much": (
        lambda preset: write_arrays(
            preset / "x.weights.h5",
            {
                **arrays_of(preset / "model.weights.h5"),
                "layers/transformer_encoder_5000/vars/0": FULL,
            },
        ),
        "num_layers = 5001",
    ),
}
