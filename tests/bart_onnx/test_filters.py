"""Filters of what is drawn, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bart_onnx.decoding.filters import Filters, log_softmax, softmax
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.errors import InputError

# Probabilities 0.5, 0.25, 0.125, 0.125.
SHARES = np.log(np.array([[0.125, 0.5, 0.25, 0.125]], np.float32))


def kept(scores: Any, beams: bool = False, **options: Any) -> list[list[int]]:
    """The columns that are left of each row."""
    options = {"do_sample": True, "top_k": 0, **options}
    found = Filters(DecodingOptions(**options), beams).apply(np.array(scores, np.float32))
    return [np.flatnonzero(line > -np.inf).tolist() for line in found]


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 2]),
        # Equals of the last of the best stay.
        ({"top_k": 3}, [0, 1, 2, 3]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.0}, [1]),
        ({"top_p": 0.45}, [1]),
        ({"top_p": 0.55}, [1, 2]),
        # One of two equals is enough, and it is the first.
        ({"top_p": 0.8}, [0, 1, 2]),
        ({"top_p": 0.9}, [0, 1, 2, 3]),
        ({"min_p": 0.3}, [1, 2]),
        ({"min_p": 0.6}, [1]),
        ({"min_p": 0.0}, [0, 1, 2, 3]),
        ({"epsilon_cutoff": 0.2}, [1, 2]),
        ({"epsilon_cutoff": 0.9}, [1]),
        ({"epsilon_cutoff": 1.0}, [0, 1, 2, 3]),
        # The entropy is 1.75 ln 2, so that eta is sqrt(0.4) / 2 ** 1.75 = 0.188.
        ({"eta_cutoff": 0.4}, [1, 2]),
        ({"eta_cutoff": 0.01}, [0, 1, 2, 3]),
        # Surprises are 1, 2 and 3 bits; the nearest to 1.75 bits come first.
        ({"typical_p": 0.2}, [2]),
        ({"typical_p": 0.5}, [1, 2]),
        ({"typical_p": 0.9}, [0, 1, 2, 3]),
        ({"top_k": 2, "top_p": 0.6}, [1]),
    ],
)
def test_what_is_left(options: dict[str, Any], columns: list[int]) -> None:
    assert kept(SHARES, **options) == [columns]
    # In any order of the columns and beside any row, but for equals of which one must go.
    if "top_p" not in options:
        order = [2, 3, 1, 0]
        beside = np.concatenate([SHARES[:, order], np.zeros((1, 4), np.float32)])
        assert sorted(order[column] for column in kept(beside, **options)[0]) == columns


def test_temperature_comes_before_all_others() -> None:
    # Squared and made whole again the shares are 0.727, 0.182, 0.045 and 0.045.
    assert kept(SHARES, top_p=0.7, temperature=0.5) == [[1]]
    assert kept(SHARES, top_p=0.7) == [[1, 2]]
    filters = Filters(DecodingOptions(do_sample=True, top_k=0, temperature=2.0), beams=False)
    assert filters.apply(np.array([[4, -2]], np.float32)).tolist() == [[2, -1]]


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"epsilon_cutoff": 0.9},
        {"eta_cutoff": 0.99, "temperature": 0.2},
    ],
)
def test_beams_keep_one_token_more_than_there_are_ends(options: dict[str, Any]) -> None:
    assert kept(SHARES, beams=False, **options) == [[1]]
    assert kept(SHARES, beams=True, **options) == [[1, 2]]
    assert kept(SHARES, beams=True, eos_token_id=7, **options) == [[1, 2]]
    assert len(kept(SHARES, beams=True, eos_token_id=(7, 8), **options)[0]) >= 3


def test_typical_beams_keep_the_most_typical() -> None:
    assert kept(SHARES, beams=True, typical_p=0.2) == [[1, 2]]


def test_more_is_to_be_kept_than_there_is() -> None:
    for options in ({"top_p": 0.1}, {"min_p": 0.9}, {"typical_p": 0.1}, {"epsilon_cutoff": 0.9}):
        assert kept([[1, 2]], beams=True, eos_token_id=(1, 2, 3), **options) == [[0, 1]]


def test_a_row_without_a_token_stays_so() -> None:
    nothing = np.full((1, 4), -np.inf, np.float32)
    every = {"top_k": 2, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5, "epsilon_cutoff": 0.1}
    assert kept(nothing, eta_cutoff=0.1, **every) == [[]]
    assert softmax(nothing).tolist() == [[0, 0, 0, 0]]
    assert log_softmax(nothing).tolist() == nothing.tolist()


def test_columns_needed() -> None:
    def needed(beams: bool = False, **options: Any) -> int:
        checked = DecodingOptions(do_sample=True, **options)
        return Filters(checked, beams).columns_needed(1000)

    assert needed(top_k=5, top_p=0.5, temperature=3.0) == 6
    assert needed(top_k=1, beams=True, eos_token_id=(1, 2)) == 4
    assert needed(top_k=0, top_p=0.5) == 1000
    assert needed(top_k=2000) == 1000


SCORES = arrays(np.float32, (3, 12), elements=st.floats(-20, 20, width=32))


@given(SCORES, st.integers(1, 9), st.floats(0.1, 0.99), st.sampled_from([0.3, 1.0, 4.0]))
def test_the_best_columns_decide_where_there_is_a_top_k(
    scores: np.ndarray, top_k: int, share: float, temperature: float
) -> None:
    options = DecodingOptions(
        do_sample=True, top_k=top_k, top_p=share, typical_p=share, temperature=temperature
    )
    filters = Filters(options, beams=False)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    count = filters.columns_needed(12)
    divided = ranked / np.float32(temperature)
    sure = (count == 12) | (divided[:, top_k - 1] > divided[:, min(top_k, 11)])
    few = filters.apply(ranked[:, :count])
    every = filters.apply(ranked)
    np.testing.assert_allclose(
        softmax(few)[sure], softmax(every)[sure, :count], rtol=1e-6, atol=1e-7
    )
    assert not softmax(every)[sure, count:].any()


@given(SCORES)
def test_softmax_is_a_distribution(scores: np.ndarray) -> None:
    shares = softmax(scores)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_softmax(scores)), shares, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_that_no_float_holds_is_refused(value):
    with pytest.raises(InputError, match=r"temperature must be .* no float holds"):
        DecodingOptions(do_sample=True, temperature=value)
