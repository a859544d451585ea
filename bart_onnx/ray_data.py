"""`python -m bart_onnx.ray_data`: a corpus through many copies of a model, on Ray Data.

Each stretch of inputs becomes one file of JSON lines, there whole or not at all. A run that goes on
from another does the stretches that have no file. Ray is imported when it is asked for.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bulk import Bulk
from bart_onnx.bulk_flags import (
    add_asked_flags,
    add_line_flags,
    add_model_flags,
    add_record_flags,
    bulk_of,
    check_record_flags,
    inputs_of,
    opened,
)
from bart_onnx.durable import replaced
from bart_onnx.errors import InputError, InputTruncatedWarning, MissingPackageError
from bart_onnx.exit_status import exit_status
from bart_onnx.input_lines import Inputs, Line
from bart_onnx.option_flags import asked_options
from bart_onnx.output_lines import Done, JsonLines, OutputFile
from bart_onnx.presets import PRESETS
from bart_onnx.server.options import check_least

Columns = dict[str, NDArray[Any]]

_PART = "part-{:08d}.jsonl"


class Predictor:
    """For `Dataset.map_batches`: gives each batch the column "generated", and "error".

    Args:
        arguments: flags of this module but `--input`, `--output` and those of Ray, as a list.
        column: where the texts are.

    Raises:
        BartOnnxError: a flag that cannot be used; see `OnnxBartSeq2SeqLM.from_preset` also.
    """

    def __init__(self, arguments: Sequence[str], column: str = "text") -> None:
        flags = _model_parser().parse_args(arguments)
        self._bulk, self._column = bulk_of(opened(flags), flags), column

    def __call__(self, batch: Columns) -> Columns:
        """Texts [rows] in; the same rows with texts and errors, "" where there are none."""
        texts = batch[self._column].tolist()
        lines = [Line(index, index + 1, text) for index, text in enumerate(texts)]
        found = [each for chunk in self._bulk.chunks(lines) for each in self._bulk.outcomes(chunk)]
        generated = np.array([each.texts[0] for each in found], object)
        errors = np.array([each.error or "" for each in found], object)
        return {**batch, "generated": generated, "error": errors}


@dataclass(frozen=True)
class Stretch:
    """Inputs that become one file."""

    number: int
    lines: list[Line]

    def path(self, directory: Path) -> Path:
        """Where its results go."""
        return directory / _PART.format(self.number)


@dataclass(frozen=True)
class Actors:
    """Copies of the model, and what each takes.

    Raises:
        InputError: a value out of its range.
    """

    count: int
    cpus: float
    gpus: float

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--actors", self.count, 1),
            ("--actor-cpus", self.cpus, 0),
            ("--actor-gpus", self.gpus, 0),
        ):
            check_least(name, value, least)


class Writer:
    """Writes a stretch's file; what Ray makes copies of.

    Args:
        flags: of this module, parsed.
        directory: as every machine of the cluster sees it.
    """

    def __init__(self, flags: argparse.Namespace, directory: Path) -> None:
        warnings.simplefilter("ignore", InputTruncatedWarning)
        self._bulk, self._directory = bulk_of(opened(flags), flags), directory

    def __call__(self, row: Mapping[str, Stretch]) -> dict[str, int]:
        """Inputs done, and how many of them failed."""
        return self.write(row["item"])

    def write(self, stretch: Stretch) -> dict[str, int]:
        """Decode a stretch and give its file its name when all of it is on the disk."""
        outcomes = self._bulk.outcomes(stretch.lines)
        # Two may write the same, when one of them was taken for dead: the same bytes.
        with replaced(stretch.path(self._directory)) as file:
            JsonLines(file, self._bulk.run).write(outcomes)
        failed = sum(each.error is not None for each in outcomes)
        return {"inputs": len(outcomes), "failed": failed}


def left(
    directory: Path, inputs: Inputs, bulk: Bulk, overwrite: bool
) -> tuple[list[Stretch], Done]:
    """The stretches that have no file yet, and what the others hold.

    Raises:
        InputError: a file is of another run, or of other inputs, or of none of them.
    """
    stretches = [Stretch(number, lines) for number, lines in enumerate(bulk.chunks(inputs))]
    _sweep(directory, {each.path(directory) for each in stretches}, overwrite)
    waiting, kept = [], Done()
    for stretch in stretches:
        done = _done(stretch, directory, inputs, bulk.run)
        if done.inputs == len(stretch.lines):
            kept = Done(kept.inputs + done.inputs, kept.failed + done.failed)
        else:
            waiting.append(stretch)
    return waiting, kept


def _sweep(directory: Path, own: set[Path], overwrite: bool) -> None:
    """Remove what killed writers left; with `overwrite` also what finished ones did."""
    for path in directory.iterdir():
        unfinished = path.name.startswith(".part-")
        if unfinished or (overwrite and path.match("part-*.jsonl")):
            path.unlink()
        elif path not in own:
            raise InputError(
                f"--output {directory} has {path.name}, which these inputs do not lead to. Give "
                "the inputs and options that it was begun with, another directory, or --overwrite."
            )


def _done(stretch: Stretch, directory: Path, inputs: Inputs, run: str) -> Done:
    path = stretch.path(directory)
    if not path.exists():
        return Done()
    with OutputFile(path, inputs, overwrite=False) as file:
        return file.resumed([stretch.lines], run)[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 for an error said, or inputs that failed; 2 for wrong usage; 130 where interrupted.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    check_record_flags(parser, flags)
    return exit_status(
        lambda: _run(flags), interrupted="Interrupted; finished files are kept.", file_error=""
    )


def _run(flags: argparse.Namespace) -> int:
    inputs = inputs_of(flags.input, flags)
    # A value out of its range is said before a model is opened.
    asked_options(flags)
    actors = Actors(flags.actors, flags.actor_cpus, flags.actor_gpus)
    total = inputs.count()
    # An actor's share of a machine, not all of it.
    flags.threads = flags.threads or max(1, int(actors.cpus))
    directory = flags.output.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    # The model is let go before the actors open theirs.
    waiting, done = left(directory, inputs, bulk_of(opened(flags), flags), flags.overwrite)
    failed = done.failed
    if waiting:
        failed += _written(waiting, flags, actors, directory)
    print(
        f"{total - done.inputs} of {total} texts done now, {done.inputs} before.", file=sys.stderr
    )
    if failed:
        print(f"error: {failed} of {total} texts failed; see their lines.", file=sys.stderr)
    return 1 if failed else 0


def _written(
    stretches: list[Stretch], flags: argparse.Namespace, actors: Actors, directory: Path
) -> int:
    """Have actors write them; how many inputs failed."""
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(
            f"A run on Ray Data needs {error.name}, which is not installed; run "
            'pip install "bart_onnx[cpu,ray]".'
        ) from error
    ray.init(address=flags.address, include_dashboard=False, log_to_driver=False)
    dataset = ray.data.from_items(stretches, override_num_blocks=len(stretches))
    found = dataset.map(
        Writer,
        fn_constructor_args=(flags, directory),
        concurrency=min(actors.count, len(stretches)),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
    )
    return sum(row["failed"] for row in found.take_all())


def _model_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.ray_data",
        description="Generate from the lines of a file, with copies of a model on the machines of "
        "a Ray cluster. The output is a directory of files of JSON lines; a run that was stopped "
        "is gone on with by the same command.",
        epilog=f"Built-in presets: {', '.join(PRESETS)}.",
        allow_abbrev=False,
    )
    add_model_flags(parser)
    add_line_flags(parser)
    add_record_flags(parser)
    add_asked_flags(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _model_parser()
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="a text a line")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIRECTORY", help="on a disk that all share"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew")
    group = parser.add_argument_group("Ray")
    group.add_argument("--address", help="of a cluster; else one is started here")
    group.add_argument("--actors", type=int, default=1, metavar="N", help="copies of the model")
    group.add_argument("--actor-cpus", type=float, default=1, metavar="X", help="of each copy")
    group.add_argument("--actor-gpus", type=float, default=0, metavar="X", help="of each copy")
    return parser


if __name__ == "__main__":
    sys.exit(main())
