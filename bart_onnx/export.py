"""`python -m bart_onnx.export`: a checkpoint goes in, a bundle comes out. Parses, then asks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bart_onnx.builder import export_bundle
from bart_onnx.errors import BartOnnxError
from bart_onnx.locate import PRECISIONS
from bart_onnx.presets import PRESETS
from bart_onnx.store import home


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error said, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        bundle = export_bundle(
            options.preset,
            options.output,
            options.precision,
            allow_pickle=options.allow_pickle,
            offline=options.offline,
            show_progress=not options.quiet,
            examples=options.examples,
            accept_quality_loss=options.accept_quality_loss,
        )
    except BartOnnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing was published.", file=sys.stderr)
        return 130
    print(bundle.path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.export",
        description="Export a BART checkpoint to a bundle of ONNX graphs.",
        epilog=f"Built-in presets: {', '.join(PRESETS)}. "
        "Needs torch: pip install 'bart_onnx[cpu,export,hub]'.",
    )
    parser.add_argument(
        "--preset",
        required=True,
        metavar="NAME|URI|DIRECTORY",
        help="a built-in preset, hf://org/name[@revision], or the directory of a checkpoint",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help=f"where the bundle goes; else into the store, under {home()}, where from_preset looks",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FILE",
        help='JSONL of "text" and "summary": int8 is measured on it, and refused if it loses much',
    )
    parser.add_argument(
        "--accept-quality-loss",
        action="store_true",
        help="publish what loses more than allowed; manifest and card say so",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read pytorch_model.bin where there is no safetensors file; torch loads it with "
        "weights_only in a process of its own",
    )
    parser.add_argument("--offline", action="store_true", help="take downloads from the cache only")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


if __name__ == "__main__":
    sys.exit(main())
