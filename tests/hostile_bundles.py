"""Bundles that no export wrote: how to make each, and what must be said of it.

A builder gets a copy of the shipped preset's bundle, changes it, and seals it again as its writer
would; what it returns is to be opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from bart_onnx.publish import seal
from bart_onnx.sealed import MANIFEST

WEIGHTS = "weights.bin"
GRAPH = "encoder.onnx"
Builder = Callable[[Path], Path]


def sealed(change: Callable[[Path], object]) -> Builder:
    """A bundle whose files were changed before it was sealed."""

    def build(bundle: Path) -> Path:
        change(bundle)
        manifest = json.loads((bundle / MANIFEST).read_text())
        manifest.pop("files")
        (bundle / MANIFEST).unlink()
        seal(bundle, manifest, {})
        return bundle

    return build


def graph(change: Callable[[Any, Path], object]) -> Builder:
    """A bundle whose encoder was changed."""

    def rewrite(bundle: Path) -> None:
        model = onnx.load(bundle / GRAPH, load_external_data=False)
        change(model, bundle)
        (bundle / GRAPH).write_bytes(model.SerializeToString())

    return sealed(rewrite)


def external(**entries: str) -> Builder:
    """A bundle one of whose weights is told to be somewhere else."""

    def change(model: Any, bundle: Path) -> None:
        tensor = next(each for each in model.graph.initializer if each.external_data)
        found = {entry.key: entry.value for entry in tensor.external_data} | entries
        del tensor.external_data[:]
        for key, value in found.items():
            tensor.external_data.add(key=key, value=value)

    return graph(change)


def link(name: str, make: Callable[[Path, Path], object], outside: bytes) -> Builder:
    """A bundle with a link to a file beside it, which a weight is told to be in."""

    def build(bundle: Path) -> Path:
        target = bundle.parent / f"{bundle.name}.outside"
        target.write_bytes(outside)
        make(target, bundle / name)
        return external(location=name)(bundle)

    return build


def _symlink(target: Path, place: Path) -> None:
    place.symlink_to(target)


def linked_weights(bundle: Path) -> Path:
    """The weights themselves as a link to the same bytes elsewhere."""
    outside = bundle.parent / f"{bundle.name}.weights"
    os.rename(bundle / WEIGHTS, outside)
    (bundle / WEIGHTS).symlink_to(outside)
    return bundle


def hard_linked_weights(bundle: Path) -> Path:
    """A second name, in the weights' place, of a secret of the same size."""
    secret = bundle.parent / f"{bundle.name}.secret"
    secret.write_bytes(bytes((bundle / WEIGHTS).stat().st_size))
    (bundle / WEIGHTS).unlink()
    os.link(secret, bundle / WEIGHTS)
    return bundle


