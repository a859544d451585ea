"""From what a user calls a preset to the bundle that answers to it. It exports nothing.

A preset is a built-in name, a directory (a bundle or a checkpoint), a file that Keras saved, an
`hf://org/name[@revision]` (likewise a published bundle or a checkpoint), or a
`kaggle://org/model/keras/variant[/version]`. Bundles made from names, URIs and checkpoints are in
the store.
"""

from __future__ import annotations

from pathlib import Path

from bart_onnx import hub, kaggle
from bart_onnx.bundle import Bundle, is_bundle
from bart_onnx.errors import (
    BartOnnxError,
    BundleError,
    InputError,
    InputTypeError,
    MissingFileError,
    PresetError,
)
from bart_onnx.graphs import PRECISIONS
from bart_onnx.presets import PRESETS
from bart_onnx.store import bundle_path, preset_path, shipped_path

# Files that are a whole checkpoint: an archive, and the weights of a model alone.
CHECKPOINT_FILES = (".keras", ".weights.h5")


def find_bundle(
    preset: str, precision: str = "fp32", offline: bool = False, verify: bool = True
) -> Bundle | None:
    """The bundle of a preset in that precision, downloaded where the URI names a published one.

    Returns:
        None where the preset is known, but has to be exported first.

    Raises:
        PresetError: no preset answers to that name.
        BundleError: a bundle is there, but in another precision, damaged or too new.
        DownloadError: the hub did not answer.
    """
    check_preset(preset)
    if precision not in PRECISIONS:
        raise InputError(
            f"Precision {precision!r} is unknown; precisions: {', '.join(PRECISIONS)}."
        )
    shipped = shipped_path(preset)
    path = shipped or preset_path(preset)
    if path is not None and is_bundle(path):
        found = Bundle.open(path, verify)
        # What ships is in one precision; exports of it in others are in the store.
        if shipped is None or found.precision == precision:
            return _in_precision(found, precision, preset)
    stored = bundle_path(preset, precision)
    if is_bundle(stored):
        return _in_precision(Bundle.open(stored, verify), precision, preset)
    if hub.is_hub_uri(preset) and hub.has_bundle(preset, offline=offline):
        snapshot = hub.download_bundle(preset, offline=offline)
        return _in_precision(Bundle.open(snapshot.directory, verify), precision, preset)
    return None


def local_directory(preset: str, precision: str = "fp32") -> Path:
    """The directory of a preset's bundle on this machine, whole or damaged; nothing is opened.

    A directory is itself, whatever lies there, unless an export of it is in the store.

    Args:
        precision: of a name, a URI or a checkpoint; a bundle has its own.

    Raises:
        PresetError: no preset answers to that name, or there is no bundle of it here.
    """
    check_preset(preset)
    path = shipped_path(preset) if precision == "fp32" else None
    path = path or preset_path(preset)
    if path is not None and is_bundle(path):
        return path
    stored = bundle_path(preset, precision)
    if stored.is_dir():
        return stored
    if path is not None and path.is_dir():
        return path
    cached = hub.cached_snapshot(hub.parse_uri(preset)) if hub.is_hub_uri(preset) else None
    if cached is not None:
        return cached
    raise PresetError(
        f"Preset {preset!r} has no {precision} bundle on this machine. Export it first, or give "
        "the directory of a bundle."
    )


def tokenizer_directory(preset: str, offline: bool = False) -> Path:
    """Where a preset's tokenizer files lie, downloaded if need be; no weights are read.

    Raises:
        PresetError: no preset answers to that name, or no source of it could be had.
        MissingFileError: it has no tokenizer files.
        DownloadError: the hub did not answer.
    """
    check_preset(preset)
    path = shipped_path(preset) or preset_path(preset)
    for directory in (path, bundle_path(preset, "fp32")):
        if directory is not None and is_bundle(directory):
            return _tokenizer_of(Bundle.open(directory, verify=False))
    if preset in PRESETS:
        return _first_tokenizer(preset, offline)
    if path is not None:
        return path
    if kaggle.is_kaggle_uri(preset):
        return kaggle.download(preset, offline=offline).directory
    if hub.has_bundle(preset, offline=offline):
        return _tokenizer_of(Bundle.open(hub.download_bundle(preset, offline=offline).directory))
    return hub.download_tokenizer(preset, offline=offline)


def check_preset(preset: str) -> None:
    """Refuse what is no preset.

    Raises:
        InputTypeError: not a string.
        PresetError: neither a built-in name, a directory nor a URI; the message lists the names.
    """
    if not isinstance(preset, str):
        raise InputTypeError(f"A preset is a string, found {preset!r}.")
    path = preset_path(preset)
    if preset in PRESETS or (path is not None and path.is_dir()):
        return
    if hub.is_hub_uri(preset):
        hub.parse_uri(preset)
        return
    if kaggle.is_kaggle_uri(preset):
        kaggle.parse_uri(preset)
        return
    if path is not None:
        if path.is_file() and path.name.endswith(CHECKPOINT_FILES):
            return
        raise PresetError(
            f"Preset {preset!r} is a file. Give the directory of a bundle or a checkpoint, or a "
            f"file that Keras saved ({' or '.join(CHECKPOINT_FILES)})."
        )
    uri = hub.suggest_uri(preset)
    meant = f"; did you mean {uri!r}?" if uri else "."
    raise PresetError(
        f"Preset {preset[:200]!r} is unknown{meant} Presets are a directory, "
        f"hf://org/name[@revision], {kaggle.FORM}, or one of: {', '.join(PRESETS)}."
    )


def _first_tokenizer(preset: str, offline: bool) -> Path:
    failures = []
    for source in PRESETS[preset].sources:
        try:
            return tokenizer_directory(source, offline)
        except BartOnnxError as error:
            failures.append(f"{source}: {error}")
    raise PresetError(f"No source of preset {preset!r} could be read.\n" + "\n".join(failures))


def _tokenizer_of(bundle: Bundle) -> Path:
    if bundle.tokenizer_directory is None:
        raise MissingFileError(
            f"{bundle.path} has no tokenizer files. Pass preprocessor=None and generate from "
            "arrays, or pass a preprocessor of your own."
        )
    return bundle.tokenizer_directory


def _in_precision(bundle: Bundle, precision: str, preset: str) -> Bundle:
    if bundle.precision != precision:
        raise BundleError(
            f"{bundle.path} holds {bundle.precision}, not {precision}. Export {preset!r} in that "
            "precision, or ask for the one that is there."
        )
    return bundle
