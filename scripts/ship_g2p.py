#!/usr/bin/env python3
"""Makes models/bart_tiny_en_g2p from a run of train_g2p.py: bundle, log, curve, card, golden words.

    pip install matplotlib
    python scripts/ship_g2p.py RUN HELDOUT.tsv models/bart_tiny_en_g2p

RUN holds checkpoint/ and training.jsonl. The bundle is judged on HELDOUT.tsv, greedily and with 4
beams, and the figures go into its card.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from evaluate_g2p import error_rates, read_words
from judge_g2p import pronounce
from training_curve import draw

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import CARD, Bundle
from bart_onnx.publish import seal, staged
from bart_onnx.samplers import BeamSampler, GreedySampler
from exporters.export import export
from exporters.golden import add_golden

GOLDEN_WORDS = ("onnx", "summarization", "banana", "continuous", "throughput")

CARD_TEXT = """\
---
library_name: bart_onnx
license: apache-2.0
tags: [bart, onnx, grapheme-to-phoneme]
---
# bart_tiny_en_g2p

Turns an English word into phonemes, in the alphabet of misaki (IPA, with single letters such as
`A I O W Y` for diphthongs and `ˈ ˌ` before the vowels of stressed syllables).

```python
from bart_onnx import OnnxBartSeq2SeqLM

lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p")
lm.compile(sampler="greedy")
print(lm.generate("summarization"))
```

A BART of {layers} encoder and {layers} decoder layers, width {width}, {heads} heads, {parameters:,}
parameters, float32. Every character is one token.

## Accuracy

On 9,350 held-out American English words; a word is wrong if any character differs.

| decoding | wrong words | word error rate | phoneme error rate |
|---|---:|---:|---:|
| greedy | {greedy[wrong_words]:,} | {greedy[wer]:.2f} % | {greedy[per]:.2f} % |
| 4 beams (KerasHub's) | {beams[wrong_words]:,} | {beams[wer]:.2f} % | {beams[per]:.2f} % |

For comparison, the published model of this size (PeterReid/graphemes_to_phonemes_en_us) has 20.20 %
and 4.47 % greedily on the same words.

## Training

`scripts/train_g2p.py`, with this package's own training engine: {words:,} words of the gold and
silver American dictionaries of the PyPI package misaki (Apache-2.0, hexgrad/misaki), {epochs}
epochs on one CPU core. Held-out words, and every entry that differs from one only in case or by a
plain plural, were kept out. `training.jsonl` is the log, `curve.png` its picture.

Names, abbreviations and words of other languages are often wrong. Dictionaries have opinions; the
model has theirs.
"""


def judge(directory: Path, heldout: Path) -> dict[str, dict[str, float]]:
    """Error rates of the bundle, greedily and with 4 beams."""
    rows = read_words(heldout)
    lm = OnnxBartSeq2SeqLM.from_preset(directory)
    rates = {}
    for name, sampler in (("greedy", GreedySampler()), ("beams", BeamSampler(num_beams=4))):
        lm.compile(sampler=sampler)
        found = pronounce(lm, [word for word, _ in rows])
        rates[name] = error_rates(found, [phonemes for _, phonemes in rows])
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--words", type=int, required=True, help="words that it was trained on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, staged(options.target) as staging:
        made = Path(temporary) / options.target.name
        export(str(options.run / "checkpoint"), made)
        bundle = Bundle.open(made)
        shutil.copytree(made, staging, dirs_exist_ok=True)
        shutil.copy(options.run / "training.jsonl", staging)
        draw(options.run / "training.jsonl", staging / "curve.png")
        lines = (options.run / "training.jsonl").read_text(encoding="utf-8").splitlines()
        figures = judge(made, options.heldout)
        card = CARD_TEXT.format(
            layers=bundle.config.num_layers,
            width=bundle.config.hidden_dim,
            heads=bundle.config.num_heads,
            parameters=OnnxBartSeq2SeqLM.from_preset(made).count_params(),
            words=options.words,
            epochs=1 + max(json.loads(line).get("epoch", 0) for line in lines),
            **figures,
        )
        (staging / CARD).write_text(card, encoding="utf-8")
        manifest = dict(bundle.manifest)
        manifest["source"] |= {"name": options.target.name, "uri": options.target.name}
        seal(staging, manifest, {})
        add_golden(staging, GOLDEN_WORDS)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
