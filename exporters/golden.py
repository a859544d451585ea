"""Writes golden requests into a new bundle: what it answers to a few texts, once it is judged.

Only what is clear is written. Where the likeliest token leads by less than twice the tolerance,
another machine may rightly take the other one, so the answer ends before that place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bart_onnx.answers import Model
from bart_onnx.bundle import GOLDEN, Bundle
from bart_onnx.config import BartConfig
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.errors import DecodingError, InputError, InputTooLongError
from bart_onnx.golden import MOST_BEAMS, MOST_NEW_TOKENS, Golden, GoldenRequest
from bart_onnx.golden_replay import call_and_batch, decoder
from bart_onnx.graphs import BF16, FP16, FP32, INT8
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.publish import seal, write_json
from bart_onnx.reporting import decoded
from exporters.quality import judge

# Nats that a log-probability may differ by from one machine to another. Kernels that add up in
# another order moved them by up to 2e-5 in float32; an activation that is rounded the other way to
# int8, and half precisions on a GPU against their reference, move them by some hundredths.
TOLERANCES: Mapping[str, float] = {FP32: 1e-3, INT8: 0.1, FP16: 0.05, BF16: 0.2}

TEXTS = (
    "Hello",
    "The quick brown fox jumps over the lazy dog.",
    "The river rose by two metres in the night, and the old bridge was closed to traffic. "
    "Engineers said on Monday that it would be repaired within a month.",
)
_SOURCE_LENGTHS = (3, 12, 40)
_LONGEST_SOURCE = 128


def add_golden(directory: Path, texts: Sequence[str] = TEXTS) -> int:
    """Write golden.json into a sealed bundle, and seal it again; returns how many requests.

    None are written of a bundle that is clear about nothing, as one of random weights may be, or
    whose generation config asks for what this package does not do.

    Raises:
        BundleError: the directory holds no bundle.
    """
    bundle = Bundle.open(directory, verify=False)
    with judge(bundle) as runner:
        model = Model(runner, _preprocessor(bundle))
        try:
            requests = tuple(_requests(bundle, model, texts))
        except InputError:  # such a bundle still serves those who say in full what they want
            requests = ()
    (directory / GOLDEN).unlink(missing_ok=True)
    if requests:
        golden = Golden(TOLERANCES[bundle.precision], requests)
        write_json(directory / GOLDEN, golden.to_dict())
    manifest = dict(bundle.manifest)
    known = {name: file["sha256"] for name, file in manifest.pop("files").items()}
    seal(directory, manifest, {name: known[name] for name in known if name != GOLDEN})
    return len(requests)


def _requests(bundle: Bundle, model: Model, texts: Sequence[str]) -> Iterator[GoldenRequest]:
    tolerance = TOLERANCES[bundle.precision]
    limit = max(1, min(MOST_NEW_TOKENS, bundle.config.max_sequence_length - 1))
    for number, (text, source) in enumerate(_sources(model, texts)):
        request = GoldenRequest(source, {"num_beams": 1, **_length(limit)}, (), (), text)
        clear = _clear_places(_answer(model, request), tolerance)
        if clear:
            yield _answered(model, _with(request, {"num_beams": 1, **_length(clear)}))
        request = _with(request, {"num_beams": MOST_BEAMS, **_length(limit)})
        if number < 2 and _is_clear(model, request, tolerance):
            yield _answered(model, request)


def _length(most: int) -> dict[str, Any]:
    return {"min_length": 0, "max_new_tokens": most}


def _with(request: GoldenRequest, options: Mapping[str, Any]) -> GoldenRequest:
    return GoldenRequest(request.source_ids, options, (), (), request.text)


def _answer(model: Model, request: GoldenRequest) -> Hypothesis:
    (best,) = decoder(model)([request])
    return best


def _answered(model: Model, request: GoldenRequest) -> GoldenRequest:
    best = _answer(model, request)
    if best.log_probs is None or not np.isfinite(best.log_probs).all():
        raise DecodingError("A golden request has log-probabilities that are not finite.", {}, [])
    output = None
    if model.preprocessor is not None:
        (output,) = decoded(model.preprocessor, [best.token_ids])
    return GoldenRequest(
        request.source_ids,
        request.options,
        tuple(best.token_ids.tolist()),
        tuple(float(f"{value:.7g}") for value in best.log_probs.tolist()),
        request.text,
        output,
    )


def _clear_places(best: Hypothesis, tolerance: float) -> int:
    """How many tokens come before the first that was nearly another.

    A rule may put a token before likelier ones; then what follows it is what it is compared with.
    """
    assert best.log_probs is not None
    assert best.top_log_probs is not None
    for place, (own, top) in enumerate(zip(best.log_probs, best.top_log_probs, strict=True)):
        below = top[top < own]
        forced = own < top.min()
        tied = int((top == own).sum()) > 1
        if tied or not (forced or (len(below) and own - below.max() >= 2 * tolerance)):
            return place
    return len(best.log_probs)


def _is_clear(model: Model, request: GoldenRequest, tolerance: float) -> bool:
    """Whether the best beam leads by more than machines differ."""
    call, batch = call_and_batch(model, [_with(request, {**request.options, **_TWO})])
    ((first, second),), _ = call.run(batch)
    return first.score - second.score >= 2 * tolerance


_TWO = {"num_return_sequences": 2}


def _sources(model: Model, texts: Sequence[str]) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    """Texts that the model can read, and their ids; random ids where there is no tokenizer."""
    if model.preprocessor is None:
        yield from ((None, ids) for ids in _random_sources(model.config))
        return
    for text in texts:
        try:
            arrays = model.preprocessor.generate_preprocess([text], long_input="error")
        except InputTooLongError:
            continue
        mask = arrays["encoder_padding_mask"][0]
        ids = tuple(arrays["encoder_token_ids"][0][mask].tolist())
        if len(ids) <= _LONGEST_SOURCE and max(ids) < model.config.vocabulary_size:
            yield text, ids


def _random_sources(config: BartConfig) -> Iterator[tuple[int, ...]]:
    random = np.random.default_rng(0)
    for length in _SOURCE_LENGTHS:
        size = min(length, config.max_sequence_length)
        yield tuple(random.integers(config.vocabulary_size, size=size).tolist())


def _preprocessor(bundle: Bundle) -> BartSeq2SeqLMPreprocessor | None:
    directory = bundle.tokenizer_directory
    if directory is None:
        return None
    return BartSeq2SeqLMPreprocessor.from_files(directory, bundle.config.max_sequence_length)
