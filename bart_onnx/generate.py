"""`python -m bart_onnx.generate`: texts in, texts out. Parses, then asks."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bart_onnx.answers import Model, stream
from bart_onnx.bulk import Bulk, Outcome
from bart_onnx.bulk_flags import (
    add_asked_flags,
    add_line_flags,
    add_model_flags,
    add_record_flags,
    asked_of,
    bulk_of,
    check_record_flags,
    inputs_of,
    opened,
    prefix_of,
)
from bart_onnx.errors import InputError, InputTruncatedWarning
from bart_onnx.exit_status import exit_status
from bart_onnx.input_lines import Inputs
from bart_onnx.option_flags import asked_options
from bart_onnx.output_lines import Done, JsonLines, Output, OutputFile, PlainLines
from bart_onnx.presets import PRESETS
from bart_onnx.progress import progress
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 for an error said, or inputs that failed; 2 for wrong usage; 130 where interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    _check_usage(parser, options)
    return exit_status(
        lambda: _read_or_left(options),
        interrupted="Interrupted; what was written is kept.",
        file_error="the output could not be written: ",
    )


def _read_or_left(options: argparse.Namespace) -> int:
    try:
        with _warnings_in_a_line():
            return _run(options)
    except BrokenPipeError:
        # Whoever read the output has enough of it; nothing more is written, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: argparse.Namespace) -> int:
    inputs = _inputs(options)
    asked_options(options)  # a value out of its range is said before a model is opened
    total = inputs.count()
    output = None
    if options.output is not None:
        output = OutputFile(options.output, inputs, options.overwrite)
    lm = opened(options)
    if options.stream:
        return _stream(lm, inputs, options)
    bulk = bulk_of(lm, options)
    if output is not None:
        with output:
            lines, done = output.resumed(bulk.chunks(inputs), bulk.run)
            return _written(bulk, inputs, lines, done, total, options)
    has_objects = options.input is not None or options.details
    printed: Output = JsonLines(sys.stdout.buffer, bulk.run) if has_objects else PlainLines()
    return _written(bulk, inputs, printed, Done(), total, options)


def _written(
    bulk: Bulk, inputs: Inputs, output: Output, done: Done, total: int, options: argparse.Namespace
) -> int:
    """Generate what is not done, and say in the end what did not go well; the exit status."""
    failed, cut = done.failed, 0
    # A bar and texts on one terminal would be written over each other.
    shown = options.progress and (options.output is not None or not sys.stdout.isatty())
    with progress(total, done.inputs, shown) as advance:
        for chunk in bulk.chunks(inputs):
            if chunk[0].index < done.inputs:
                continue
            outcomes = bulk.outcomes(chunk)
            output.write(outcomes)
            advance(len(chunk))
            failed += sum(each.error is not None for each in outcomes)
            cut += sum(_is_cut(each, options) for each in outcomes)
    if cut:
        print(f"warning: {cut} of {total} texts were cut to what the model reads.", file=sys.stderr)
    if failed:
        print(f"error: {failed} of {total} texts failed; see their lines.", file=sys.stderr)
    return 1 if failed else 0


def _is_cut(outcome: Outcome, options: argparse.Namespace) -> bool:
    return outcome.is_long and outcome.error is None and options.long_input == "truncate"


def _stream(lm: OnnxBartSeq2SeqLM, inputs: Inputs, options: argparse.Namespace) -> int:
    """Print the pieces of one text as they become certain."""
    lines = list(inputs)
    if len(lines) > 1:
        raise InputError(f"--stream takes one text; {inputs.source} has {len(lines)} lines.")
    text = prefix_of(lm, options) + lines[0].text
    for piece in stream(Model(lm.runner, lm.preprocessor), text, asked_of(lm, options)):
        print(piece.replace("\n", " "), end="", flush=True)
    print(flush=True)
    return 0


def _inputs(options: argparse.Namespace) -> Inputs:
    if options.text is not None:
        return Inputs.of_stdin() if options.text == "-" else Inputs.of_text(options.text)
    if options.file is not None:
        return Inputs.of_file(options.file)
    return inputs_of(options.input, options)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Say warnings as errors are said; texts that are cut are counted instead."""

    def said(message: Warning | str, *others: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputTruncatedWarning)
        warnings.showwarning = said  # type: ignore[assignment]
        yield


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Flags that mean nothing beside each other, refused as argparse refuses."""
    if options.overwrite and options.output is None:
        parser.error("--overwrite is for a file; name it with --output")
    check_record_flags(parser, options)
    if options.stream and (options.input or options.output or options.details):
        parser.error("--stream prints one text; not with --input, --output or --details")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.generate",
        description="Generate from texts as the checkpoint's generation config says, greedily "
        "where it says nothing; nothing is drawn without --do-sample.",
        epilog=f"Built-in presets: {', '.join(PRESETS)}.",
        allow_abbrev=False,
    )
    add_model_flags(parser)
    _add_inputs(parser)
    _add_outputs(parser)
    add_asked_flags(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="a text; - reads lines from stdin")
    source.add_argument("--file", type=Path, metavar="FILE", help="one text a line, UTF-8")
    source.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="JSON objects, one a line; plain lines unless it ends in .jsonl; - reads stdin",
    )
    add_line_flags(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write JSON objects, one a line; a file that an earlier run began is gone on with",
    )
    parser.add_argument("--overwrite", action="store_true", help="begin that file anew")
    parser.add_argument("--stream", action="store_true", help="print one text as it grows")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no counts")
    add_record_flags(parser)


if __name__ == "__main__":
    sys.exit(main())
