"""ContrastiveSampler: likely tokens that do not repeat what was said before.

Su et al., "A Contrastive Framework for Neural Text Generation" (arXiv 2202.06417). The arithmetic
serves the call by hand here and the loop of `bart_onnx.decoding.contrastive` alike. It knows
probabilities and hidden states only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError
from bart_onnx.samplers.arguments import check_fits, checked_count, checked_share
from bart_onnx.samplers.likeliest import largest
from bart_onnx.samplers.nested_rows import take_rows
from bart_onnx.samplers.sampler import Next, Sampler, all_ended, checked_prompt


class ContrastiveSampler(Sampler):
    """Of the k likeliest tokens, the best by likelihood and novelty (KerasHub 0.32).

    A candidate's score is (1 - alpha) * its probability - alpha * the highest cosine of its hidden
    state with that of any token before it. The k probabilities are not renormalised.

    Args:
        k: how many of the likeliest tokens are tried, at least 1.
        alpha: weight of novelty, from 0, which is greedy, to 1.
        temperature: above 0.

    Raises:
        InputError, InputTypeError: an argument outside its range.
    """

    def __init__(self, k: int = 5, alpha: float = 0.6, *, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        self.k = checked_count("k", k)
        self.alpha = checked_share("alpha", alpha)

    def choose(
        self, probabilities: NDArray[np.float32], similarities: NDArray[np.float32]
    ) -> NDArray[np.intp]:
        """The best candidate of each row, the first of equals, [rows].

        Args:
            probabilities: of the candidates, best first, [rows, k].
            similarities: of each to the tokens before it, `highest_cosines`, [rows, k].
        """
        alpha = np.float32(self.alpha)
        scores = (1 - alpha) * probabilities - alpha * similarities
        return np.asarray(scores.argmax(axis=-1))

    def check_vocabulary(self, vocabulary_size: int) -> None:
        """Raise InputError where k exceeds the vocabulary."""
        check_fits("k", self.k, vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        """The arguments by name, ready for JSON."""
        return {**super().get_config(), "k": self.k, "alpha": self.alpha}

    def __call__(
        self,
        next: Next,
        prompt: Any,
        cache: Any = None,
        index: int = 0,
        mask: Any = None,
        stop_token_ids: Collection[int] | None = None,
        hidden_states: Any = None,
        model: Any = None,
    ) -> Any:
        """Fill a prompt from `index` on; see `Sampler.__call__`.

        `next` is called once for the prompt, and then for each position with k rows for each of
        the prompt's, side by side, whose token at that position is a candidate: as
        `next(candidates, cache, position + 1)`.

        Raises:
            InputError: no `hidden_states`, or k exceeds the vocabulary.
        """
        if hidden_states is None:
            raise InputError("ContrastiveSampler needs hidden_states, [rows, width, hidden_dim].")
        ids, kept = checked_prompt(prompt, mask)
        history = unit_vectors(np.array(hidden_states, np.float32))
        logits = None
        for position in range(index, ids.shape[1]):
            if all_ended(ids, kept, stop_token_ids):
                break
            if logits is None:
                logits, _, cache = next(ids, cache, index)
            logits, cache = self._go_on(next, ids, kept, cache, position, logits, history)
        return ids

    def _go_on(
        self,
        next: Next,
        ids: NDArray[Any],
        kept: NDArray[np.bool_],
        cache: Any,
        position: int,
        logits: Any,
        history: NDArray[np.float32],
    ) -> tuple[NDArray[Any], Any]:
        """Write the tokens at `position` and their hidden states; what `next` gave for them."""
        rows = len(ids)
        probabilities, tokens = self._candidates(logits)
        tokens = np.where(kept[:, position, None], ids[:, position, None], tokens)
        spread = np.repeat(np.arange(rows), self.k)
        tried = ids[spread]
        tried[:, position] = tokens.ravel()
        logits, hidden, cache = next(tried, take_rows(cache, spread), position + 1)
        states = unit_vectors(np.asarray(hidden, np.float32)).reshape(rows, self.k, -1)
        similarities = highest_cosines(history, np.full(rows, position), states)
        chosen = np.arange(rows) * self.k + self.choose(probabilities, similarities)
        ids[:, position] = tried[chosen, position]
        history[:, position] = states.reshape(len(spread), -1)[chosen]
        return np.asarray(logits)[chosen], take_rows(cache, chosen)

    def _candidates(self, logits: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        probabilities = self.compute_probabilities(logits)
        self.check_vocabulary(probabilities.shape[-1])
        tokens = largest(probabilities, self.k)
        return np.take_along_axis(probabilities, tokens, axis=-1), tokens


def unit_vectors(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hidden states [..., hidden_dim] brought to length 1; zeros stay zeros."""
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    return np.asarray(states / np.where(lengths > 0, lengths, 1), np.float32)


def highest_cosines(
    history: NDArray[np.float32], lengths: NDArray[np.integer], states: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The highest cosine of each candidate with the tokens before it, float32 [rows, k].

    Row by row, so that the last bits of a row do not depend on its batch.

    Args:
        history: unit vectors of the tokens so far, [rows, width, hidden_dim].
        lengths: how many of them count, [rows]; -1 is the answer where none does.
        states: unit vectors of the candidates, [rows, k, hidden_dim].
    """
    highest = np.full(states.shape[:2], -1, np.float32)
    for row, length in enumerate(lengths):
        if length > 0:
            highest[row] = (history[row, :length] @ states[row].T).max(axis=0)
    return highest
