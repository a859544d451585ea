"""From a step's outputs to the scores that tokens are chosen by. It knows no search.

Scores are logits, or log-probabilities where beams are ranked by their sums; rules come next and
filters last, in the order of transformers' logits processors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.candidates import Candidates, Outputs, ScoreArray
from bart_onnx.decoding.filters import Filters
from bart_onnx.decoding.histories import Histories, IdArray
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.rules import Rules
from bart_onnx.graphs import LARGEST_TOP_K, LOG_SUM_EXP, LOGITS, TOP_LOGITS, TOP_TOKEN_IDS

# Row -> what is wrong with it.
Complaints = dict[int, str]

NOT_FINITE = (
    "the model's logits are not finite; check the checkpoint, or set remove_invalid_values=True to "
    "go on regardless"
)

NAN_SCORES = "the scores hold NaN after the rules; see what logits_processor makes of them"

NO_TOKEN_LEFT = (
    "the options leave no token that may come; options that forbid tokens: {}. Relax one of them"
)

_SORTED_OUT = (TOP_LOGITS, TOP_TOKEN_IDS, LOG_SUM_EXP)


class Scoring:
    """Scores of the tokens that may follow each row, for one call's options.

    Attributes:
        wanted: the decoder-step outputs that it reads.
        needs_all: whether every row's logits are read, and not only where they are needed.

    Raises:
        InputError: an option names a token that the vocabulary does not have.
    """

    def __init__(self, options: DecodingOptions, vocabulary_size: int) -> None:
        beams = options.num_beams > 1
        self._options, self._log_softmax = options, beams
        self._vocabulary_size = vocabulary_size
        self._rules = Rules(options, vocabulary_size)
        self._filters = Filters(options, beams) if options.do_sample else None
        self.columns = min(_columns(options, self._filters, vocabulary_size), vocabulary_size)
        known = min(LARGEST_TOP_K, vocabulary_size)
        self.needs_all = self._rules.needs_all or self.columns > known
        # Of what is forced or as it came, nothing that was not sorted out may come.
        self._as_sorted = self._rules.only_forces and self._filters is None
        exact = known == vocabulary_size or self._as_sorted
        self.wanted: tuple[str, ...]
        if self.needs_all:
            self.wanted = (LOGITS, *_SORTED_OUT)
        else:
            self.wanted = _SORTED_OUT if exact else (*_SORTED_OUT, LOGITS)

    @property
    def takes_the_best(self) -> bool:
        """Whether each row gets its best token, or a forced one, whatever came before."""
        return self._as_sorted and self.columns == 1

    def taken(self, best: IdArray, lengths: IdArray, limits: IdArray) -> IdArray:
        """What is chosen of best tokens by what `takes_the_best`; see `Rules.forced`."""
        return self._rules.forced(best, lengths, limits)

    def score(
        self, outputs: Outputs, lines: NDArray[np.intp], histories: Histories
    ) -> tuple[ScoreArray, IdArray, Complaints]:
        """Scores and ids of each row's candidates, [rows, columns].

        Beams and single rows get their best, best first; rows that are drawn from get all that
        may be drawn, -inf for what may not.

        Args:
            lines: the line of each row in the outputs, [rows].
        """
        complaints: Complaints = {}
        if self.needs_all:
            candidates = Candidates.every(outputs, self._log_softmax, lines)
            complaints |= self._changed(candidates, histories)
        else:
            candidates = self._of_sorted_out(outputs, lines, histories, complaints)
        if self._filters is not None:
            candidates.scores = self._filters.apply(candidates.scores)
        candidates.scores = self._rules.renormalized(candidates.scores)
        if self._filters is not None:
            return candidates.scores, candidates.token_ids, complaints
        scores, token_ids = candidates.best(self.columns)
        return scores, token_ids, complaints

    def _of_sorted_out(
        self,
        outputs: Outputs,
        lines: NDArray[np.intp],
        histories: Histories,
        complaints: Complaints,
    ) -> Candidates:
        """The sorted-out candidates; those of doubtful rows sorted out anew, from all tokens."""
        picked = {name: outputs[name][lines] for name in _SORTED_OUT}
        candidates = Candidates.sorted_out(picked, self._log_softmax, self._vocabulary_size)
        if self._rules.is_empty and self._filters is None:
            candidates.scores[np.isnan(candidates.scores).any(axis=1)] = -np.inf
            return candidates
        complaints |= self._changed(candidates, histories)
        if self._as_sorted:
            return candidates
        temperature = self._options.temperature if self._filters is not None else 1.0
        rows = candidates.doubtful(self.columns, temperature)
        if not len(rows):
            return candidates
        every = Candidates.every(outputs, self._log_softmax, lines[rows])
        found = self._changed(every, histories.take(rows))
        complaints |= {int(rows[row]): message for row, message in found.items()}
        scores, token_ids = candidates.scores, candidates.token_ids
        scores[rows], token_ids[rows] = every.best(scores.shape[1])
        return Candidates(scores, token_ids, self._vocabulary_size)

    def _changed(self, candidates: Candidates, histories: Histories) -> Complaints:
        """Apply the rules; a row that holds NaN after them has no token, and is complained of."""
        complaints = dict(self._rules.apply(candidates, histories))
        bad = np.flatnonzero(np.isnan(candidates.scores).any(axis=1))
        candidates.scores[bad] = -np.inf
        return complaints | dict.fromkeys(bad.tolist(), NAN_SCORES)

    def broken(self, outputs: Outputs, lines: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which rows have logits that are not finite, where that is not accepted, bool [rows]."""
        if self._options.remove_invalid_values:
            return np.zeros(len(lines), bool)
        return np.asarray(~np.isfinite(outputs[LOG_SUM_EXP][lines, -1]))


def chosen_log_probs(
    outputs: Outputs, lines: NDArray[np.intp], token_ids: IdArray
) -> NDArray[np.float32]:
    """The model's own log-probability of a token of each line, float32 [rows], before all rules."""
    best = np.asarray(outputs[TOP_TOKEN_IDS][lines, -1])
    found = best == token_ids[:, None]
    columns = found.argmax(axis=1)
    logits = np.array(outputs[TOP_LOGITS][lines, -1][np.arange(len(lines)), columns], np.float32)
    missing = np.flatnonzero(~found.any(axis=1))
    if len(missing):
        logits[missing] = outputs[LOGITS][lines[missing], -1, token_ids[missing]]
    return np.asarray(logits - outputs[LOG_SUM_EXP][lines, -1], np.float32)


def _columns(options: DecodingOptions, filters: Filters | None, vocabulary_size: int) -> int:
    """How many of a row's best tokens decide what is chosen.

    Of n beams (1 + end ids) * n are looked at, at least 2 n, so that n are left when each beam's
    ends are taken away (transformers `_beam_search`).
    """
    if filters is not None:
        return filters.columns_needed(vocabulary_size)
    if options.num_beams > 1:
        return beams_looked_at(options)
    return 1


def beams_looked_at(options: DecodingOptions) -> int:
    """Continuations of all beams of a row that are looked at in each step."""
    return max(2, 1 + len(options.eos_token_id)) * options.num_beams


def forbidding(options: DecodingOptions) -> str:
    """The names of the set options that forbid tokens, for a message."""
    plain = DecodingOptions()
    names = [
        name
        for name in (
            "prefix_allowed_tokens_fn",
            "logits_processor",
            "bad_words_ids",
            "suppress_tokens",
            "begin_suppress_tokens",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
            "min_length",
            "min_new_tokens",
            "sequence_bias",
        )
        if getattr(options, name) != getattr(plain, name)
    ]
    return ", ".join(names) or "none"
