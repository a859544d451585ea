"""`python -m bart_onnx.bench`: how fast a preset generates on this machine. Parses, then asks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bart_onnx.benchmarking import machine
from bart_onnx.benchmarking.cases import cases
from bart_onnx.benchmarking.children import Opening, measure
from bart_onnx.benchmarking.plot import check_can_draw, draw
from bart_onnx.benchmarking.table import markdown
from bart_onnx.devices import CPU, NAMES
from bart_onnx.errors import InputError
from bart_onnx.exit_status import exit_status
from bart_onnx.graphs import PRECISIONS
from bart_onnx.presets import PRESETS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error said, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    return exit_status(
        lambda: _measured(options),
        interrupted="Interrupted.",
        file_error="the plot could not be written: ",
    )


def _measured(options: argparse.Namespace) -> int:
    if options.plot is not None:
        if options.device != CPU:
            raise InputError("--plot draws a core's time; leave it out on another device.")
        check_can_draw()
    report = _report(options)
    print(markdown(report["cases"]))
    if options.plot is not None:
        draw(report["cases"], f"{options.preset}, {report['threads']} threads", options.plot)
    print(json.dumps(report))
    return 0


def _report(options: argparse.Namespace) -> dict[str, Any]:
    cores = _pinned(options)
    threads = len(cores) if options.threads is None else options.threads
    where = (options.precision, options.device)
    opening = Opening(options.preset, *where, threads, options.offline)
    report: dict[str, Any] = {
        "preset": options.preset,
        "device": options.device,
        **machine.description(),
        "cores": cores,
        "threads": threads,
        "repetitions": options.repetitions,
        "load_average_before": machine.load_average(),
        "cases": [],
    }
    for case in cases(options.source, options.tokens, options.beams, options.batch):
        print(f"measuring {case}", file=sys.stderr, flush=True)
        # Anew for each case: what memory gives depends on what the other cores read meanwhile.
        # A GPU has memory of its own, which this process cannot time.
        on_cpu = options.device == CPU
        bandwidth = machine.read_bandwidth(options.buffer_mib << 20) if on_cpu else None
        report["cases"].append(measure(opening, case, options.repetitions, bandwidth))
    report["load_average_after"] = machine.load_average()
    return report


def _pinned(options: argparse.Namespace) -> list[int]:
    """The cores to run on, by number; this process and its children are held to them."""
    usable = machine.usable_cores()
    cores = usable[:1] if options.cores is None else sorted(set(options.cores))
    if not set(cores) <= set(usable):
        raise InputError(f"--cores {cores} are not all usable here; usable are {usable}.")
    if not machine.pin(cores):
        print("warning: this system cannot pin a process to cores.", file=sys.stderr)
    return cores


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bart_onnx.bench",
        description="Time a preset on random sources: encoder, first token, every step, memory.",
        epilog=f"Built-in presets: {', '.join(PRESETS)}. The last line is JSON.",
        allow_abbrev=False,
    )
    parser.add_argument("--preset", required=True, metavar="NAME|URI|DIRECTORY", help="the model")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument(
        "--device", default=CPU, metavar="NAME", help=f"{', '.join(NAMES)}; default: cpu"
    )
    parser.add_argument("--offline", action="store_true", help="no network, and no export")
    _add_counts(parser, "--source", (512, 1022), "source lengths")
    _add_counts(parser, "--tokens", (64, 128), "new tokens, exactly")
    _add_counts(parser, "--beams", (1, 4), "beams; 1 is greedy")
    _add_counts(parser, "--batch", (1, 8, 32), "sources decoded together")
    parser.add_argument(
        "--repetitions", type=_count, default=5, metavar="N", help="of each case; default: 5"
    )
    parser.add_argument(
        "--cores", type=int, nargs="+", metavar="N", help="by number; default: the first usable one"
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="default: one a core")
    parser.add_argument(
        "--buffer-mib",
        type=_count,
        default=512,
        metavar="N",
        help="what is read to measure memory; far more than the caches hold; default: 512",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it; needs matplotlib")
    return parser


def _add_counts(
    parser: argparse.ArgumentParser, flag: str, default: tuple[int, ...], what: str
) -> None:
    said = " ".join(map(str, default))
    help_ = f"{what}; default: {said}"
    parser.add_argument(flag, type=_count, nargs="+", default=default, metavar="N", help=help_)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
