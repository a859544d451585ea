#!/usr/bin/env python3
"""Chooses the words of tests/data/words.txt and writes them with the shipped preset's phonemes.

    pip install --no-deps misaki
    python scripts/choose_words.py tests/data/words.txt

Lower-case words, evenly spread, of three to twelve letters, from misaki's gold dictionary
(Apache-2.0), a thousand in all.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

from bart_onnx import OnnxBartSeq2SeqLM

COUNT = 1000


def main() -> None:
    package = importlib.util.find_spec("misaki")
    if package is None or not package.submodule_search_locations:
        sys.exit("misaki is not installed: pip install --no-deps misaki")
    data = Path(package.submodule_search_locations[0]) / "data" / "us_gold.json"
    known = json.loads(data.read_text(encoding="utf-8"))
    words = sorted(word for word in known if re.fullmatch("[a-z]{3,12}", word))
    chosen = [words[index * len(words) // COUNT] for index in range(COUNT)]
    lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True)
    lm.compile(sampler="greedy")
    lines = [f"{word}\t{said}\n" for word, said in zip(chosen, lm.generate(chosen), strict=True)]
    Path(sys.argv[1]).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
