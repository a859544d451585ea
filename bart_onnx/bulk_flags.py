"""Flags of the doors that take many inputs through one model, and what they ask for.

The parsed flags can be pickled, so that who runs them need not be who read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bart_onnx.bulk import CHUNK_TOKENS, Bulk
from bart_onnx.configured import Asked
from bart_onnx.decoding.generation_config import for_summarization
from bart_onnx.devices import CPU, NAMES
from bart_onnx.graphs import PRECISIONS
from bart_onnx.input_lines import Fields, Inputs
from bart_onnx.option_flags import add_option_flags, asked_options
from bart_onnx.results import checked_report
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM

_JSON_SUFFIXES = (".jsonl", ".ndjson")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, and what runs it."""
    parser.add_argument("--preset", required=True, metavar="NAME|URI|DIRECTORY", help="the model")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument(
        "--device", default=CPU, metavar="NAME", help=f"{', '.join(NAMES)}; default: {CPU}"
    )
    parser.add_argument("--threads", type=int, help="default: the cores this process may use")
    parser.add_argument("--offline", action="store_true", help="no network, and no export")


def add_line_flags(parser: argparse.ArgumentParser) -> None:
    """How lines of a file are read, and what becomes of long ones."""
    parser.add_argument(
        "--input-format", choices=("jsonl", "lines"), help="of --input, whatever its name"
    )
    parser.add_argument("--text-field", default="text", metavar="NAME", help="default: text")
    parser.add_argument("--id-field", default="id", metavar="NAME", help="default: id")
    parser.add_argument(
        "--long-input",
        choices=("error", "truncate", "split"),
        default="error",
        help="what becomes of a text longer than the model reads; default: error",
    )
    parser.add_argument(
        "--overlap-sentences",
        type=int,
        default=1,
        metavar="N",
        help="sentences that a part of a split text shares with the one before; default: 1",
    )


def add_record_flags(parser: argparse.ArgumentParser) -> None:
    """What is written of each input, and how often."""
    parser.add_argument("--details", action="store_true", help="ids, score, log-probabilities too")
    parser.add_argument("--top-log-probs", type=int, default=0, metavar="N", help="with --details")
    parser.add_argument("--alignments", action="store_true", help="with --details")
    parser.add_argument(
        "--chunk-tokens",
        type=int,
        default=CHUNK_TOKENS,
        metavar="N",
        help="tokens of texts between two writes, which is what a kill can lose; "
        f"default: {CHUNK_TOKENS}",
    )


def add_asked_flags(parser: argparse.ArgumentParser) -> None:
    """What is asked of decoding."""
    parser.add_argument(
        "--task",
        choices=("summarization",),
        help="what the generation config keeps for this task counts too, its prefix of texts also",
    )
    parser.add_argument(
        "--no-speculation",
        dest="speculate",
        action="store_false",
        help="draft no tokens from the sources",
    )
    add_option_flags(parser)


def check_record_flags(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Refuse, as argparse refuses, what means nothing alone."""
    if not flags.details and (flags.top_log_probs or flags.alignments):
        parser.error("--top-log-probs and --alignments are told with --details; add it")


def inputs_of(path: Path, flags: argparse.Namespace) -> Inputs:
    """The lines of a file; - is standard input."""
    fields: Fields | None = Fields(flags.text_field, flags.id_field)
    is_stdin = str(path) == "-"
    named = is_stdin or path.name.endswith(_JSON_SUFFIXES)
    if flags.input_format == "lines" or (flags.input_format is None and not named):
        fields = None
    return Inputs.of_stdin(fields) if is_stdin else Inputs.of_file(path, fields)


def opened(flags: argparse.Namespace) -> OnnxBartSeq2SeqLM:
    """The model.

    Raises:
        BartOnnxError: as `OnnxBartSeq2SeqLM.from_preset`.
    """
    return OnnxBartSeq2SeqLM.from_preset(
        flags.preset,
        precision=flags.precision,
        device=flags.device,
        threads=flags.threads,
        offline=flags.offline,
    )


def asked_of(lm: OnnxBartSeq2SeqLM, flags: argparse.Namespace) -> Asked:
    """What is asked of it.

    Raises:
        InputError, InputTypeError: an option that cannot be had.
    """
    return lm.by_config(
        options=asked_options(flags),
        generation_config=_config(lm, flags),
        long_input=flags.long_input,
        overlap_sentences=flags.overlap_sentences,
        report=checked_report(flags.details, flags.top_log_probs, flags.alignments),
        speculate=flags.speculate,
    )


def prefix_of(lm: OnnxBartSeq2SeqLM, flags: argparse.Namespace) -> str:
    """What the model reads before every text."""
    return _config(lm, flags).get("prefix") or "" if flags.task else ""


def bulk_of(lm: OnnxBartSeq2SeqLM, flags: argparse.Namespace) -> Bulk:
    """The model with what is asked of it.

    Raises:
        InputError, InputTypeError: an option that cannot be had.
    """
    return Bulk(lm, asked_of(lm, flags), flags.chunk_tokens, prefix_of(lm, flags))


def _config(lm: OnnxBartSeq2SeqLM, flags: argparse.Namespace) -> Mapping[str, Any]:
    """The generation config, with what it keeps for the task."""
    config = lm.generation_config
    return for_summarization(config) if flags.task else config
