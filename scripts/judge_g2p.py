#!/usr/bin/env python3
"""Word and phoneme error rates of an exported bart_tiny_en_g2p on held-out words.

    python scripts/judge_g2p.py BUNDLE HELDOUT.tsv [--sampler greedy|beam] [--limit N]

HELDOUT.tsv has lines `word<TAB>phonemes`. A word is wrong if any character differs. It ends with
one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from evaluate_g2p import error_rates, read_words, spread

from bart_onnx import OnnxBartSeq2SeqLM

BATCH = 256


def pronounce(lm: OnnxBartSeq2SeqLM, words: Sequence[str]) -> list[str]:
    """Phonemes of each word; words of like length go together."""
    order = sorted(range(len(words)), key=lambda row: len(words[row]))
    found = [""] * len(words)
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        said = lm.generate([words[row] for row in rows], max_length=32)
        for row, phonemes in zip(rows, said, strict=True):
            found[row] = phonemes
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--sampler", default="greedy")
    parser.add_argument("--limit", type=int, help="only so many words, spread over the file")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    rows = spread(read_words(options.heldout), options.limit)
    lm = OnnxBartSeq2SeqLM.from_preset(options.bundle, threads=options.threads)
    lm.compile(sampler=options.sampler)
    started = time.perf_counter()
    found = pronounce(lm, [word for word, _ in rows])
    seconds = time.perf_counter() - started
    rates = error_rates(found, [phonemes for _, phonemes in rows])
    print(f"{rates['wrong_words']} of {rates['words']} words wrong: WER {rates['wer']:.2f} %")
    print(f"{rates['edits']} edits in {rates['characters']} phonemes: PER {rates['per']:.2f} %")
    print(json.dumps({"sampler": options.sampler, **rates, "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
