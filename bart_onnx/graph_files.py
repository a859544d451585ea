"""What an ONNX file refers to, looked at before any engine opens it. It knows no BART.

A graph may name other files as its weights, operators of any library, and functions of its own;
those of a bundle name one file beside them and operators of two domains. The fields are those of
onnx.proto (github.com/onnx/onnx); Google's protobuf, which onnxruntime needs too, reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from bart_onnx.errors import BundleDamagedError, BundleError, MissingFileError
from bart_onnx.file_places import fault_of

# Weights lie beside a graph; one of 1,000 layers has some 20 MB.
_LARGEST = 64 << 20
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_OPSET = 24
_KEYS = {"location", "offset", "length", "checksum"}
_AGAIN = "Export the checkpoint again, or download the bundle again."

# Message -> field -> number and kind: what is looked at. All else is skipped when it is read.
_FIELDS = {
    "Model": {
        "opset_import": (8, "Opset"),
        "graph": (7, "Graph"),
        "training_info": (20, "bytes"),
        "functions": (25, "bytes"),
    },
    "Opset": {"domain": (1, "bytes"), "version": (2, "int64")},
    "Graph": {
        "node": (1, "Node"),
        "initializer": (5, "Tensor"),
        "sparse_initializer": (15, "bytes"),
    },
    "Node": {"attribute": (5, "Attribute"), "domain": (7, "bytes")},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "Tensor"),
        "graphs": (11, "Graph"),
        "sparse_tensor": (22, "bytes"),
        "sparse_tensors": (23, "bytes"),
    },
    "Tensor": {"name": (8, "bytes"), "external_data": (13, "Entry")},
    "Entry": {"key": (1, "bytes"), "value": (2, "bytes")},
}


def check_graph_file(path: Path) -> None:
    """Refuse an ONNX file that refers to more than regular files beside it and known operators.

    Raises:
        MissingFileError: it is not there.
        BundleDamagedError: it is no ONNX file.
        BundleError: it has functions, sparse tensors, an unknown domain or a newer opset, or
            external data that lie elsewhere, outside their file, or are told of in an unknown way.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is not there. {_AGAIN}")
    if path.stat().st_size > _LARGEST:
        raise _refused(path, f"{path.stat().st_size} bytes; a graph has at most {_LARGEST}")
    from google.protobuf.message import DecodeError

    try:
        model = _model().FromString(path.read_bytes())
    except DecodeError:
        raise BundleDamagedError(f"{path} cannot be read as ONNX. {_AGAIN}") from None
    if model.functions or model.training_info:
        raise _refused(path, "functions or training steps of its own")
    for opset in model.opset_import:
        for domain in opset.domain:
            _check_domain(path, domain)
        if any(version > _OPSET for version in opset.version):
            raise _refused(path, f"opset {list(opset.version)}; expected at most {_OPSET}")
    for graph in model.graph:
        for tensor in _tensors(path, graph):
            if tensor.external_data:
                _check_external(path, tensor)


def _tensors(path: Path, graph: Any) -> Iterator[Any]:
    """Every tensor of a graph and of those in it; their operators are checked on the way."""
    if graph.sparse_initializer:
        raise _refused(path, "sparse tensors")
    yield from graph.initializer
    for node in graph.node:
        for domain in node.domain:
            _check_domain(path, domain)
        for attribute in node.attribute:
            if attribute.sparse_tensor or attribute.sparse_tensors:
                raise _refused(path, "sparse tensors")
            yield from attribute.t
            yield from attribute.tensors
            for inner in (*attribute.g, *attribute.graphs):
                yield from _tensors(path, inner)


def _check_domain(path: Path, domain: bytes) -> None:
    if domain.decode("utf-8", "replace") not in _DOMAINS:
        raise _refused(path, f"operators of the domain {domain[:80]!r}; known: {_DOMAINS}")


def _check_external(path: Path, tensor: Any) -> None:
    name = b"".join(tensor.name)[:80]
    entries = {}
    for entry in tensor.external_data:
        key, value = (
            b"".join(each).decode("utf-8", "replace") for each in (entry.key, entry.value)
        )
        if key not in _KEYS or key in entries or len(entry.key) > 1 or len(entry.value) > 1:
            raise _refused(path, f"external data of {name!r} with the key {key[:40]!r}")
        entries[key] = value
    location = entries.get("location", "")
    plain = location not in ("", ".", "..") and not {"/", "\\", "\0"} & set(location)
    if not plain or len(location) > 200:
        raise _refused(path, f"{name!r} in {location[:80]!r}, which is no file beside it")
    fault = fault_of(path.parent, location)
    if fault is not None:
        raise _refused(path, f"{name!r} in {location!r}, which {fault}")
    size = (path.parent / location).stat().st_size
    spans = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(each.isascii() and each.isdigit() and len(each) < 19 for each in spans):
        raise _refused(path, f"{name!r} at {spans!r:.80}, which is no place in {location!r}")
    if sum(map(int, spans)) > size:
        raise _refused(path, f"{name!r} at {spans}, outside the {size} bytes of {location!r}")


@cache
def _model() -> Any:
    """The class that reads a model, with the fields above and no others."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="graph_files", package="graph_files")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            # All repeated, so that nothing is hidden behind a second one: readers differ in that.
            added = message.field.add(name=field, number=number, label=kinds.LABEL_REPEATED)
            if kind in _FIELDS:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".graph_files.{kind}"
            else:
                added.type = kinds.TYPE_BYTES if kind == "bytes" else kinds.TYPE_INT64
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("graph_files.Model"))


def _refused(path: Path, found: str) -> BundleError:
    return BundleError(
        f"{path} holds {found}. It is not what this package exports, and is not opened. {_AGAIN}"
    )
