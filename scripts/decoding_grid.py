#!/usr/bin/env python3
"""Compares decoding with transformers, token for token, over a grid of options and models.

    python scripts/decoding_grid.py [--models golden g2p preset base] [--share 1.0]

Needs the `test` extra. Where a sequence differs, the first decision that did is looked at: with
transformers' own scores closer than 1e-5 it counts as a tie, else as a difference. It prints a
table, every difference, and last one line of JSON; the exit status is 1 where there is a
difference.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import transformers  # noqa: E402
from decoding_judge import cases  # noqa: E402
from decoding_judge.models import MODELS, Pair, missing  # noqa: E402
from decoding_judge.report import Report  # noqa: E402
from decoding_judge.shares import ALIKE, Shares  # noqa: E402

# Calls with several options, with drawn tokens, and whose distributions are compared, by model;
# of a large model only every n-th call.
_COUNTS = (150, 100, 60)
_LARGE = {"base": 32}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--share", type=float, default=1.0, help="of the calls; 0.1 is every 10th")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    lines: dict[str, dict[str, Any]] = {}
    failed = False
    with tempfile.TemporaryDirectory() as workplace:
        for name in options.models:
            if why := missing(name):
                print(f"{name}: left out, {why}")
                continue
            pair = MODELS[name](Path(workplace))
            every = max(1, round(_LARGE.get(name, 1) / options.share))
            report, shares = judge(pair, every)
            lines[name] = {**report.line, **of_shares(shares)}
            print_model(name, lines[name], report)
            failed |= bool(report.differences) or not shares.is_alike
    print(json.dumps({"models": lines, "sequences": sum(e["sequences"] for e in lines.values())}))
    return int(failed)


def judge(pair: Pair, every: int) -> tuple[Report, Shares]:
    """Both reports on one model, of every n-th call."""
    together, drawn, filtered = _COUNTS
    asked = [*cases.deterministic(pair), *cases.mixed(pair, together), *cases.drawn(pair, drawn)]
    report = Report().run(pair, asked[::every])
    shares = Shares().run(pair, list(cases.filtered(pair, filtered))[::every])
    return report, shares


def of_shares(shares: Shares) -> dict[str, Any]:
    """The comparison of distributions, for the table and for JSON."""
    return {
        "distributions": shares.steps,
        f"apart_of_{ALIKE:g}": shares.apart,
        "apart_end_to_end": shares.ends_apart,
        "thresholds": shares.thresholds,
        "drawn_beams": shares.scores,
        "drawn_beams_apart": shares.score_apart,
    }


def print_model(name: str, line: Mapping[str, Any], report: Report) -> None:
    """One model's part of the table."""
    print(f"\n{name}")
    for key, value in line.items():
        print(f"  {key:>18}  {value:.3g}" if isinstance(value, float) else f"  {key:>18}  {value}")
    if report.near_ties:
        print("  margins of near ties:", " ".join(f"{gap:.1e}" for gap in report.near_ties))
    for difference in report.differences:
        print("  DIFFERENT", difference)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
