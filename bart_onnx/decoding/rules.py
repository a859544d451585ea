"""Rules: which of them some options ask for, and what that means for the scores of the next token.

What each of them does is said in `rule_functions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np

from bart_onnx.decoding.candidates import Candidates, ScoreArray
from bart_onnx.decoding.filters import log_softmax
from bart_onnx.decoding.histories import Histories, IdArray
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.rule_functions import NEEDS_ALL, ONLY_FORCE, RULES
from bart_onnx.errors import InputError

_NEUTRAL = DecodingOptions()


class Rules:
    """The rules that some options ask for.

    Args:
        options: how to decode.
        vocabulary_size: how many tokens there are.

    Attributes:
        needs_all: whether every token's score must be there, because a rule may raise one or
            looks at them all; else the best of each row will do, where `Candidates.doubtful`
            does not name it.
        is_empty: whether nothing is asked for.
        only_forces: whether nothing but forced tokens is asked for, so few that the best of each
            row hold them.

    Raises:
        InputError: an option holds a token id outside the vocabulary; the message names it.
    """

    def __init__(self, options: DecodingOptions, vocabulary_size: int) -> None:
        _check_ids(options, vocabulary_size)
        asked = [name for name in RULES if getattr(options, name) != getattr(_NEUTRAL, name)]
        self._rules = [RULES[name](options) for name in asked]
        self._renormalizes = options.renormalize_logits
        self.is_empty = not asked and not self._renormalizes
        self.needs_all = self._renormalizes or any(
            name in NEEDS_ALL and NEEDS_ALL[name](getattr(options, name)) for name in asked
        )
        self.only_forces = set(asked) <= ONLY_FORCE and not self.needs_all
        self._first = options.forced_bos_token_id
        self._last = min(options.forced_eos_token_id, default=None)

    def apply(self, candidates: Candidates, histories: Histories) -> Mapping[int, str]:
        """Change the scores of what may follow each row, in place.

        Returns:
            Why nothing may follow a row, for each row (of these) that a function of the user's
            left without a token; its scores are minus infinity.
        """
        for rule in self._rules:
            rule(candidates, histories)
        candidates.scores[list(candidates.refused)] = -np.inf
        return candidates.refused

    def forced(self, best: IdArray, lengths: IdArray, limits: IdArray) -> IdArray:
        """What comes in the places of best tokens where these rules do nothing but force.

        Args:
            best: int64 [rows, places], each row's best tokens without rules.
            lengths: int64 [rows, places], tokens before each.
            limits: int64 [rows, 1].
        """
        if self._first is not None:
            best = np.where(lengths == 1, self._first, best)
        if self._last is not None:
            best = np.where(lengths == limits - 1, self._last, best)
        return best

    def renormalized(self, scores: ScoreArray) -> ScoreArray:
        """Scores [rows, columns] as log-probabilities where that is asked; the last step of all.

        As in transformers it comes after the filters of sampling. Columns left out count as minus
        infinity.
        """
        return log_softmax(scores) if self._renormalizes else scores


def _check_ids(options: DecodingOptions, vocabulary_size: int) -> None:
    bos = options.forced_bos_token_id
    held = {
        "sequence_bias": chain.from_iterable(sequence for sequence, _ in options.sequence_bias),
        "bad_words_ids": chain.from_iterable(options.bad_words_ids),
        "forced_bos_token_id": () if bos is None else (bos,),
        "forced_eos_token_id": options.forced_eos_token_id,
        "suppress_tokens": options.suppress_tokens,
        "begin_suppress_tokens": options.begin_suppress_tokens,
        "eos_token_id": options.eos_token_id,
    }
    for name, token_ids in held.items():
        highest = max(token_ids, default=0)
        if highest >= vocabulary_size:
            raise InputError(
                f"{name} holds token id {highest}; this model's ids are 0 to "
                f"{vocabulary_size - 1}. Leave it out."
            )
