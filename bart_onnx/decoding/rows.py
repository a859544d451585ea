"""Rows: what is known of the sources of a search while they are on their way. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.histories import IdArray


@dataclass
class Rows:
    """Sources in flight.

    Attributes:
        numbers: which of the call's inputs they are, [sources].
        lengths: tokens of each, prompt included, [sources].
        prompt_lengths, limits: [sources].
        sources: each one's line in the search's source ids, [sources].
        steps, drafted: decoder steps and drafted tokens of each so far, [sources].
        tracks: what is written of every copy, [sources, copies, width, ...]: "token_ids", and
            "log_probs", "top_ids" and "top_log_probs" where they are noted.
    """

    numbers: NDArray[np.intp]
    lengths: IdArray
    prompt_lengths: IdArray
    limits: IdArray
    sources: IdArray
    steps: IdArray
    drafted: IdArray
    tracks: dict[str, NDArray[Any]] = field(default_factory=dict)

    def take(self, order: NDArray[np.intp]) -> None:
        """Keep those sources, in that order."""
        self.numbers, self.lengths = self.numbers[order], self.lengths[order]
        self.prompt_lengths, self.limits = self.prompt_lengths[order], self.limits[order]
        self.sources = self.sources[order]
        self.steps, self.drafted = self.steps[order], self.drafted[order]
        self.tracks = {name: track[order] for name, track in self.tracks.items()}

    def join(self, *others: Rows) -> None:
        """Put others' sources behind these; their lines in the source ids follow these' too."""
        every = (self, *others)
        for name in ("numbers", "lengths", "prompt_lengths", "limits", "steps", "drafted"):
            setattr(self, name, np.concatenate([getattr(each, name) for each in every]))
        self.sources, width = np.arange(len(self.numbers)), int(self.limits.max())
        self.tracks = {
            name: np.concatenate([widened(each.tracks[name], 2, width) for each in every])
            for name in self.tracks
        }


def joined(*arrays: NDArray[Any]) -> NDArray[Any]:
    """Arrays of [rows, width] below each other, padded with zeros on the right."""
    width = max(array.shape[1] for array in arrays)
    return np.concatenate([widened(array, 1, width) for array in arrays])


def widened(array: NDArray[Any], axis: int, width: int) -> NDArray[Any]:
    """An array cut to, or padded with zeros to, a width along an axis."""
    lack = width - array.shape[axis]
    if lack <= 0:
        return array[(slice(None),) * axis + (slice(width),)]
    shape = list(array.shape)
    shape[axis] = lack
    return np.concatenate([array, np.zeros(shape, array.dtype)], axis)
