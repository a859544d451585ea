"""One generation, timed from inside: the encoder, the first token, and every step after it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.benchmarking.cases import Case
from bart_onnx.config import BartConfig
from bart_onnx.configured import Asked, ConfiguredCall
from bart_onnx.decoding.generation_config import decoding_options
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.runners.opening import BundleRunner


@dataclass(frozen=True)
class Step:
    """A decoder step, from one token of the rows to the next.

    Attributes:
        seconds: of the whole step, the choice of tokens and the moving of caches included.
        cpu_seconds: what all cores gave the process meanwhile; less than `seconds` where others
            had the core too.
        cpu_in_runner: of these, what the runner took; the rest chose tokens and moved caches.
        rows: that were stepped together.
        past: tokens that each row had in its self cache before.
    """

    seconds: float
    cpu_seconds: float
    cpu_in_runner: float
    rows: int
    past: int


@dataclass
class Trial:
    """One generation.

    Attributes:
        seconds: from ids to ids.
        cpu_seconds: what the process was given of all cores meanwhile.
        encoder, cpu_encoder: seconds in the encoder, cross keys and values included, and what all
            cores gave the process meanwhile.
        first_token: seconds until the first batch's rows had a token each.
        steps: those after the first token; a call that needs several batches has those of all.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    encoder: float = 0.0
    cpu_encoder: float = 0.0
    first_token: float = 0.0
    steps: list[Step] = field(default_factory=list)


class ClockedRunner:
    """A runner that notes how long it took; see `decoding.protocols.Runner`.

    Attributes:
        encoder, cpu_encoder: in the encoder so far; see `Trial`.
        cpu_stepped: what all cores gave the process in the last step.
        rows, past: of the last step.
        is_new: whether the encoder has run since this was last set to False.
    """

    def __init__(self, runner: BundleRunner) -> None:
        self._runner = runner
        self.encoder = self.cpu_encoder = self.cpu_stepped = 0.0
        self.rows = self.past = 0
        self.is_new = False

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""
        return self._runner.config

    @property
    def tokens_at_once(self) -> int:
        """The runner's own."""
        return self._runner.tokens_at_once

    @property
    def batch_tokens(self) -> int | None:
        """The runner's own."""
        return self._runner.batch_tokens

    def drafts_pay(self, sources: int) -> bool:
        """Never: every step that is timed gives one token."""
        return False

    def encode(self, token_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Any:
        """The runner's own, timed."""
        started, cpu_started = time.perf_counter(), time.process_time()
        state = self._runner.encode(token_ids, lengths)
        self.encoder += time.perf_counter() - started
        self.cpu_encoder += time.process_time() - cpu_started
        self.is_new = True
        return state

    def step(
        self, state: Any, token_ids: NDArray[np.int64], wanted: Sequence[str]
    ) -> Mapping[str, NDArray[np.generic]]:
        """The runner's own, timed."""
        self.rows, self.past = len(token_ids), int(state.lengths.max())
        started = time.process_time()
        outputs = self._runner.step(state, token_ids, wanted)
        self.cpu_stepped = time.process_time() - started
        return outputs


def run_once(runner: BundleRunner, case: Case) -> Trial:
    """Generate `case.tokens` tokens for every row, and time it."""
    clocked, config = ClockedRunner(runner), runner.config
    call = ConfiguredCall(clocked, None, Asked(_options(case, config)))
    token_ids = case.source_ids(config)
    inputs: dict[str, Any] = {
        "encoder_token_ids": token_ids,
        "encoder_padding_mask": np.ones_like(token_ids),
    }
    trial = Trial()
    started, cpu_started = time.perf_counter(), time.process_time()
    before, cpu_before = started, cpu_started
    searches, _ = call.searches(call.from_arrays(inputs))
    for _ in searches:
        now, cpu_now = time.perf_counter(), time.process_time()
        if clocked.is_new:
            trial.first_token = trial.first_token or now - started
            clocked.is_new = False
        else:
            seconds, cpu_seconds = now - before, cpu_now - cpu_before
            step = Step(seconds, cpu_seconds, clocked.cpu_stepped, clocked.rows, clocked.past)
            trial.steps.append(step)
        before, cpu_before = now, cpu_now
    trial.seconds = time.perf_counter() - started
    trial.cpu_seconds = time.process_time() - cpu_started
    trial.encoder, trial.cpu_encoder = clocked.encoder, clocked.cpu_encoder
    return trial


def _options(case: Case, config: BartConfig) -> DecodingOptions:
    """Exactly so many tokens; no other rule, whatever the checkpoint says."""
    exact = {"min_new_tokens": case.tokens, "max_new_tokens": case.tokens}
    return decoding_options({}, config, {**exact, "num_beams": case.beams})
