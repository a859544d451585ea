"""The plan of an export, in order: claim the place, read the checkpoint, build, publish.

torch is imported only when the checkpoint's files have been read and found sound.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

from bart_onnx.bundle import Bundle, is_bundle
from bart_onnx.errors import ExportError
from bart_onnx.publish import check_free, claim, publish, remove_abandoned
from bart_onnx.store import bundle_path, bundles_directory, identity, preset_path, user_path
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.progress import Progress, cost
from exporters.sources import open_checkpoint


def export(
    preset: str,
    output: Path | None = None,
    *,
    precision: str = "fp32",
    allow_pickle: bool = False,
    offline: bool = False,
    show_progress: bool = True,
    examples: Path | None = None,
    accept_quality_loss: bool = False,
) -> Path:
    """Export a checkpoint to a bundle and return the bundle's directory.

    Args:
        examples: JSONL of texts and summaries to measure a precision's loss on; else it is
            measured on random tokens.
        accept_quality_loss: publish what loses more than allowed, and record it.

    Two exports to one place do the work once: the second waits, and takes what the first made.

    Raises:
        ExportError: the output is taken, the disk is full, or the graphs are not what torch
            computes. Nothing was published.
        CheckpointError, MissingFileError, PresetError, DownloadError: see `open_checkpoint`.
    """
    started = time.monotonic()
    progress = Progress(show_progress)
    target = _place(preset, precision, output)
    remove_abandoned(bundles_directory())
    with claim(target) as staging:
        if _is_there(target, preset, precision):
            progress.say(f"Already exported: {target}")
            return target
        check_free(target)
        with closing(open_checkpoint(preset, allow_pickle, offline, progress)) as checkpoint:
            progress.say(f"Exporting {checkpoint.source}: {cost(checkpoint.weight_bytes)}")
            _fill(staging, preset, checkpoint, precision, (examples, accept_quality_loss), progress)
        publish(staging, target)
    progress.say(f"Exported in {time.monotonic() - started:.0f} s: {target}")
    return target


def _place(preset: str, precision: str, output: Path | None) -> Path:
    place = bundle_path(preset, precision) if output is None else user_path(output)
    return Path(os.path.realpath(place))


def _fill(
    staging: Path,
    preset: str,
    checkpoint: Checkpoint,
    precision: str,
    terms: tuple[Path | None, bool],
    progress: Progress,
) -> None:
    """A bundle and its golden requests, in an empty directory."""
    from exporters.assembly import build
    from exporters.golden import add_golden
    from exporters.quality import Terms

    path = preset_path(preset)
    name = preset if path is None else path.resolve().name
    build(name, identity(preset), checkpoint, precision, staging, progress, terms=Terms(*terms))
    progress.say(f"Golden requests written: {add_golden(staging)}")


def _is_there(target: Path, preset: str, precision: str) -> bool:
    """Whether this checkpoint's bundle is there already; another's is refused."""
    if not is_bundle(target):
        return False
    bundle = Bundle.open(target, verify=False)
    source = bundle.manifest["source"]
    if source.get("identity") != identity(preset) or bundle.precision != precision:
        raise ExportError(
            f"{bundle.path} already holds a {bundle.precision} bundle of {source.get('name')!r}, "
            "as it was when it was exported. Remove it, or choose another output."
        )
    return True
