#!/usr/bin/env python3
"""Draws the log of train_g2p.py: loss and accuracy over the steps.

pip install matplotlib
python scripts/training_curve.py training.jsonl curve.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def read_log(path: Path) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    """Figures by step and by epoch; of what a resumed run logged twice, the later."""
    steps: dict[int, dict[str, Any]] = {}
    epochs: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        if "step" in figures:
            steps[figures["step"]] = figures
        else:
            epochs[figures["epoch"] + 1] = figures
    return dict(sorted(steps.items())), dict(sorted(epochs.items()))


def draw(log: Path, picture: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, epochs = read_log(log)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    per_epoch = max(steps) / max(epochs)
    epoch_of = [step / per_epoch for step in steps]
    left.plot(epoch_of, [it["loss"] for it in steps.values()], label="training", linewidth=1)
    left.plot(list(epochs), [it["val_loss"] for it in epochs.values()], "o-", label="validation")
    left.set(yscale="log", xlabel="epoch", ylabel="loss, nats by place (Keras)")
    for name, label in (("", "training"), ("val_", "validation")):
        wrong = [100 - 100 * it[f"{name}sparse_categorical_accuracy"] for it in epochs.values()]
        right.plot(list(epochs), wrong, "o-", label=label)
    right.set(yscale="log", xlabel="epoch", ylabel="wrong tokens, percent")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(picture, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    draw(arguments.log, arguments.picture)


if __name__ == "__main__":
    main()
