"""Aligner: what a model found is fed to it again, to see what each token looked at.

It has a thread of its own beside the engine's, and knows no search and no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding import replay
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.server.alignment_forms import Span, pieces, source_spans
from bart_onnx.server.requests import Hypotheses
from bart_onnx.server.stage import Stage
from bart_onnx.text_generator import TextGenerator
from bart_onnx.tokenizer import BartTokenizer


class Aligner:
    """Aligns what one model found, a sequence at a time, so that memory is one more row's.

    It is asked in one event loop. A step of its own state may run beside the engine's.

    Attributes:
        stage: where that is done; a prompt whose alignments are asked for holds a place.
    """

    def __init__(self, lm: TextGenerator) -> None:
        self._lm, self.stage = lm, Stage("alignments", "ask without them")

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
        async with self.stage.place(deadline, waiting):
            spans = await self.stage.turn(partial(source_spans, self._tokenizer, text, source))
            return [
                await self.stage.turn(partial(self._align, source, spans, found))
                for found in hypotheses
            ]

    def close(self) -> None:
        """Finish the sequence under way, and end the thread."""
        self.stage.close()

    @property
    def _tokenizer(self) -> BartTokenizer:
        assert self._lm.preprocessor is not None
        return self._lm.preprocessor.tokenizer

    def _align(
        self, source: NDArray[np.int64], spans: Sequence[Span | None], found: Hypothesis
    ) -> list[dict[str, Any]]:
        (lines,) = replay.alignments(self._lm.runner, [source], [found.token_ids], self.heads)
        first = found.prompt_length
        ids = found.token_ids[first:].tolist()
        return pieces(self._tokenizer, ids, lines[first - 1 :], spans)
