"""A bundle and its engines, looked at whole: every file, every weight, and golden requests.

It lists all that is wrong, where opening stops at the first fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bart_onnx import engines, sealed
from bart_onnx.answers import Model
from bart_onnx.builder import export_command
from bart_onnx.bundle import AGAIN, Bundle
from bart_onnx.errors import BartOnnxError, GoldenError
from bart_onnx.golden import Golden
from bart_onnx.golden_replay import Decode, Replay, replay, replay_texts


def faults(directory: Path) -> Iterator[str]:
    """What is wrong with the files of a bundle, and with the engines beside it; a line each.

    Raises:
        OSError: a directory cannot be read.
    """
    damage = list(sealed.damage(directory, "bundle", AGAIN))
    yield from damage
    try:
        bundle = Bundle.open(directory, verify=False)
    except BartOnnxError as error:
        if not damage:
            yield str(error)
        return
    yield from spoiled_weights(bundle)
    for path in engines.engine_directories(bundle):
        yield from _engine_faults(path)


def spoiled_weights(bundle: Bundle) -> Iterator[str]:
    """The weights stored in float32 that hold NaN or infinity, a line each.

    Others were rounded from such as held none, or there would have been no export.
    """
    for name in bundle.manifest["tensors"]:
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
            f"{export_command(str(bundle.manifest['source'].get('name')), bundle.precision)}"
        )
    return found


def _engine_faults(path: Path) -> Iterator[str]:
    damage = list(sealed.damage(path, engines.WHAT, engines.AGAIN))
    yield from damage
    if not damage:
        try:
            engines.Engines.open(path, verify=False)
        except BartOnnxError as error:
            yield str(error)
