"""`python -m bart_onnx.export`: a checkpoint goes in, a bundle comes out. Parses, then asks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bart_onnx.builder import export_bundle, export_engines, export_triton
from bart_onnx.exit_status import exit_status
from bart_onnx.graphs import PRECISIONS
from bart_onnx.presets import PRESETS
from bart_onnx.server.options import served_name
from bart_onnx.store import home

_TRITON = "triton"
_ENGINES = ("compute_capabilities", "max_batch", "max_source", "max_tokens")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error said, 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    engines = {name: value for name in _ENGINES if (value := getattr(options, name)) is not None}
    _check_usage(parser, options, engines)
    return exit_status(
        lambda: _print_exported(options, engines),
        interrupted="Interrupted; a bundle is there whole, or not at all.",
    )


def _print_exported(options: argparse.Namespace, engines: Mapping[str, Any]) -> int:
    print(*_exported(options, engines), sep="\n")
    return 0


def _exported(options: argparse.Namespace, engines: Mapping[str, Any]) -> list[Path]:
    """The directories of the bundle and its engines, or of Triton's models."""
    asked: dict[str, Any] = {
        "preset": options.preset,
        "output": options.output,
        "precision": options.precision,
        "allow_pickle": options.allow_pickle,
        "offline": options.offline,
        "show_progress": not options.quiet,
        "examples": options.examples,
        "accept_quality_loss": options.accept_quality_loss,
    }
    if options.layout == _TRITON:
        return export_triton(name=served_name(options.preset), **asked)
    if not options.tensorrt:
        return [export_bundle(**asked).path]
    bundle, directories = export_engines(**asked, **engines)
    return [bundle.path, *directories]


def _check_usage(
    parser: argparse.ArgumentParser, options: argparse.Namespace, engines: Mapping[str, Any]
) -> None:
    """Flags that mean nothing beside each other, refused as argparse refuses."""
    if engines and not options.tensorrt:
        parser.error(f"--{next(iter(engines)).replace('_', '-')} is of --tensorrt")
    if options.layout == _TRITON and options.output is None:
        parser.error("--layout triton needs the model repository; name it with --output")
    if options.layout == _TRITON and options.tensorrt:
        parser.error("--tensorrt builds engines of a bundle; not with --layout triton")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.export",
        description="Export a BART checkpoint to a bundle of ONNX graphs.",
        epilog=f"Built-in presets: {', '.join(PRESETS)}. "
        "Needs torch: pip install 'bart_onnx[cpu,export,hub]'.",
    )
    _add_checkpoint(parser)
    _add_bundle(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    _add_engines(parser)
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        required=True,
        metavar="NAME|URI|DIRECTORY",
        help="a built-in preset, hf://org/name[@revision], or the directory of a checkpoint",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read pytorch_model.bin where there is no safetensors file; torch loads it with "
        "weights_only in a process of its own",
    )
    parser.add_argument("--offline", action="store_true", help="take downloads from the cache only")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help=f"where the bundle goes; else into the store, under {home()}, where from_preset looks",
    )
    parser.add_argument(
        "--layout",
        choices=("bundle", _TRITON),
        default="bundle",
        help="triton: --output is a model repository, to which two models over the bundle are "
        "added (docs/scale_out.md); no torch is needed where there is a bundle. default: bundle",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FILE",
        help='JSONL of "text" and "summary": what a precision loses is measured on it, and refused '
        "if it is much",
    )
    parser.add_argument(
        "--accept-quality-loss",
        action="store_true",
        help="publish what loses more than allowed; manifest and card say so",
    )


def _add_engines(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TensorRT", "Needs pip install 'bart_onnx[tensorrt]'.")
    group.add_argument("--tensorrt", action="store_true", help="build engines of the bundle too")
    group.add_argument(
        "--compute-capability",
        nargs="+",
        dest="compute_capabilities",
        metavar="NAME",
        help="the cards they are for, as in sm89; else the GPU that is here",
    )
    for name, what in (
        ("--max-batch", "rows decoded together"),
        ("--max-source", "tokens of a source"),
        ("--max-tokens", "tokens that a row may come to have"),
    ):
        group.add_argument(name, type=int, metavar="N", help=f"the most {what}")


if __name__ == "__main__":
    sys.exit(main())
