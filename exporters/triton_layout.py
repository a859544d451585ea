"""A bundle as a model repository for Triton's Python backend: two models over one copy of weights.

    NAME/           answers whole, over any of Triton's routes; it asks the other
    NAME_stream/    decoupled; 1/bundle is the bundle, decoded by bart_onnx's scheduler

It knows no Triton: what the two files of a model say is written here, and read there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from bart_onnx.bundle import Bundle
from bart_onnx.publish import staged
from bart_onnx.triton_contract import BUNDLE, INPUT, MODEL, OUTPUT, STREAM

_CODE = """\
# What Triton's Python backend looks for; bart_onnx[cpu,serve] must be installed for its Python.
from bart_onnx.server.{module} import TritonPythonModel as TritonPythonModel
"""
# One instance: it takes any number of requests at a time, and another would load the weights again.
_CONFIG = """\
backend: "python"
max_batch_size: 0
input [ {{ name: "{input}" data_type: TYPE_STRING dims: [ -1 ] }} ]
output [ {{ name: "{output}" data_type: TYPE_STRING dims: [ -1 ] }} ]
model_transaction_policy {{ decoupled: {decoupled} }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
_PARAMETER = "parameters {{ key: {} value {{ string_value: {} }} }}\n"


def write_models(bundle: Bundle, name: str, repository: Path) -> list[Path]:
    """Add two models to a repository, each there whole or not at all; their directories.

    Raises:
        ExportError: one of them is there already, or the disk is full.
    """
    decoupled, plain = repository / f"{name}{STREAM}", repository / name
    with staged(decoupled) as staging:
        _write(staging, "triton_model", "true", {"precision": bundle.precision})
        shutil.copytree(bundle.path, staging / "1" / BUNDLE)
    with staged(plain) as staging:
        _write(staging, "triton_front", "false", {MODEL: decoupled.name})
    return [plain, decoupled]


def _write(directory: Path, module: str, decoupled: str, parameters: Mapping[str, str]) -> None:
    (directory / "1").mkdir()
    (directory / "1" / "model.py").write_text(_CODE.format(module=module), encoding="utf-8")
    config = _CONFIG.format(input=INPUT, output=OUTPUT, decoupled=decoupled)
    # A text of protobuf's text format has the escapes of one in JSON.
    told = [_PARAMETER.format(*map(json.dumps, each)) for each in parameters.items()]
    (directory / "config.pbtxt").write_text(config + "".join(told), encoding="utf-8")
