"""Sampler: the base of every sampler. It knows probabilities, and calls `next` for more of them.

Two callers drive a sampler. The loop of this package hands it the outputs of a decoder step
(`wanted`, `next_tokens`); a caller with a model of his own calls the sampler itself, as KerasHub's
samplers are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bart_onnx.errors import InputError
from bart_onnx.graphs import LOGITS
from bart_onnx.samplers.arguments import checked_temperature
from bart_onnx.samplers.draws import Draws

#: `next(prompt, cache, index)` -> logits [rows, vocabulary], hidden [rows, hidden_dim], cache.
Next = Callable[[NDArray[Any], Any, int], tuple[Any, Any, Any]]


class Sampler:
    """Chooses the next token of each row. Subclass it and write `get_next_token`.

    A subclass of any sampler that changes `get_next_token` or `compute_probabilities` is given
    whole distributions: what its parent reads of a step without them holds for the parent only.

    Args:
        temperature: logits are divided by it; above 0.

    Attributes:
        draws: where random numbers come from; None where none are needed.

    Raises:
        InputError, InputTypeError: temperature is not a number above 0.
    """

    temperature: float = 1.0
    draws: Draws | None = None

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = checked_temperature(temperature)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        changed = {"get_next_token", "compute_probabilities"} & set(cls.__dict__)
        if changed and "next_tokens" not in cls.__dict__:
            for name in ("wanted", "next_tokens", "check_vocabulary"):
                setattr(cls, name, Sampler.__dict__[name])

    def get_next_token(self, probabilities: NDArray[np.float32]) -> NDArray[Any]:
        """Token ids [rows] from probabilities float32 [rows, vocabulary]."""
        raise NotImplementedError(f"{type(self).__name__} must define get_next_token.")

    def compute_probabilities(self, logits: Any) -> NDArray[np.float32]:
        """softmax(logits / temperature), float32 [..., vocabulary], whatever the logits' dtype."""
        scaled = np.asarray(logits, np.float32) / np.float32(self.temperature)
        exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        shares: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return shares

    @property
    def wanted(self) -> tuple[str, ...]:
        """The decoder-step outputs that `next_tokens` reads."""
        return (LOGITS,)

    def next_tokens(
        self,
        outputs: Mapping[str, NDArray[Any]],
        uniforms: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """Token ids int64 [rows] that follow the last token of a step with these outputs.

        Args:
            outputs: those `wanted`, [rows, query_length, ...].
            uniforms: float64 [rows] in [0, 1), for a sampler with `draws`.
        """
        probabilities = self.compute_probabilities(outputs[LOGITS][:, -1])
        return np.asarray(self.get_next_token(probabilities)).astype(np.int64).reshape(-1)

    def check_vocabulary(self, vocabulary_size: int) -> None:
        """Raise InputError where the arguments ask for more tokens than there are."""

    def get_config(self) -> dict[str, Any]:
        """The arguments by name, ready for JSON."""
        return {"temperature": self.temperature}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of `get_config`."""
        return cls(**config)

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
        """Fill a prompt from `index` on, as KerasHub 0.32 does.

        Args:
            next: `next(prompt, cache, index)` gives the logits of the token at `index`, the hidden
                states of the one before, and the cache to hand to the next call.
            prompt: token ids [rows, width].
            cache: what `next` is handed first.
            index: where to begin; positions before it are the prompt's in every row.
            mask: [rows, width], int or bool; where it is set, the prompt's token stays.
            stop_token_ids: ids that end a row, outside the mask; None to fill the width.
            hidden_states: [rows, width, hidden_dim] of the prompt, for the contrastive sampler.
            model: not used; KerasHub's backends need it.

        Returns:
            Token ids [rows, width] in the prompt's dtype. Rows that have ended go on until all
            have; only the first stop token says where one ends.
        """
        token_ids, kept = checked_prompt(prompt, mask)
        for position in range(index, token_ids.shape[1]):
            if all_ended(token_ids, kept, stop_token_ids):
                break
            logits, _, cache = next(token_ids, cache, position)
            chosen = np.asarray(self.get_next_token(self.compute_probabilities(logits)))
            write_tokens(token_ids, kept, position, chosen)
        return token_ids


def checked_prompt(prompt: Any, mask: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A copy of the prompt's token ids, and the mask as bool, both [rows, width].

    Raises:
        InputError: the prompt is not of rank 2, or the mask's shape is another.
    """
    token_ids = np.array(prompt)
    if token_ids.ndim != 2:
        raise InputError(f"prompt must have shape [rows, width], found {token_ids.shape}.")
    kept = np.zeros(token_ids.shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if kept.shape != token_ids.shape:
        raise InputError(
            f"prompt has shape {token_ids.shape} and mask has shape {kept.shape}; they must be "
            "equal."
        )
    return token_ids, kept


def all_ended(
    token_ids: NDArray[Any], kept: NDArray[np.bool_], stop_token_ids: Collection[int] | None
) -> bool:
    """Whether every row [..., width] holds a stop token that is not its prompt's."""
    if stop_token_ids is None:
        return False
    stops = np.isin(token_ids, np.array(list(stop_token_ids), np.int64)) & ~kept
    return bool(stops.any(axis=-1).all())


def write_tokens(
    token_ids: NDArray[Any], kept: NDArray[np.bool_], position: int, chosen: NDArray[Any]
) -> None:
    """Put the chosen tokens [...] at a position of [..., width], where the prompt has none."""
    own = token_ids[..., position]
    token_ids[..., position] = np.where(kept[..., position], own, chosen.reshape(own.shape))
