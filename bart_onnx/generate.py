"""`python -m bart_onnx.generate`: text in, text out, one line each. Parses, then asks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bart_onnx.errors import BartOnnxError, InputError, MissingFileError
from bart_onnx.locate import PRECISIONS
from bart_onnx.presets import PRESETS
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error said, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        texts = _texts(options)
        _check_length(options.max_length)
        written = [text for text in texts if text.strip()]
        lm = OnnxBartSeq2SeqLM.from_preset(
            options.preset,
            precision=options.precision,
            threads=options.threads,
            offline=options.offline,
        )
        lm.compile(sampler="greedy")
        generated = lm.generate(
            written,
            max_length=_default_length(lm) if options.max_length is None else options.max_length,
            long_input=options.long_input,
        )
        _print(texts, generated)
    except BartOnnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has enough of it; nothing more is written, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: the output could not be written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _print(texts: list[str], generated: Iterable[str]) -> None:
    """One line for each text, empty for a blank one; a line break inside becomes a blank."""
    results = iter(generated)
    for text in texts:
        print(" ".join(next(results).split("\n")) if text.strip() else "")
    sys.stdout.flush()


def _check_length(max_length: int | None) -> None:
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length is {max_length}; give at least 1.")


def _default_length(lm: OnnxBartSeq2SeqLM) -> int | None:
    """The checkpoint's own longest output, where its generation config names one."""
    length = lm.runner.bundle.generation_config.get("max_length")
    return min(length, lm.config.max_sequence_length) if isinstance(length, int) else None


def _texts(options: argparse.Namespace) -> list[str]:
    if options.file is not None:
        return _lines(str(options.file), _read(options.file))
    if options.text == "-":
        return _lines("standard input", sys.stdin.buffer.read())
    return _lines("the text", options.text.replace("\n", " ").encode(errors="surrogateescape"))


def _lines(source: str, content: bytes) -> list[str]:
    """The lines. Only a newline ends one: a text may hold other separators."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{source} cannot be read as UTF-8 text: {error}") from error
    if not text.strip():
        raise InputError(f"There is no text to generate from: all of {source} is blank.")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.generate",
        description="Generate from texts, greedily, one line of output for each.",
        epilog=f"Built-in presets: {', '.join(PRESETS)}.",
    )
    parser.add_argument("--preset", required=True, metavar="NAME|URI|DIRECTORY", help="the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="a text; - reads lines from stdin")
    source.add_argument("--file", type=Path, metavar="FILE", help="one text a line, UTF-8")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="TOKENS",
        help="longest output, counting its two start tokens; default: max_length of the "
        "checkpoint's generation config, else the model's positions",
    )
    parser.add_argument(
        "--long-input",
        choices=("error", "truncate"),
        default="error",
        help="what becomes of a text longer than the model reads; default: error",
    )
    parser.add_argument("--threads", type=int, help="default: the cores this process may use")
    parser.add_argument("--offline", action="store_true", help="no network, and no export")
    return parser


if __name__ == "__main__":
    sys.exit(main())
