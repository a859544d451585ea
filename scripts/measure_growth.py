#!/usr/bin/env python3
"""Measures whether memory grows: texts of all lengths, one call after another, in one process.

    python scripts/measure_growth.py BUNDLE [--texts 1000] [--precision int8] [--tokens 16]

Sources are random tokens of random lengths up to the model's longest, called alone and in batches,
greedily and with beams. Output: a line of JSON for every hundred texts, then one with the growth
after the first hundred. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from bart_onnx import OnnxBartSeq2SeqLM

BATCHES = (1, 1, 1, 2, 4)
FIRST_WORD = 4


def resident_bytes() -> int:
    """Memory of this process that is its own, mapped files left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    lm = OnnxBartSeq2SeqLM.from_preset(
        options.bundle, preprocessor=None, precision=options.precision, threads=options.threads
    )
    random, done, sizes = np.random.default_rng(0), 0, {}
    config = lm.backbone.config
    while done < options.texts:
        batch = int(random.choice(BATCHES))
        lengths = random.integers(1, config.max_sequence_length + 1, batch)
        ids = random.integers(FIRST_WORD, config.vocabulary_size, (batch, int(lengths.max())))
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        inputs = {"encoder_token_ids": ids, "encoder_padding_mask": mask.astype(np.int64)}
        beams = int(random.choice((1, 1, 4)))
        lm.generate(inputs, num_beams=beams, max_new_tokens=options.tokens, min_new_tokens=1)
        before, done = done, done + batch
        if done // 100 > before // 100:
            sizes[done // 100 * 100] = size = resident_bytes()
            print(json.dumps({"texts": done, "MiB": round(size / 2**20, 1)}), flush=True)
    first, last = sizes[100], sizes[max(sizes)]
    largest = max(sizes.values())
    growth = {"last": last - first, "largest": largest - first}
    print(json.dumps({f"growth, {name}, MiB": round(b / 2**20, 1) for name, b in growth.items()}))


if __name__ == "__main__":
    main()
