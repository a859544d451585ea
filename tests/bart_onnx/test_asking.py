"""What requests want is worked out once, and each still has a call of its own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")

from bart_onnx.errors import InputError
from bart_onnx.server.asking import Asking

DRAWN = {"do_sample": True, "temperature": 1.5, "top_k": 0, "seed": None}


def drawn(asking, **changed):
    """What two batches of one call draw, one after the other."""
    call = asking.call({**DRAWN, **changed})
    return [call.run(call.from_texts(["summarization"]))[0][0][0] for _ in range(2)]


def test_what_is_asked_twice_is_worked_out_once(served_lm):
    asking = Asking(served_lm)
    first, second = (asking.call({"num_beams": 3}, speculate=False) for _ in range(2))
    assert first is not second
    assert first.options is second.options
    assert asking.call({"num_beams": 2}, speculate=False).options.num_beams == 2


def test_a_call_begins_with_its_own_random_numbers(served_lm):
    asking = Asking(served_lm)
    seeded, again = drawn(asking, seed=7), drawn(asking, seed=7)
    for one, other in zip(seeded, again, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
    unseeded = [tuple(drawn(asking)[0].token_ids.tolist()) for _ in range(8)]
    assert len(set(unseeded)) > 1


def test_what_is_refused_is_refused_again(served_lm):
    asking = Asking(served_lm)
    for _ in range(2):
        with pytest.raises(InputError, match="max_length"):
            asking.call({"max_length": 100_000})
    assert asking.call({"max_length": 10}).options.max_length == 10


def test_it_forgets_what_was_asked_long_ago(served_lm):
    asking = Asking(served_lm)
    kept = asking.call({"max_length": 10}).options
    for seed in range(100):
        asking.call({**DRAWN, "seed": seed})
    assert asking.call({"max_length": 10}).options == kept
    assert asking.call({"max_length": 10}).options is not kept
