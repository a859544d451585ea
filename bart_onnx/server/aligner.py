"""Aligner: what a model found is fed to it again, to see what each token looked at.

It has a thread of its own beside the engine's, and knows no search and no HTTP.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding import replay
from bart_onnx.decoding.search import Hypothesis
from bart_onnx.errors import DeadlineError, QueueFullError, SchedulerClosedError
from bart_onnx.server.alignment_forms import Span, pieces, source_spans
from bart_onnx.server.requests import Hypotheses
from bart_onnx.text_generator import TextGenerator
from bart_onnx.tokenizer import BartTokenizer

_LONGEST_RETRY = 30  # seconds

T = TypeVar("T")


class Aligner:
    """Aligns what one model found, a sequence at a time, so that memory is one more row's.

    It is asked in one event loop. A step of its own state may run beside the engine's.

    Attributes:
        waiting: prompts whose alignments are asked for and not told.
        closed: whether no other sequence is begun.
    """

    def __init__(self, lm: TextGenerator) -> None:
        self._lm, self._thread = lm, ThreadPoolExecutor(1, "alignments")
        self.waiting, self.closed = 0, False
        self._took = 0.0  # seconds, the last one

    @property
    def heads(self) -> list[replay.Head]:
        """The heads of the last layer, whose average is told.

        Of the shipped preset's consonants they found the letter for 99.4 %, those of all layers for
        97.5 %, of the first for 94.2 %.
        """
        side = self._lm.config.decoder
        return [(side.num_layers - 1, head) for head in range(side.num_heads)]

    async def aligned(
        self,
        text: str,
        source: NDArray[np.int64],
        hypotheses: Hypotheses,
        waiting: int,
        deadline: float,
    ) -> list[list[dict[str, Any]]]:
        """What the pieces of each hypothesis looked at; see `alignment_forms.pieces`.

        Args:
            text: the prompt.
            source: ids of it that the encoder read, its start and end included.
            waiting: how many prompts may wait for their alignments.
            deadline: seconds that it may take, waiting included.

        Raises:
            QueueFullError: more would wait.
            DeadlineError: it takes longer.
            SchedulerClosedError: it was closed before its turn.
        """
        if self.waiting >= waiting:
            seconds = math.ceil(self._took * self.waiting)
            raise QueueFullError(
                f"{waiting} prompts wait for their alignments already; ask again, or without.",
                min(max(seconds, 1), _LONGEST_RETRY),
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline):
                spans = await self._in_turn(partial(source_spans, self._tokenizer, text, source))
                return [
                    await self._in_turn(partial(self._align, source, spans, found))
                    for found in hypotheses
                ]
        except TimeoutError:
            raise DeadlineError(
                f"Alignments took more than {deadline:g} seconds; ask without them."
            ) from None
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Finish the sequence under way, and end the thread."""
        self.closed = True
        self._thread.shutdown()

    @property
    def _tokenizer(self) -> BartTokenizer:
        assert self._lm.preprocessor is not None
        return self._lm.preprocessor.tokenizer

    async def _in_turn(self, work: Callable[[], T]) -> T:
        def unless_closed() -> T:
            if self.closed:
                raise SchedulerClosedError("Nothing is aligned any more; ask again elsewhere.")
            return work()

        if self.closed:  # then the thread takes nothing
            return unless_closed()
        return await asyncio.get_running_loop().run_in_executor(self._thread, unless_closed)

    def _align(
        self, source: NDArray[np.int64], spans: Sequence[Span | None], found: Hypothesis
    ) -> list[dict[str, Any]]:
        began = time.monotonic()
        (lines,) = replay.alignments(self._lm.runner, [source], [found.token_ids], self.heads)
        first = found.prompt_length
        ids = found.token_ids[first:].tolist()
        told = pieces(self._tokenizer, ids, lines[first - 1 :], spans)
        self._took = time.monotonic() - began
        return told