def in_a_subgraph(model: Any, bundle: Path) -> None:
    """A weight outside, in a branch that is never taken."""
    tensor = helper.make_tensor("secret", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside.bin")
    inner = helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node.append(
        helper.make_node("If", ["never"], ["nothing"], then_branch=inner, else_branch=inner)
    )


def in_an_attribute(model: Any, bundle: Path) -> None:
    """A weight outside, as a constant's value."""
    tensor = TensorProto(name="secret", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/hostname")
    model.graph.node.append(helper.make_node("Constant", [], ["nothing"], value=tensor))


def of_a_domain(model: Any, bundle: Path) -> None:
    """An operator of somebody's library."""
    model.graph.node[0].domain = "ai.onnx.contrib"


def of_an_opset(model: Any, bundle: Path) -> None:
    """Operators that are not there yet."""
    model.opset_import[0].version = 99


def of_an_unknown_opset(model: Any, bundle: Path) -> None:
    """Operators of somebody's library, imported only."""
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def with_functions(model: Any, bundle: Path) -> None:
    """A function that is called Gemm."""
    node = helper.make_node("Identity", ["a"], ["b"])
    opset = helper.make_opsetid("", 24)
    model.functions.append(helper.make_function("ai.onnx", "Gemm", ["a"], ["b"], [node], [opset]))


def with_sparse_tensors(model: Any, bundle: Path) -> None:
    """A tensor of 4 TB with nothing in it."""
    nothing = helper.make_tensor("s", TensorProto.FLOAT, [0], [])
    indices = helper.make_tensor("i", TensorProto.INT64, [0], [])
    sparse = helper.make_sparse_tensor(nothing, indices, [1 << 40])
    model.graph.sparse_initializer.append(sparse)


def with_generation_config(**values: object) -> Builder:
    """A bundle that asks for something at each generation."""
    return sealed(lambda bundle: (bundle / "generation_config.json").write_text(json.dumps(values)))


def of_the_manifest(change: Callable[[dict[str, Any]], object]) -> Builder:
    """A bundle whose manifest says something else."""

    def build(bundle: Path) -> Path:
        manifest = json.loads((bundle / MANIFEST).read_text())
        change(manifest)
        seal_as(bundle, json.dumps(manifest).encode())
        return bundle

    return build


def bomb(content: bytes) -> Builder:
    """A bundle whose manifest is large or nested."""

    def build(bundle: Path) -> Path:
        seal_as(bundle, content)
        return bundle

    return build


def seal_as(bundle: Path, manifest: bytes) -> None:
    """Write a manifest as it is given, and its seal."""
    import hashlib

    (bundle / MANIFEST).write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    (bundle / "manifest.sha256").write_text(f"{digest}  {MANIFEST}\n")


BUNDLES: Mapping[str, tuple[Builder, str]] = {
    "onnx data above": (external(location="../outside.bin"), "which is no file beside it"),
    "onnx data anywhere": (external(location="/etc/hostname"), "which is no file beside it"),
    "onnx data below": (external(location="tokenizer/vocab.json"), "which is no file beside it"),
    "onnx data by backslash": (external(location="..\\outside.bin"), "which is no file beside it"),
    "onnx data hidden by dots": (external(location="x/../../y"), "which is no file beside it"),
    "onnx data is the folder": (external(location="."), "which is no file beside it"),
    "onnx data nowhere": (external(location="absent.bin"), "which is not there"),
    "onnx data in a folder": (external(location="tokenizer"), "must be a file"),
    "onnx data by symlink": (
        link("more.bin", _symlink, bytes(8 << 20)),
        "outside its directory",
    ),
    "onnx data by hard link": (hard_linked_weights, "weights.bin has sha256"),
    "onnx data linked whole": (linked_weights, "outside its directory"),
    "onnx offset outside": (external(offset=str(1 << 40)), "outside the .* bytes of"),
    "onnx length outside": (external(length=str(1 << 40)), "outside the .* bytes of"),
    "onnx offset negative": (external(offset="-4"), "which is no place in"),
    "onnx offset overflowing": (external(offset=str((1 << 64) - 4)), "which is no place in"),
    "onnx unknown key": (external(basepath="/etc"), "with the key 'basepath'"),
    "onnx data in a branch": (graph(in_a_subgraph), "which is no file beside it"),
    "onnx data in a constant": (graph(in_an_attribute), "which is no file beside it"),
    "onnx unknown domain": (graph(of_a_domain), "operators of the domain b'ai.onnx.contrib'"),
    "onnx unknown import": (graph(of_an_unknown_opset), "operators of the domain b'com.evil'"),
    "onnx opset": (graph(of_an_opset), r"opset \[99\]; expected at most 24"),
    "onnx functions": (graph(with_functions), "functions or training steps"),
    "onnx sparse bomb": (graph(with_sparse_tensors), "sparse tensors"),
    "onnx is none": (
        sealed(lambda bundle: (bundle / GRAPH).write_bytes(b"\xff" * 64)),
        "cannot be read as ONNX",
    ),
    "manifest above": (
        of_the_manifest(lambda manifest: manifest["files"].update({"../x": {"size": 1}})),
        "outside the bundle",
    ),
    "manifest large": (bomb(b" " * (16 << 20)), "more than any manifest"),
    "manifest deep": (bomb(b'{"a":' * 101 + b"1" + b"}" * 101), "nested over 100 deep"),
    "manifest of objects": (bomb(b"[" + b"{}," * (1 << 20) + b"0]"), "lists and objects"),
    "generation by code": (
        with_generation_config(logits_processor="os.system"),
        "logits_processor must",
    ),
    "generation by a function": (
        with_generation_config(prefix_allowed_tokens_fn={"class_name": "Lambda"}),
        "prefix_allowed_tokens_fn must be a function",
    ),
}
