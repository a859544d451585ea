#!/usr/bin/env python3
"""ROUGE of a model's summaries, or of a file of them, against a dataset's references.

    python scripts/rouge.py DATASET.jsonl --preset PRESET [--precision P] [--option num_beams=2]
    python scripts/rouge.py DATASET.jsonl --predictions SUMMARIES.jsonl

DATASET has one JSON object a line, with a document and a reference or a list of them; SUMMARIES
one object for each of its lines, in their order. Scores are F x 100 of stemmed words; the line
below them is the signature, all that decides them. It ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rouge_score_rs import rouge_scorer

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import Bundle
from bart_onnx.decoding.generation_config import for_summarization
from bart_onnx.sealed import MANIFEST, file_sha256
from bart_onnx.sentences import sentence_spans
from bart_onnx.version import __version__

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
LIBRARY = "rouge-score-rs"
# Summaries made between two lines about the progress.
CHUNK = 64


@dataclass(frozen=True)
class Row:
    """One document and its references, the first of which is the dataset's own."""

    document: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """How texts are scored.

    Attributes:
        references: "first", or "best" of all, for each metric by itself.
        sentences: where rougeLsum's sentences end: "split", at the lines' ends and those that
            `bart_onnx.sentences` finds, or "lines", at the lines' ends alone.
    """

    references: str = "first"
    sentences: str = "split"

    def __str__(self) -> str:
        splitter = f"bart_onnx.sentences {__version__}" if self.sentences == "split" else "lines"
        version = importlib.metadata.version(LIBRARY)
        return (
            f"{LIBRARY} {version} | stemmer: Porter | sentences: {splitter} | "
            f"references: {self.references}"
        )


def rouge(predictions: Sequence[str], rows: Sequence[Row], rules: Rules) -> dict[str, float]:
    """Mean F x 100 of each metric."""
    scorer = rouge_scorer.RougeScorer(list(METRICS), use_stemmer=True)
    sums = dict.fromkeys(METRICS, 0.0)
    for prediction, row in zip(predictions, rows, strict=True):
        wanted = row.references if rules.references == "best" else row.references[:1]
        texts = [on_lines(text, rules) for text in (prediction, *wanted)]
        found = scorer.score_multi(texts[1:], texts[0])
        for metric in METRICS:
            sums[metric] += 100 * found[metric].fmeasure
    return {metric: total / len(rows) for metric, total in sums.items()}


def on_lines(text: str, rules: Rules) -> str:
    """The text with each sentence on a line, as rougeLsum reads it."""
    if rules.sentences == "lines":
        return text
    lines = text.splitlines()
    return "\n".join(line[a:b].strip() for line in lines for a, b in sentence_spans(line))


def read_rows(path: Path, document: str, reference: str, limit: int | None) -> list[Row]:
    """The first `limit` rows of a dataset, or all."""
    rows = []
    for number, values in read_objects(path):
        if limit is not None and len(rows) == limit:
            break
        references = values.get(reference)
        references = [references] if isinstance(references, str) else references
        known = isinstance(values.get(document), str) and references
        if not known or not all(isinstance(text, str) for text in references):
            sys.exit(f"{path}:{number} has no text in {document!r}, or none in {reference!r}.")
        rows.append(Row(values[document], tuple(references)))
    if not rows:
        sys.exit(f"{path} has no rows to score.")
    return rows


def read_predictions(path: Path, field: str, count: int) -> list[str]:
    """The first `count` summaries of a file."""
    texts = [values.get(field) for _, values in read_objects(path)][:count]
    if len(texts) < count or not all(isinstance(text, str) for text in texts):
        sys.exit(f"{path} must have {count} lines with a text in {field!r}, one for each document.")
    return texts


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and JSON objects of a file; blank lines are left out."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                values = json.loads(line)
                if not isinstance(values, dict):
                    sys.exit(f"{path}:{number} holds no JSON object.")
                yield number, values


def summarize(
    lm: OnnxBartSeq2SeqLM, rows: Sequence[Row], options: Mapping[str, Any], output: Path | None
) -> list[str]:
    """A summary of each document, by the generation config and `options`; kept in `output`."""
    texts: list[str] = []
    for start in range(0, len(rows), CHUNK):
        documents = [row.document for row in rows[start : start + CHUNK]]
        texts += lm.summarize(documents, **options)
        print(f"{len(texts)} of {len(rows)} documents", file=sys.stderr)
    if output is not None:
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        output.write_text("".join(lines), encoding="utf-8")
    return texts


def maker(bundle: Bundle, decoding: Mapping[str, Any]) -> str:
    """Which bundle makes the summaries, and how, for the signature."""
    return (
        f"bart_onnx {__version__} | bundle: {file_sha256(bundle.path / MANIFEST)[:16]} "
        f"{bundle.precision} | decoding: {json.dumps(decoding, sort_keys=True)}"
    )


def signature(rules: Rules, rows: Sequence[Row], made_by: str) -> str:
    """All that decides the scores, in one line."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.document, *row.references]).encode())
    return f"{rules} | rows: {len(rows)} of {digest.hexdigest()[:16]} | {made_by}"


def table(scores: Mapping[str, float]) -> str:
    """The scores for people, rounded to two places."""
    return "   ".join(f"{metric} {score:.2f}" for metric, score in scores.items())


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value in JSON."""
    name, found, value = text.partition("=")
    try:
        return name, json.loads(value if found else "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=JSON") from error


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    rows = read_rows(options.dataset, options.document, options.reference, options.limit)
    rules = Rules(options.references, options.sentences)
    if options.predictions is not None:
        texts = read_predictions(options.predictions, options.prediction, len(rows))
        made_by = f"predictions: {file_sha256(options.predictions)[:16]}"
    else:
        lm = OnnxBartSeq2SeqLM.from_preset(
            options.preset, precision=options.precision, threads=options.threads
        )
        decoding = {"long_input": "truncate", **dict(options.option)}
        texts = summarize(lm, rows, decoding, options.output)
        config = for_summarization(lm.generation_config)
        made_by = maker(lm.runner.bundle, {**config, **decoding})
    scores = rouge(texts, rows, rules)
    print(table(scores))
    print(signature(rules, rows, made_by))
    print(json.dumps({name: round(score, 4) for name, score in scores.items()}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("dataset", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", help="the model that summarises")
    source.add_argument("--predictions", type=Path, metavar="FILE", help="score these instead")
    field = {"metavar": "FIELD", "help": "default: %(default)s"}
    parser.add_argument("--document", default="article", **field)
    parser.add_argument("--reference", default="summary", **field)
    parser.add_argument("--prediction", default="text", **field)
    parser.add_argument("--references", choices=("first", "best"), default="first")
    parser.add_argument("--sentences", choices=("split", "lines"), default="split")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--option", type=option, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to keep the summaries")
    parser.add_argument("--threads", type=int)
    return parser


if __name__ == "__main__":
    main()
