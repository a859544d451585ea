"""A bundle as a model repository for Triton's Python backend: two models over one copy of weights.

    NAME/           answers whole, over any of Triton's routes; it asks the other
    NAME_stream/    decoupled; 1/bundle is the bundle, decoded by bart_onnx's scheduler

It knows no Triton: what the two files of a model say is written here, and read there. Triton takes
every directory of a repository for a model, hidden ones too, so they are made beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bart_onnx.bundle import Bundle
from bart_onnx.durable import make_directory
from bart_onnx.errors import BartOnnxError
from bart_onnx.publish import check_free, claim, publish_all
from bart_onnx.sealed import MANIFEST, SEAL
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


@dataclass(frozen=True)
class _Model:
    """A model's files by name, and the bundle in it, if there is one."""

    files: Mapping[str, str]
    bundle: Bundle | None = None

    def write(self, directory: Path) -> None:
        """Write it into a directory that is not there."""
        (directory / "1").mkdir(parents=True)
        for name, text in self.files.items():
            (directory / name).write_text(text, encoding="utf-8")
        if self.bundle is None:
            return
        # shutil.copytree goes on when the disk is full, and does not tell in the end that it was.
        for name in (*self.bundle.manifest["files"], MANIFEST, SEAL):
            path = directory / "1" / BUNDLE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.bundle.path / name, path)

    def is_at(self, directory: Path) -> bool:
        """Whether a directory holds just this model, whole."""
        with suppress(OSError, UnicodeDecodeError, BartOnnxError):
            texts = {name: (directory / name).read_text(encoding="utf-8") for name in self.files}
            there = self.bundle and Bundle.open(directory / "1" / BUNDLE).manifest
            return texts == self.files and there == (self.bundle and self.bundle.manifest)
        return False


def write_models(bundle: Bundle, name: str, repository: Path) -> list[Path]:
    """Add two models to a repository, both or none; their directories.

    One that is there already, as after a kill between the two, is left as it is.

    Raises:
        ExportError: something else is there, or the disk is full. Nothing was published.
    """
    repository = Path(os.path.realpath(repository))
    decoupled, plain = f"{name}{STREAM}", name
    models = {
        decoupled: _model("triton_model", "true", {"precision": bundle.precision}, bundle),
        plain: _model("triton_front", "false", {MODEL: decoupled}),
    }
    with claim(repository) as staging:
        missing = [each for each in models if not models[each].is_at(repository / each)]
        for each in missing:
            check_free(repository / each)
        for each in missing:
            models[each].write(staging / each)
        make_directory(repository)
        places = {staging / each: repository / each for each in missing}
        publish_all(places, repository / decoupled / "1" / BUNDLE)
    return [repository / plain, repository / decoupled]


def _model(
    module: str, decoupled: str, parameters: Mapping[str, str], bundle: Bundle | None = None
) -> _Model:
    config = _CONFIG.format(input=INPUT, output=OUTPUT, decoupled=decoupled)
    # A text of protobuf's text format has the escapes of one in JSON.
    told = [_PARAMETER.format(*map(json.dumps, each)) for each in parameters.items()]
    files = {"1/model.py": _CODE.format(module=module), "config.pbtxt": config + "".join(told)}
    return _Model(files, bundle)
