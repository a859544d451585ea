"""The loop: tokens go round until every row has ended. It knows no device, no file and no text.

Rows are independent: each stops at its own end, and a row that has ended leaves the batch. So the
answer for a prompt is the same alone and among any others. Beams and contrastive search have loops
of their own; `generate` is the way to all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.beam import beam_search
from bart_onnx.decoding.contrastive import contrastive_search
from bart_onnx.decoding.drafts import AtPlace, Drafts, Feed
from bart_onnx.decoding.prompts import (
    Efforts,
    Generated,
    IdArray,
    Prompts,
    batches,
    encode,
    fewest_moves,
    in_halves,
    read_prompts,
)
from bart_onnx.decoding.protocols import AnyState, Runner
from bart_onnx.errors import InputTypeError
from bart_onnx.graphs import LOGITS
from bart_onnx.samplers import BeamSampler, ContrastiveSampler, GreedySampler, Sampler
from bart_onnx.samplers.draws import CallDraws


def generate(
    runner: Runner[AnyState],
    prompts: Prompts,
    sampler: Sampler,
    stop_token_ids: Collection[int] = (),
    draws: CallDraws | None = None,
    first_row: int = 0,
    speculate: bool = True,
) -> Generated:
    """Continue each prompt to its first stop token or to the full width.

    Stop tokens inside a prompt do not count: BART's own begins with one (KerasHub
    `BartSeq2SeqLM.generate_step`). Nor do those that stand after it and are overwritten.

    Args:
        draws: where a random sampler draws from; None takes its next call.
        first_row: the number of the first row in that call, where it comes in several batches.
        speculate: whether GreedySampler's rows may be fed drafts from their sources.

    Raises:
        InputError: the sampler asks for more tokens than the vocabulary has.
        InputTypeError: the sampler is called in a way of its own, which this loop does not follow.
    """
    _check_overrides(sampler)
    sampler.check_vocabulary(runner.config.vocabulary_size)
    stops = np.array(sorted(stop_token_ids), np.int64)
    if isinstance(sampler, BeamSampler):
        return beam_search(runner, prompts, sampler, stops)
    if isinstance(sampler, ContrastiveSampler):
        return contrastive_search(runner, prompts, sampler, stops)
    sampling = _Sampling(runner, prompts, sampler, stops, speculate, draws, first_row)
    for _ in sampling.steps():
        pass
    return sampling.generated


@dataclass(frozen=True)
class Progress:
    """Rows that have just got a token, or several.

    Attributes:
        token_ids: of all prompts, int64 [prompts, width].
        numbers: which of the prompts have, [rows].
        lengths: how many tokens each of them has, [rows].
        ended: which of them have come to their end, [rows].
    """

    token_ids: IdArray
    numbers: NDArray[np.intp]
    lengths: IdArray
    ended: NDArray[np.bool_]


def watch(
    runner: Runner[AnyState],
    prompts: Prompts,
    sampler: Sampler,
    stop_token_ids: Collection[int] = (),
    speculate: bool = True,
) -> Iterator[Progress]:
    """Generate, and tell of every step; closing the iterator frees what it holds.

    Samplers that look at several rows at once tell of their end only.
    """
    if isinstance(sampler, BeamSampler | ContrastiveSampler):
        found = generate(runner, prompts, sampler, stop_token_ids)
        rows = np.arange(len(found.lengths))
        yield Progress(found.token_ids, rows, found.lengths, np.ones(len(rows), bool))
        return
    _check_overrides(sampler)
    sampler.check_vocabulary(runner.config.vocabulary_size)
    stops = np.array(sorted(stop_token_ids), np.int64)
    yield from _Sampling(runner, prompts, sampler, stops, speculate).steps()


def _check_overrides(sampler: Sampler) -> None:
    """Refuse what a subclass changes and the loops would pass over."""
    own = {Sampler.__call__, BeamSampler.__call__, ContrastiveSampler.__call__}
    several = isinstance(sampler, BeamSampler | ContrastiveSampler)
    softmax = type(sampler).compute_probabilities is Sampler.compute_probabilities
    if type(sampler).__call__ not in own or (several and not softmax):
        raise InputTypeError(
            f"{type(sampler).__name__} changes how a {type(sampler).__mro__[1].__name__} runs; "
            "generate follows what get_next_token returns. Change that, or call the sampler with "
            "a `next` of your own."
        )


@dataclass
class _Rows:
    """Rows that are being decoded.

    Attributes:
        numbers: which rows of the prompts they are, [rows].
        positions: where each one's next token is written, [rows].
        lines: which line of the batch's random numbers is each one's, [rows].
        drafts: None where there are none.
    """

    numbers: NDArray[np.intp]
    positions: IdArray
    lines: NDArray[np.intp]
    drafts: Drafts | None

    def take(self, order: NDArray[np.intp]) -> None:
        self.numbers, self.positions = self.numbers[order], self.positions[order]
        self.lines = self.lines[order]
        if self.drafts is not None:
            self.drafts.take(order)


class _Sampling(Generic[AnyState]):
    """One call with a sampler that chooses a token at a time."""

    def __init__(
        self,
        runner: Runner[AnyState],
        prompts: Prompts,
        sampler: Sampler,
        stops: IdArray,
        speculate: bool,
        draws: CallDraws | None = None,
        first_row: int = 0,
    ) -> None:
        self._runner, self._prompts, self._sampler, self._stops = runner, prompts, sampler, stops
        if draws is None and sampler.draws is not None:
            draws = sampler.draws.next_call()
        self._draws, self._first_row = draws, first_row
        self._speculates = speculate and type(sampler) is GreedySampler
        self._token_ids = prompts.decoder_token_ids.copy()
        self._width = self._token_ids.shape[1]
        self._lengths = np.full(len(self._token_ids), self._width, np.int64)
        self._steps = np.zeros(len(self._token_ids), np.int64)
        self._drafted = np.zeros(len(self._token_ids), np.int64)

    @property
    def generated(self) -> Generated:
        """What has been generated, after the last step."""
        efforts = Efforts(self._steps, self._drafted)
        return Generated(self._token_ids, self._lengths, efforts=efforts)

    def steps(self) -> Iterator[Progress]:
        """Run; after each step what it has come to."""
        vocabulary_size = self._runner.config.vocabulary_size
        logits = vocabulary_size if LOGITS in self._sampler.wanted else 1
        for numbers in batches(self._prompts, logits, tokens=self._runner.batch_tokens):
            yield from in_halves(numbers, self._run_batch)

    def _run_batch(self, numbers: NDArray[np.intp]) -> Iterator[Progress]:
        """Fill these rows of the token ids and set their lengths."""
        every = np.arange(len(numbers))
        rows = _Rows(numbers, self._prompts.prompt_lengths[numbers], every, self._drafts(numbers))
        uniforms = None
        if self._draws is not None:
            lines = (numbers + self._first_row).tolist()
            uniforms = self._draws.uniforms(lines, self._width)
        state = encode(self._runner, self._prompts, numbers)
        alive = self._write(rows, every, self._read(state, rows, uniforms))
        while True:
            self._steps[rows.numbers] += 1
            yield Progress(self._token_ids, rows.numbers, rows.positions, ~alive)
            if not alive.all():
                self._lengths[rows.numbers[~alive]] = rows.positions[~alive]
                order = fewest_moves(alive)
                if not len(order):
                    return
                state.select(order)
                rows.take(order)
            alive = self._step(state, rows, _here(uniforms, rows))

    def _drafts(self, numbers: NDArray[np.intp]) -> Drafts | None:
        if not self._speculates:
            return None
        prompts = self._prompts
        return Drafts(prompts.encoder_token_ids[numbers], prompts.encoder_lengths[numbers])

    def _read(self, state: AnyState, rows: _Rows, uniforms: NDArray[np.float64] | None) -> IdArray:
        """Feed the prompts; the token that follows each, [rows]."""
        next_ids = np.empty(len(rows.numbers), np.int64)
        here = _here(uniforms, rows)
        token_ids = self._token_ids[rows.numbers]
        wanted = self._sampler.wanted
        for some, columns, outputs in read_prompts(
            self._runner, state, token_ids, rows.positions, wanted
        ):
            if columns.stop == rows.positions[some.start]:
                drawn = None if here is None else here[some]
                next_ids[some] = self._sampler.next_tokens(outputs, drawn)
        return next_ids

    def _step(
        self, state: AnyState, rows: _Rows, here: NDArray[np.float64] | None
    ) -> NDArray[np.bool_]:
        """Feed the rows, and write what follows; which of them go on, [rows]."""
        feed = self._feed(rows)
        outputs = self._runner.step(state, feed.token_ids, self._sampler.wanted)
        alive = np.ones(len(rows.numbers), bool)

        def follow(place: int, some: NDArray[np.intp]) -> tuple[IdArray, NDArray[np.bool_]]:
            chosen = self._sampler.next_tokens(AtPlace(outputs, place), here)[some]
            alive[some] = self._write(rows, some, chosen)
            return chosen, alive[some]

        feed.verify(follow)
        if feed.token_ids.shape[1] > 1:
            # Of a row that goes on, all but the last token has been fed.
            state.truncate(rows.positions - 1)
        return alive

    def _feed(self, rows: _Rows) -> Feed:
        """Each row's last token, and drafts where they pay."""
        token_ids, lengths = self._token_ids[rows.numbers], rows.positions
        room = self._runner.config.max_sequence_length - int(lengths.max())
        pays = rows.drafts is not None and self._runner.drafts_pay(len(lengths))
        if rows.drafts is None or not pays or room < 1:
            last = token_ids[np.arange(len(lengths)), lengths - 1]
            return Feed(last[:, None], np.zeros(len(lengths), np.int64))
        feed = rows.drafts.feed(token_ids, lengths, np.minimum(self._width - lengths - 1, room))
        self._drafted[rows.numbers] += feed.counts
        return feed

    def _write(self, rows: _Rows, some: NDArray[np.intp], chosen: IdArray) -> NDArray[np.bool_]:
        """Give some of the rows a token; which of them go on."""
        self._token_ids[rows.numbers[some], rows.positions[some]] = chosen
        rows.positions[some] += 1
        return np.asarray(~np.isin(chosen, self._stops) & (rows.positions[some] < self._width))


def _here(uniforms: NDArray[np.float64] | None, rows: _Rows) -> NDArray[np.float64] | None:
    """Each row's random number for its position, [rows]."""
    return None if uniforms is None else uniforms[rows.lines, rows.positions]
