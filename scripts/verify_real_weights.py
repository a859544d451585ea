#!/usr/bin/env python3
"""Checks published weights where there is a network: two sources, transformers, ROUGE.

    python scripts/verify_real_weights.py [--documents FILE.jsonl] [--limit N] [--num-beams N]
                                          [--no-int8]

It exports bart-large-cnn from Kaggle and from the Hugging Face hub, and holds against each other
what the two read, the logits that they give a document's own summary, and the tokens that they
generate by their generation configs; then the tokens against transformers'. Last it prints ROUGE,
of fp32 and of int8. The exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rouge import Row, Rules, maker, option, read_rows, rouge, signature, table

from bart_onnx import OnnxBartSeq2SeqLM, hub
from bart_onnx.decoding.generation_config import TASK_KEY
from bart_onnx.presets import PRESETS

DOCUMENTS = Path(__file__).resolve().parent.parent / "examples" / "documents.jsonl"
KAGGLE, HUB = PRESETS["bart_large_en_cnn"].sources
# Logits are of the order of 10; both sources hold the same float32 numbers.
LARGEST_DIFFERENCE = 1e-4

IdArray = NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What one source made of the documents: source ids, logits, generated ids and texts."""

    sources: list[IdArray]
    logits: list[NDArray[np.float32]]
    tokens: list[IdArray]
    texts: list[str]
    made_by: str


def outcome(
    preset: str, rows: Sequence[Row], options: Mapping[str, Any], **opening: Any
) -> Outcome:
    """Export a preset where that was not done yet, and run it."""
    lm = OnnxBartSeq2SeqLM.from_preset(preset, **opening)
    documents = [row.document for row in rows]
    # do_sample hands the call to the generation config, as transformers reads it.
    asked = {"do_sample": False, "long_input": "truncate", **options}
    results = lm.generate(documents, return_dict=True, **asked)
    sources = [result.source_ids for result in results]
    decoding = {**lm.generation_config, **asked}
    for name in (TASK_KEY, "prefix"):  # generate applies neither
        decoding.pop(name, None)
    return Outcome(
        sources,
        [logits(lm, ids, row.references[0]) for ids, row in zip(sources, rows, strict=True)],
        [result.ids for result in results],
        [result.text for result in results],
        maker(lm.runner.bundle, decoding),
    )


def logits(lm: OnnxBartSeq2SeqLM, source: IdArray, summary: str) -> NDArray[np.float32]:
    """Logits of a summary that is given and not generated, [tokens, vocabulary]."""
    config = lm.config
    begin = [config.decoder_start_token_id, config.start_token_id]
    ids = [*begin, *lm.preprocessor.tokenizer.encode_batch([summary])[0]]
    target = np.array(ids[: config.max_sequence_length])
    arrays = {"encoder_token_ids": source, "decoder_token_ids": target}
    masks = {
        "encoder_padding_mask": np.ones(len(source), bool),
        "decoder_padding_mask": np.ones(len(target), bool),
    }
    found: NDArray[np.float32] = lm({name: a[None] for name, a in (arrays | masks).items()})[0]
    return found


def of_transformers(
    uri: str, rows: Sequence[Row], options: Mapping[str, Any]
) -> tuple[list[IdArray], list[IdArray]]:
    """Source ids and tokens that transformers makes of the same files, one document at a time."""
    import torch
    from transformers import AutoTokenizer, BartForConditionalGeneration

    directory = hub.download_checkpoint(uri, allow_pickle=False).directory
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = BartForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    longest = model.config.max_position_embeddings
    sources, tokens = [], []
    for row in rows:
        ids = tokenizer(row.document, truncation=True, max_length=longest)["input_ids"]
        given = torch.tensor([ids])
        with torch.inference_mode():
            made = model.generate(
                given, attention_mask=torch.ones_like(given), do_sample=False, **options
            )
        sources.append(np.array(ids))
        tokens.append(made[0].numpy())
    return sources, tokens


def same(
    what: str, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]], tolerance: float = 0
) -> bool:
    """Whether the arrays of all documents are the same; prints it, or where they are not."""
    found, largest = [], 0.0
    for number, (first, second) in enumerate(zip(ours, theirs, strict=True)):
        if first.shape != second.shape:
            found.append(f"document {number}: {first.shape[0]} and {second.shape[0]}")
            continue
        differs = np.abs(first - second)
        largest = max(largest, float(differs.max(initial=0)))
        if differs.size and differs.max() > tolerance:
            place = int(np.argwhere(differs > tolerance)[0, 0])
            found.append(f"document {number}: from place {place} on")
    allowed = f", largest difference {largest:g} of {tolerance:g}" if tolerance else ""
    print(f"{what}: {'DIFFERENT' if found else 'equal'}{allowed}")
    for line in found:
        print(f"    {line}")
    return not found


def check(first: Outcome, second: Outcome, ids: list[IdArray], tokens: list[IdArray]) -> bool:
    """Hold two sources against each other, and the second against transformers; print all."""
    return all(
        [
            same("source ids, Kaggle and hub", first.sources, second.sources),
            same("logits, Kaggle and hub", first.logits, second.logits, LARGEST_DIFFERENCE),
            same("tokens, Kaggle and hub", first.tokens, second.tokens),
            same("source ids, hub and transformers", second.sources, ids),
            same("tokens, hub and transformers", second.tokens, tokens),
        ]
    )


def print_rouge(title: str, found: Outcome, rows: Sequence[Row]) -> None:
    """Scores of one outcome and their signature."""
    rules = Rules()
    print(f"{title}: {table(rouge(found.texts, rows, rules))}")
    print(f"    {signature(rules, rows, found.made_by)}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    rows = read_rows(options.documents, options.document, options.reference, options.limit)
    decoding = dict(options.option)
    if options.num_beams is not None:
        decoding["num_beams"] = options.num_beams
    print(f"{len(rows)} documents; {options.kaggle}; {options.hub}")
    first = outcome(options.kaggle, rows, decoding)
    second = outcome(options.hub, rows, decoding)
    sound = check(first, second, *of_transformers(options.hub, rows, decoding))
    print_rouge("fp32", second, rows)
    if options.int8:
        print_rouge("int8", outcome(options.hub, rows, decoding, precision="int8"), rows)
    return 0 if sound else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    text = {"help": "default: %(default)s"}
    parser.add_argument("--kaggle", default=KAGGLE, metavar="URI", **text)
    parser.add_argument("--hub", default=HUB, metavar="URI", **text)
    parser.add_argument("--documents", type=Path, default=DOCUMENTS, metavar="FILE", **text)
    parser.add_argument("--document", default="article", metavar="FIELD", **text)
    parser.add_argument("--reference", default="summary", metavar="FIELD", **text)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N documents only")
    parser.add_argument("--num-beams", type=int, metavar="N", help="default: the config's")
    parser.add_argument("--no-int8", dest="int8", action="store_false", help="ROUGE of fp32 only")
    parser.add_argument("--option", type=option, action="append", default=[], metavar="NAME=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
