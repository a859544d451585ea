#!/usr/bin/env python3
"""Trains bart_tiny_en_g2p: an English word in, its phonemes out.

    pip install --no-deps misaki
    python scripts/train_g2p.py --heldout HELDOUT.tsv --output DIRECTORY [--epochs N] [--threads N]
    python -m bart_onnx.export --preset DIRECTORY/checkpoint --output DIRECTORY/bundle
    python scripts/judge_g2p.py DIRECTORY/bundle HELDOUT.tsv

It reads the gold and silver American dictionaries of the installed package misaki (Apache-2.0) and
takes out every word of HELDOUT.tsv (`word<TAB>phonemes`), also with other capitals or as a plain
plural. DIRECTORY gets the checkpoint, the log (JSON lines) and the training state: started again
with the same arguments, a run that was stopped continues. --begin-from trains a finished one on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from g2p_vocabulary import byte_vocabulary

from bart_onnx import BartSeq2SeqLMPreprocessor, BartTokenizer
from bart_onnx.config import BartConfig
from bart_onnx.initializer import Weights, initialize
from bart_onnx.training_options import Checkpointing, FitOptions, OptimizerOptions, WarmUp
from exporters.bart import Bart
from exporters.checkpoints import hugging_face_writer
from exporters.model_weights import weights_of
from exporters.sources import read_directory
from exporters.training.examples import Examples
from exporters.training.trainer import Callbacks, Trainer

LENGTH = 32  # of both sides, special tokens counted
POSITIONS = 64
VALIDATION_WORDS = 3000
BATCH = 128
# After 100,000 words Muon had 36.5 % of validation words wrong, Adam (rate 2e-3) 42.5 %.
WARM_UP_STEPS = 200
PEAK_RATE, MATRIX_RATE, WEIGHT_DECAY = 2e-3, 7.0, 0.01
# Keras' 0.02 is far below 1 / sqrt(128): after 50,000 words 56.1 % were wrong instead of 54.1 %.
KERNEL_STDDEV = 0.08

Entries = list[tuple[str, str]]


def read_dictionaries() -> dict[str, str]:
    """Word to phonemes, gold before silver; where a word has several, the default.

    Only the package's data files are read: importing it would need spaCy and more.
    """
    package = importlib.util.find_spec("misaki")
    if package is None or not package.submodule_search_locations:
        sys.exit("misaki is not installed: pip install --no-deps misaki")
    data = Path(package.submodule_search_locations[0]) / "data"
    found: dict[str, str] = {}
    for name in ("us_gold.json", "us_silver.json"):
        entries = json.loads((data / name).read_text(encoding="utf-8"))
        for word, value in entries.items():
            phonemes = value.get("DEFAULT") if isinstance(value, Mapping) else value
            if phonemes and max(len(word) + 2, len(phonemes) + 3) <= LENGTH:
                found.setdefault(word, phonemes)
    return found


def read_heldout(path: Path) -> set[str]:
    """The words of a TSV, in lower case."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.split("\t")[0].casefold() for line in lines if line}


def without(entries: Mapping[str, str], heldout: set[str]) -> Entries:
    """The entries that are none of the held-out words, no plural and no singular of one."""
    banned = {form for word in heldout for form in number_forms(word)}
    return [(word, said) for word, said in entries.items() if word.casefold() not in banned]


def number_forms(word: str) -> set[str]:
    """A word with s and es added and taken away: "cat" gives cat, cats, cates."""
    forms = {word, f"{word}s", f"{word}es"}
    return forms | {word.removesuffix("s"), word.removesuffix("es")}


def make_preprocessor(entries: Iterable[tuple[str, str]]) -> BartSeq2SeqLMPreprocessor:
    """One whose every token is one character.

    Raises:
        AssertionError: a text is not its own image, or not one token a character.
    """
    texts = [text for entry in entries for text in entry]
    tokenizer = BartTokenizer(*byte_vocabulary(set("".join(texts))))
    ids = tokenizer.encode_batch(texts)
    assert [len(row) for row in ids] == [len(text) for text in texts]
    assert tokenizer.decode_batch(ids) == texts
    return BartSeq2SeqLMPreprocessor(tokenizer, LENGTH, LENGTH)


def as_examples(
    entries: Entries, preprocessor: BartSeq2SeqLMPreprocessor, config: BartConfig
) -> Examples:
    """Arrays of these entries."""
    words, said = ([entry[side] for entry in entries] for side in (0, 1))
    x, y, weights = preprocessor({"encoder_text": words, "decoder_text": said})
    return Examples.checked(x, y, weights, config=config)


