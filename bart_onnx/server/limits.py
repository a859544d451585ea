"""Limits: how much a scheduler takes on at a time. Load: how much it has. They decide nothing."""

from __future__ import annotations

from dataclasses import dataclass

from bart_onnx.errors import InputError

#: See `Limits.batching`.
BATCHINGS = ("continuous", "leaving", "static")


@dataclass(frozen=True)
class Limits:
    """How much is taken on at a time.

    Attributes:
        cache_tokens: tokens that the caches of all requests under way may come to hold: of each
            its source and each of its rows, all as long as the longest of them. Memory has room for
            up to twice as many, so that it need not grow with each.
            None for what the runner says.
        rows: rows decoded together.
        encoder_tokens: source tokens that are encoded for every four steps while rows run; a longer
            source waits for as many steps as it is worth.
        waiting, waiting_tokens: requests that may wait, and tokens of their sources.
        batching: when rows join, and are answered. continuous: between any two steps, when they
            end. The others are there to be compared with, and join when none runs: leaving, to be
            answered when they end; static, when the last of them does, past their deadlines too.

    Raises:
        InputError: a number is not whole, or less than 1; an unknown way.
    """

    cache_tokens: int | None = None
    rows: int = 64
    encoder_tokens: int = 1024
    waiting: int = 256
    waiting_tokens: int = 262_144
    batching: str = "continuous"

    def __post_init__(self) -> None:
        if self.batching not in BATCHINGS:
            known = ", ".join(BATCHINGS)
            raise InputError(f"batching must be one of {known}; found {self.batching!r:.40}.")
        for name, value in vars(self).items():
            if name == "batching" or (name == "cache_tokens" and value is None):
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= 1):
                raise InputError(f"{name} must be a whole number, at least 1; found {value!r}.")


@dataclass(frozen=True)
class Load:
    """What a scheduler has to do.

    Attributes:
        waiting: requests not under way.
        running: requests under way, and `rows`, `cache_tokens` what they take.
    """

    waiting: int
    running: int
    rows: int
    cache_tokens: int
