"""What a precision costs: the new bundle against the torch module with the checkpoint's weights.

Measured on examples of the user's, or on random tokens where there are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.errors import ExportError, InputError, MissingFileError
from bart_onnx.graphs import HALF_PRECISIONS, LOGITS
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.tokenizer import BartTokenizer
from exporters.bart import Bart
from exporters.checkpoints.checkpoint import Checkpoint
from exporters.progress import Progress
from exporters.rounded_bundle import rounded_bundle
from exporters.verify import full_pass

IdArray = NDArray[np.int64]

# What is allowed where nobody accepts more. Logits: at 0.02 a model of phonemes kept its word error
# rate. The score is in nats a token: 0.05 is a perplexity 5 % higher.
_LARGEST_LOGIT_ERROR = 0.05
_LARGEST_SCORE_LOSS = 0.05

_RANDOM_ROWS, _RANDOM_SOURCE, _RANDOM_TARGET = 4, 64, 16


@dataclass(frozen=True)
class Quality:
    """What a bundle's precision costs.

    Attributes:
        tokens: how many targets were looked at.
        logit_error: root mean square of the logits' differences, as a share of their standard
            deviation.
        token_agreement: share of places where the likeliest token is the same.
        score_before, score_after: mean log-probability of a target token, in nats, by the
            checkpoint and by the bundle; of examples only.
        examples: how many there were; 0 for random tokens.
    """

    tokens: int
    logit_error: float
    token_agreement: float
    examples: int = 0
    score_before: float | None = None
    score_after: float | None = None

    def failures(self) -> list[str]:
        """What is worse than allowed, in words."""
        found = []
        # Written so that a NaN fails too.
        if not self.logit_error <= _LARGEST_LOGIT_ERROR:
            found.append(
                f"the logits' error is {self.logit_error:.3f}, allowed are {_LARGEST_LOGIT_ERROR}"
            )
        if self.score_before is not None and self.score_after is not None:
            loss = self.score_before - self.score_after
            if not loss <= _LARGEST_SCORE_LOSS:
                found.append(
                    f"the examples' score falls by {loss:.3f} nats a token, allowed are "
                    f"{_LARGEST_SCORE_LOSS}"
                )
        return found

    def describe(self) -> str:
        """One sentence for people."""
        text = (
            f"Quality: logit error {self.logit_error:.4f}, the same likeliest token at "
            f"{self.token_agreement:.1%} of {self.tokens} places"
        )
        if self.score_before is None or self.score_after is None:
            return f"{text}, on random tokens."
        return (
            f"{text}; score of {self.examples} examples {self.score_before:.4f} before and "
            f"{self.score_after:.4f} after (nats a token)."
        )


@dataclass(frozen=True)
class Terms:
    """What an export allows: where to measure, and whether more loss is accepted."""

    examples: Path | None = None
    accept_loss: bool = False


NOTHING_ASKED = Terms()


@dataclass(frozen=True)
class Sample:
    """A source and a target, as ids, and the torch module's logits for the target.

    Attributes:
        logits: float32 [target length - 1, vocabulary], of what follows each token but the last.
    """

    source: IdArray
    target: IdArray
    logits: NDArray[np.float32]


def samples(
    checkpoint: Checkpoint, examples: Path | None, tokenizer: BartTokenizer | None
) -> list[Sample]:
    """The torch module's logits for examples, or for random tokens where there are none.

    Raises:
        InputError, MissingFileError: the examples cannot be read, or there is no tokenizer.
    """
    config = checkpoint.config
    pairs = list(_random_pairs(config))
    if examples is not None:
        if tokenizer is None:
            raise InputError(f"{examples} has texts, but the checkpoint has no tokenizer.")
        pairs = read_examples(examples, tokenizer, config)
    bart = Bart.from_weights(config, checkpoint.weights)
    found: list[Sample] = []
    for source, target in pairs:
        outputs = full_pass(bart, source[None], np.array([len(source)]), target[None, :-1])
        check_finite(outputs[LOGITS][0], "the checkpoint", len(found) + 1)
        found.append(Sample(source, target, outputs[LOGITS][0]))
    return found


def quality(bundle: Bundle, known: Sequence[Sample], examples: bool) -> Quality:
    """Decode the samples' targets from the bundle, and compare.

    Raises:
        ExportError: logits that are not finite, which no terms accept.
    """
    squares, spread, agreed, tokens = 0.0, 0.0, 0, 0
    before, after = 0.0, 0.0
    with judge(bundle) as runner:
        decoded = [_decoded(runner, sample) for sample in known]
    for number, (sample, logits) in enumerate(zip(known, decoded, strict=True), start=1):
        check_finite(logits, f"the {bundle.precision} graphs", number)
        places = np.arange(len(logits))
        squares += float(np.square(logits - sample.logits, dtype=np.float64).mean(-1).sum())
        spread += float(np.var(sample.logits, axis=-1, dtype=np.float64).sum())
        agreed += int((logits.argmax(-1) == sample.logits.argmax(-1)).sum())
        tokens += len(logits)
        before += float(_log_softmax(sample.logits)[places, sample.target[1:]].sum())
        after += float(_log_softmax(logits)[places, sample.target[1:]].sum())
    error = float(np.sqrt(squares / max(spread, 1e-30)))
    plain = Quality(tokens, error, agreed / tokens)
    if not examples:
        return plain
    return Quality(tokens, error, agreed / tokens, len(known), before / tokens, after / tokens)


def check_finite(logits: NDArray[np.float32], whose: str, number: int) -> None:
    """Refuse what overflowed.

    Args:
        logits: float32 [tokens, vocabulary] of a sample, whose number this is.

    Raises:
        ExportError: one of them is not finite.
    """
    bad = ~np.isfinite(logits).all(axis=-1)
    if bad.any():
        raise ExportError(
            f"Logits of {whose} are not finite for sample {number}, token {int(bad.argmax())}: a "
            "value is larger than the precision holds. Nothing was published; export with "
            "--precision fp32, or check the checkpoint."
        )


def measure(
    bundle: Bundle, checkpoint: Checkpoint, terms: Terms, progress: Progress
) -> dict[str, Any]:
    """What the bundle's precision costs, for its manifest.

    Torch runs first and is let go before a session opens, so that the weights are in memory once.

    Raises:
        ExportError: more than allowed, and nobody accepted that.
        InputError, MissingFileError: the examples cannot be used.
    """
    directory = bundle.tokenizer_directory
    tokenizer = None if directory is None else BartTokenizer.from_files(directory)
    known = samples(checkpoint, terms.examples, tokenizer)
    found = quality(bundle, known, terms.examples is not None)
    progress.say(found.describe())
    failures = found.failures()
    if failures and not terms.accept_loss:
        raise ExportError(
            f"That is not good enough: {'; '.join(failures)}. Nothing was published; export with "
            "--precision fp32, or with --accept-quality-loss."
        )
    return {**asdict(found), "judged_by": _judged_by(bundle.precision), "accepted_loss": failures}


@contextmanager
def judge(bundle: Bundle) -> Iterator[OrtRunner]:
    """What decodes a bundle on a CPU: itself, or the reference for a half precision.

    onnxruntime runs float16 there too, but keeps results in float32 from one operator to the next,
    so that what overflows on a GPU would not be seen.
    """
    if bundle.precision in HALF_PRECISIONS:
        with rounded_bundle(bundle) as rounded:
            yield OrtRunner(rounded)
    else:
        yield OrtRunner(bundle)


def _judged_by(precision: str) -> str:
    """What `judge` gives, in words for the manifest."""
    if precision not in HALF_PRECISIONS:
        return "onnxruntime on a CPU"
    return f"the same graphs in float32, each result rounded to {HALF_PRECISIONS[precision]}"


def _decoded(runner: OrtRunner, sample: Sample) -> NDArray[np.float32]:
    state = runner.encode(sample.source[None], np.array([len(sample.source)]))
    fed = sample.target[None, :-1]
    steps = []
    for start in range(0, fed.shape[1], 16):
        outputs = runner.step(state, fed[:, start : start + 16], (LOGITS,))
        steps.append(np.array(outputs[LOGITS][0], np.float32))
    return np.concatenate(steps)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _random_pairs(config: BartConfig) -> Iterable[tuple[IdArray, IdArray]]:
    random = np.random.default_rng(0)
    for _ in range(_RANDOM_ROWS):
        lengths = (
            min(size, config.max_sequence_length) for size in (_RANDOM_SOURCE, _RANDOM_TARGET)
        )
        source, target = (random.integers(config.vocabulary_size, size=size) for size in lengths)
        yield source, target


def read_examples(
    path: Path, tokenizer: BartTokenizer, config: BartConfig
) -> list[tuple[IdArray, IdArray]]:
    """Sources and targets of a JSONL file of texts and summaries, cut to what the model reads.

    Raises:
        InputError, MissingFileError: it cannot be read, or a line of it, which is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text: {error}") from error
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"{path} has no examples; give one JSON object a line.")
    longest = config.max_sequence_length
    start, end, begin = config.start_token_id, config.end_token_id, config.decoder_start_token_id
    found = []
    for text, summary in rows:
        source, target = tokenizer.encode_batch([text, summary])
        source = [start, *source[: longest - 2], end]
        target = [begin, start, *target[: longest - 3], end]
        found.append((np.array(source, np.int64), np.array(target, np.int64)))
    return found


def _row(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"Line {number} of {path} is no JSON: {error}.") from error
    fields = values if isinstance(values, dict) else {}
    text, summary = fields.get("text", fields.get("article")), fields.get("summary")
    if isinstance(text, str) and isinstance(summary, str) and text and summary:
        return text, summary
    raise InputError(
        f'Line {number} of {path} needs "text" (or "article") and "summary", both texts.'
    )