def make_config(vocabulary_size: int, arguments: argparse.Namespace) -> BartConfig:
    """At most 1,000,000 parameters."""
    return BartConfig(
        vocabulary_size,
        arguments.encoder_layers,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=arguments.feedforward,
        dropout=arguments.dropout,
        max_sequence_length=POSITIONS,
        decoder_num_layers=arguments.decoder_layers,
    )


def first_weights(config: BartConfig, seed: int, begin_from: Path | None) -> Weights:
    """Those of a checkpoint, or new ones."""
    if begin_from is not None:
        return dict(read_directory(begin_from, str(begin_from), allow_pickle=False).weights)
    weights = initialize(config, seed)
    kernels = initialize(config, seed, KERNEL_STDDEV)
    return weights | {name: read for name, read in kernels.items() if name.endswith(".kernel")}


def make_trainer(config: BartConfig, weights: Weights, steps: int, peak_rate: float) -> Trainer:
    """A model and its optimizer, for a run of so many steps."""
    rate = WarmUp(peak_rate, WARM_UP_STEPS, max(steps, WARM_UP_STEPS + 1), "linear")
    options = OptimizerOptions(
        "muon",
        rate,
        beta_2=0.98,
        weight_decay=WEIGHT_DECAY,
        matrix_rate=MATRIX_RATE,
        clip_norm=1.0,
    )
    return Trainer(Bart.from_weights(config, weights), options)


def log_to(path: Path) -> Callbacks:
    """Appends figures to a file: the mean loss of each 100 steps, and each epoch's."""
    started, losses = time.time(), []

    def write(line: Mapping[str, object]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "seconds": round(time.time() - started, 1)}) + "\n")

    def on_batch_end(step: int, logs: Mapping[str, float]) -> None:
        losses.append(logs["loss"])
        if step % 100 == 0:
            write({"step": step, **logs, "loss": float(np.mean(losses))})
            losses.clear()

    return Callbacks(on_batch_end, lambda epoch, logs: write({"epoch": epoch, **logs}))


def write_checkpoint(directory: Path, trainer: Trainer, tokenizer: BartTokenizer) -> None:
    """What was trained, in Hugging Face's layout."""
    config = trainer.bart.config
    generation = {
        "forced_bos_token_id": config.start_token_id,
        "max_length": LENGTH,
        "num_beams": 1,
    }
    hugging_face_writer.write(
        directory, config, weights_of(trainer.bart), tokenizer, generation_config=generation
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heldout", type=Path, required=True, help="words to keep out, a TSV")
    parser.add_argument("--output", type=Path, required=True, help="directory of the run")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--peak-rate", type=float, default=PEAK_RATE)
    parser.add_argument("--begin-from", type=Path, help="a checkpoint to train on from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder-layers", type=int, default=2)
    parser.add_argument("--decoder-layers", type=int, default=2)
    parser.add_argument("--feedforward", type=int, default=512)
    parser.add_argument("--dropout", type=float, default=0.0)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    entries = without(read_dictionaries(), read_heldout(arguments.heldout))
    preprocessor = make_preprocessor(entries)
    config = make_config(preprocessor.tokenizer.vocabulary_size(), arguments)
    order = np.random.default_rng(arguments.seed).permutation(len(entries))
    validation, training = (
        as_examples([entries[row] for row in rows], preprocessor, config)
        for rows in (order[:VALIDATION_WORDS], order[VALIDATION_WORDS:])
    )
    steps = arguments.epochs * -(-len(training) // BATCH)
    weights = first_weights(config, arguments.seed, arguments.begin_from)
    trainer = make_trainer(config, weights, steps, arguments.peak_rate)
    size = sum(weight.numel() for weight in trainer.bart.parameters())
    print(f"{len(training)} words, {size} parameters, {steps} steps", flush=True)
    assert size <= 1_000_000
    arguments.output.mkdir(parents=True, exist_ok=True)
    trainer.fit(
        training,
        FitOptions(
            batch_size=BATCH,
            epochs=arguments.epochs,
            seed=arguments.seed,
            bucket_batches=32,
            checkpointing=Checkpointing(arguments.output / "state", every_steps=500),
            validation_batch_size=250,
        ),
        validation,
        log_to(arguments.output / "training.jsonl"),
    )
    write_checkpoint(arguments.output / "checkpoint", trainer, preprocessor.tokenizer)


if __name__ == "__main__":
    main()
