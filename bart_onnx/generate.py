"""`python -m bart_onnx.generate`: text in, text out, one line each. Parses, then asks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
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
        lm = OnnxBartSeq2SeqLM.from_preset(
            options.preset,
            precision=options.precision,
            threads=options.threads,
            offline=options.offline,
        )
        lm.compile(sampler="greedy")
        generated = lm.generate(
            texts,
            max_length=options.max_length or _default_length(lm),
            long_input=options.long_input,
        )
        print(*generated, sep="\n")
    except BartOnnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _default_length(lm: OnnxBartSeq2SeqLM) -> int | None:
    """The checkpoint's own longest output, where its generation config names one."""
    length = lm.runner.bundle.generation_config.get("max_length")
    return min(length, lm.config.max_sequence_length) if isinstance(length, int) else None


def _texts(options: argparse.Namespace) -> list[str]:
    if options.file is not None:
        return list(_lines(_read(options.file)))
    if options.text == "-":
        return list(_lines(sys.stdin.read()))
    return [options.text]


def _lines(content: str) -> Iterator[str]:
    """The lines that are not blank. Only a newline ends one: a text may hold other separators."""
    lines = [line for line in content.split("\n") if line.strip()]
    if not lines:
        raise InputError("There is no text to generate from: every line is blank.")
    yield from lines


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error


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
