"""A bundle and its engines, looked at whole: every file, every weight, and golden requests.

It lists all that is wrong, where opening stops at the first fault.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from bart_onnx import engines, hub, kaggle, sealed
from bart_onnx.answers import Model
from bart_onnx.builder import export_command
from bart_onnx.bundle import AGAIN, Bundle
from bart_onnx.errors import BartOnnxError, GoldenError
from bart_onnx.golden import Golden
from bart_onnx.golden_replay import Decode, Replay, replay, replay_texts
from bart_onnx.presets import PRESETS


def faults(directory: Path) -> Iterator[str]:
    """What is wrong with the files of a bundle, and with the engines beside it; a line each."""
    damage = list(sealed.damage(directory, "bundle", AGAIN))
    yield from (told for _, told in damage)
    try:
        bundle = Bundle.open(directory, verify=False)
    except BartOnnxError as error:
        if not damage:
            yield str(error)
        return
    yield from spoiled_weights(bundle, {name for name, _ in damage})
    try:
        directories = list(engines.engine_directories(bundle))
    except OSError as error:
        yield f"{sealed.unreadable(engines.engines_directory(bundle), error)}."
        return
    for path in directories:
        yield from _engine_faults(path)


def spoiled_weights(bundle: Bundle, damaged: Collection[str] = ()) -> Iterator[str]:
    """The weights stored in float32 that hold NaN or infinity, a line each.

    Others were rounded from such as held none, or there would have been no export.

    Args:
        damaged: names of files that are not looked into.
    """
    for name, entry in bundle.manifest["tensors"].items():
        if isinstance(entry, Mapping) and str(entry.get("file")) in damaged:
            continue
        try:
            values = bundle.weight(name)
        except (BartOnnxError, OSError, ValueError) as error:
            yield f"{bundle.path}: weight {name!r} cannot be read: {error}"
            continue
        spoiled = values.size - int(np.isfinite(values).sum())
        if spoiled:
            yield f"{bundle.path}: {spoiled} values of weight {name!r} are not finite. {AGAIN}"


def replayed(golden: Golden, bundle: Bundle, model: Model, decode: Decode) -> Replay:
    """Golden requests asked again of an opened bundle.

    Raises:
        GoldenError: something came otherwise than it was written; the message says what, and what
            to do.
    """
    found = replay(golden, decode)
    said = [*replay_texts(golden, model), *found.differences]
    if said:
        said += spoiled_weights(bundle)
        raise GoldenError(
            "\n  ".join((f"{bundle.path} answers here otherwise than where it was made:", *said))
            + "\nIf another version of onnxruntime or another machine answers as it should, this "
            "one is at fault; else export it here, from the checkpoint: "
            f"{_export_again(bundle)}"
        )
    return found


def _export_again(bundle: Bundle) -> str:
    """The command that exports what a bundle was made of."""
    name = str(bundle.manifest["source"].get("name"))
    if name in PRESETS or hub.is_hub_uri(name) or kaggle.is_kaggle_uri(name):
        return export_command(name, bundle.precision)
    # Of a directory only the name is in the bundle: the rest is of the machine that exported.
    return f"{export_command(f'PATH/TO/{name}', bundle.precision)}, with the path that it has here"


def _engine_faults(path: Path) -> Iterator[str]:
    damage = list(sealed.damage(path, engines.WHAT, engines.AGAIN))
    yield from (told for _, told in damage)
    if not damage:
        try:
            engines.Engines.open(path, verify=False)
        except BartOnnxError as error:
            yield str(error)
