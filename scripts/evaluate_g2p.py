#!/usr/bin/env python3
"""Word and phoneme error rates of a grapheme-to-phoneme BART on held-out words.

    python -m bart_onnx.export --preset CHECKPOINT --output BUNDLE
    python scripts/evaluate_g2p.py CHECKPOINT BUNDLE HELDOUT.tsv [--num-beams N] [--limit N]

CHECKPOINT holds config.json with the two character tables of PeterReid's models; HELDOUT.tsv has
lines `word<TAB>phonemes`. A word is wrong if any character differs; edits are Levenshtein distances
in code points. It ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bart_onnx import OnnxBartSeq2SeqLM

PAD, START, END, UNKNOWN = 0, 1, 2, 3
NEW_TOKENS = 60


@dataclass(frozen=True)
class Characters:
    """The character tables of a checkpoint: an id is a character's index."""

    graphemes: dict[str, int]
    phonemes: str

    @classmethod
    def read(cls, checkpoint: Path) -> Characters:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        letters = enumerate(config["grapheme_chars"])
        return cls({letter: index for index, letter in letters}, config["phoneme_chars"])

    def encode(self, words: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays that generate() takes without a preprocessor, int32 and bool."""
        rows = [
            [START, *(self.graphemes.get(letter, UNKNOWN) for letter in word), END]
            for word in words
        ]
        sources = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
        for row, ids in enumerate(rows):
            sources[row, : len(ids)] = ids
        return {"encoder_token_ids": sources, "encoder_padding_mask": sources != PAD}

    def decode(self, token_ids: np.ndarray) -> str:
        known = range(UNKNOWN + 1, len(self.phonemes))
        return "".join(self.phonemes[token_id] for token_id in token_ids if token_id in known)


def pronounce(
    lm: OnnxBartSeq2SeqLM, characters: Characters, words: Sequence[str], num_beams: int = 1
) -> list[str]:
    """Phonemes of each word, as the checkpoint's generation config and `num_beams` say."""
    found = lm.generate(characters.encode(words), num_beams=num_beams, max_new_tokens=NEW_TOKENS)
    rows = zip(found["decoder_token_ids"], found["decoder_padding_mask"], strict=True)
    return [characters.decode(ids[mask]) for ids, mask in rows]


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and substitutions: ("ab", "cb") is 1."""
    distances = list(range(len(second) + 1))
    for row, left in enumerate(first, start=1):
        previous, distances[0] = distances[0], row
        for column, right in enumerate(second, start=1):
            change = previous + (left != right)
            previous = distances[column]
            distances[column] = min(change, previous + 1, distances[column - 1] + 1)
    return distances[-1]


def error_rates(found: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Counts, and WER and PER in percent."""
    pairs = list(zip(found, expected, strict=True))
    wrong = sum(ours != theirs for ours, theirs in pairs)
    edits = sum(edit_distance(ours, theirs) for ours, theirs in pairs)
    characters = sum(map(len, expected))
    return {
        "words": len(pairs),
        "wrong_words": wrong,
        "wer": round(100 * wrong / len(pairs), 2),
        "edits": edits,
        "characters": characters,
        "per": round(100 * edits / characters, 2),
    }


def read_words(path: Path) -> list[tuple[str, str]]:
    """Words and phonemes of a TSV file, in file order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(word, phonemes) for word, phonemes in (line.split("\t") for line in lines)]


def spread(rows: list[tuple[str, str]], limit: int | None) -> list[tuple[str, str]]:
    """At most `limit` rows at equal distances; all of them where it is None."""
    return rows if limit is None else rows[:: max(1, len(rows) // limit)][:limit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--num-beams", type=int, default=1, help="default: 1, greedy")
    parser.add_argument("--limit", type=int, help="only so many words, spread over the file")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="fp32", help="the bundle's; default: fp32")
    options = parser.parse_args()
    rows = spread(read_words(options.heldout), options.limit)
    words, characters = [word for word, _ in rows], Characters.read(options.checkpoint)
    lm = OnnxBartSeq2SeqLM.from_preset(
        options.bundle,
        precision=options.precision,
        preprocessor=None,
        threads=options.threads,
    )
    started = time.perf_counter()
    found = pronounce(lm, characters, words, options.num_beams)
    seconds = time.perf_counter() - started
    rates = error_rates(found, [phonemes for _, phonemes in rows])
    print(f"{rates['wrong_words']} of {rates['words']} words wrong: WER {rates['wer']:.2f} %")
    print(f"{rates['edits']} edits in {rates['characters']} phonemes: PER {rates['per']:.2f} %")
    print(json.dumps({"num_beams": options.num_beams, **rates, "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
