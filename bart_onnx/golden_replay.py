"""Golden requests asked again: alone and together, and what came otherwise.

It knows what a request means and how answers differ; who decodes is given to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_onnx.answers import Model, asked_of
from bart_onnx.configured import Batch, ConfiguredCall
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.errors import BartOnnxError, DecodingError
from bart_onnx.golden import Golden, GoldenRequest
from bart_onnx.reporting import decoded
from bart_onnx.results import Report

# The best hypothesis of each request.
Decode = Callable[[Sequence[GoldenRequest]], Sequence[Hypothesis]]

# Likeliest tokens noted at each place, to tell by how much one came in place of another.
_NOTED = 5


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        differences: a line each; none where all is as it was written.
        largest: the largest difference of a log-probability.
        same_bits: whether alone and together every log-probability was the same to the last bit.
    """

    differences: tuple[str, ...]
    largest: float
    same_bits: bool


def replay(golden: Golden, decode: Decode) -> Replay:
    """Ask each request alone and then all together, and compare with what was written."""
    said, found = [], {}
    for way, groups in (
        ("alone", [[each] for each in golden.requests]),
        ("together", [list(golden.requests)]),
    ):
        try:
            found[way] = [best for group in groups for best in decode(group)]
        except BartOnnxError as error:
            said.append(f"{way}: {error}")
            continue
        for number, (request, best) in enumerate(
            zip(golden.requests, found[way], strict=True), start=1
        ):
            told = _difference(request, best, golden.tolerance)
            if told:
                said.append(f"request {number} {_called(request)}, {way}: {told}")
    largest = [
        _distance(request, best)
        for bests in found.values()
        for request, best in zip(golden.requests, bests, strict=True)
    ]
    return Replay(tuple(said), max(largest, default=0.0), _same_bits(*found.values()))


def replay_texts(golden: Golden, model: Model) -> Iterator[str]:
    """What the tokenizer makes otherwise: of a text its ids, or of the answer its text."""
    preprocessor = model.preprocessor
    if preprocessor is None:
        return
    for number, request in enumerate(golden.requests, start=1):
        if request.text is not None:
            batch = _call(model, request).from_texts([request.text])
            ids = batch.sources[0].tolist()
            if ids != list(request.source_ids):
                yield (
                    f"request {number} {_called(request)}: the tokenizer makes ids {ids} of it, "
                    f"not {list(request.source_ids)}"
                )
        if request.output is not None:
            (text,) = decoded(preprocessor, [np.array(request.ids, np.int64)])
            if text != request.output:
                yield (
                    f"request {number} {_called(request)}: the answer's ids are {text!r}, not "
                    f"{request.output!r}"
                )


def call_and_batch(model: Model, requests: Sequence[GoldenRequest]) -> tuple[ConfiguredCall, Batch]:
    """A call for requests of the same options, and their sources in one batch."""
    sources = [np.array(request.source_ids, np.int64) for request in requests]
    width = max(map(len, sources))
    ids = np.full((len(sources), width), model.config.pad_token_id, np.int64)
    for line, source in zip(ids, sources, strict=True):
        line[: len(source)] = source
    mask = np.arange(width) < np.array([[len(source)] for source in sources])
    call = _call(model, requests[0])
    return call, call.from_arrays({"encoder_token_ids": ids, "encoder_padding_mask": mask})


def decoder(model: Model) -> Decode:
    """What decodes with a model, as `generate` does: those of the same options in one batch."""

    def decode(requests: Sequence[GoldenRequest]) -> list[Hypothesis]:
        found: dict[int, Hypothesis] = {}
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.options.items())), []).append(number)
        for numbers in groups.values():
            call, batch = call_and_batch(model, [requests[number] for number in numbers])
            rows, failed = call.run(batch)
            if failed:
                why = next(iter(failed.values()))
                raise DecodingError(f"A request could not be decoded: {why}.", failed, [])
            found |= {number: row[0] for number, row in zip(numbers, rows, strict=True)}
        return [found[number] for number in range(len(requests))]

    return decode


def _call(model: Model, request: GoldenRequest) -> ConfiguredCall:
    bundle: Any = model.runner
    config = bundle.bundle.generation_config
    options = {"do_sample": False, "num_return_sequences": 1, **request.options}
    asked = asked_of(model, config, options, report=Report(_NOTED), speculate=False)
    return ConfiguredCall(model.runner, model.preprocessor, asked)


def _called(request: GoldenRequest) -> str:
    options = ", ".join(f"{name}={value}" for name, value in sorted(request.options.items()))
    source = f"{len(request.source_ids)} ids" if request.text is None else repr(request.text[:40])
    return f"({source}, {options})" if options else f"({source})"


def _difference(request: GoldenRequest, best: Hypothesis, tolerance: float) -> str:
    """What is otherwise with an answer; "" for nothing."""
    ids = best.token_ids.tolist()
    pairs = zip(request.ids, ids, strict=False)
    place = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if place is not None:
        return (
            f"token {place} is {ids[place]}, not {request.ids[place]}, "
            f"{_margin(best, place, request.ids[place])}"
        )
    if len(ids) != len(request.ids):
        return f"{len(ids)} tokens came, not {len(request.ids)}"
    distance = _distance(request, best)
    # Written so that a NaN is told too.
    if not distance <= tolerance:
        place = best.prompt_length + int(np.argmax(_distances(request, best)))
        return (
            f"the log-probability of token {place} is off by {distance:.3g}, allowed are "
            f"{tolerance:g}"
        )
    return ""


def _margin(best: Hypothesis, place: int, expected: int) -> str:
    """By how much the token at a place is likelier here than the one that was expected."""
    line = place - best.prompt_length
    if best.top_ids is None or best.top_log_probs is None or best.log_probs is None or line < 0:
        return "in the prompt"
    top = dict(zip(best.top_ids[line].tolist(), best.top_log_probs[line].tolist(), strict=True))
    if expected not in top:
        return f"which is none of the {_NOTED} likeliest here"
    return f"by a margin of {float(best.log_probs[line]) - top[expected]:.4f}"


def _distances(request: GoldenRequest, best: Hypothesis) -> Any:
    own = np.zeros(0) if best.log_probs is None else best.log_probs.astype(np.float64)
    if len(own) != len(request.log_probs):
        return np.full(1, np.nan)
    return np.abs(own - np.array(request.log_probs))


def _distance(request: GoldenRequest, best: Hypothesis) -> float:
    if tuple(best.token_ids.tolist()) != request.ids:
        return 0.0
    return float(_distances(request, best).max(initial=0.0))


def _same_bits(*ways: Sequence[Hypothesis]) -> bool:
    return len(ways) == 2 and all(
        one.log_probs is not None
        and other.log_probs is not None
        and one.log_probs.tobytes() == other.log_probs.tobytes()
        for one, other in zip(*ways, strict=True)
    )
