"""`python -m bart_onnx.verify`: whether a bundle is whole, and answers here as where it was made.

Parses, then asks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bart_onnx.answers import Model
from bart_onnx.bundle import Bundle, is_bundle
from bart_onnx.devices import CPU, NAMES
from bart_onnx.errors import BundleError
from bart_onnx.exit_status import FAILED, exit_status
from bart_onnx.golden import Golden
from bart_onnx.golden_replay import decoder
from bart_onnx.graphs import FP32, PRECISIONS
from bart_onnx.locate import local_directory
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.presets import PRESETS
from bart_onnx.runners.opening import open_runner
from bart_onnx.store import preset_path
from bart_onnx.verification import faults, replayed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 where all is whole; 1 where something is not, or cannot be looked at; 2 for wrong usage.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    return exit_status(lambda: _verified(parser, options), file_error="")


def _verified(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _check_usage(parser, options)
    directory = local_directory(options.bundle, options.precision or FP32)
    count = 0
    for fault in faults(directory):
        print(f"error: {fault}", file=sys.stderr)
        count += 1
    if count:
        print(f"{directory}: faults: {count}")
        return FAILED
    print(f"{directory}: whole")
    if options.run:
        bundle = Bundle.open(directory, verify=False)
        print(_run(bundle, options.device or CPU, options.threads))
    return 0


def _run(bundle: Bundle, device: str, threads: int | None) -> str:
    """Golden requests asked again, and what came of it in a line."""
    golden = Golden.of(bundle)
    if golden is None:
        raise BundleError(
            f"{bundle.path} has no golden requests: it was exported before there were any. Export "
            "the checkpoint again to have some."
        )
    runner = open_runner(bundle, device, threads)
    preprocessor = None
    if bundle.tokenizer_directory is not None:
        longest = bundle.config.max_sequence_length
        preprocessor = BartSeq2SeqLMPreprocessor.from_files(bundle.tokenizer_directory, longest)
    model = Model(runner, preprocessor)
    found = replayed(golden, bundle, model, decoder(model))
    bits = "the same to the last bit" if found.same_bits else "not the same to the last bit"
    return (
        f"golden requests: all {len(golden.requests)} as written, on {runner.device}; "
        f"log-probabilities within {found.largest:.2g}; alone and together {bits}"
    )


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Flags that mean nothing beside each other, refused as argparse refuses."""
    if not options.run and (options.device, options.threads) != (None, None):
        parser.error("--device and --threads are of --run; add it")
    path = preset_path(options.bundle)
    if options.precision is not None and path is not None and is_bundle(path):
        parser.error("--precision is of a name, URI or checkpoint; a bundle's directory has one")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.verify",
        description="Check every file of a bundle on this machine, and of the engines beside it: "
        "sizes, sha256, missing and unknown files, links, weights that are not finite.",
        epilog=f"Built-in presets: {', '.join(PRESETS)}. Nothing is downloaded. The exit status is "
        "0 where all is whole, 1 where something is not.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", metavar="DIRECTORY|NAME|URI", help="a bundle, or a preset")
    parser.add_argument("--precision", choices=PRECISIONS, help=f"of a preset; default: {FP32}")
    parser.add_argument(
        "--run",
        action="store_true",
        help="ask its golden requests again, alone and together; every token must be as written",
    )
    parser.add_argument(
        "--device", metavar="NAME", help=f"with --run: {', '.join(NAMES)}; default: {CPU}"
    )
    parser.add_argument("--threads", type=int, help="with --run; default: the cores it may use")
    return parser


if __name__ == "__main__":
    sys.exit(main())
