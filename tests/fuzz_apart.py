"""Trials in children, some hundred inputs in each, for a reader whose library may not come to an
end, or die: the child is ended with that input, and so it is known which one it was.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import islice

from fuzz_trial import TrialError, Trials

_AT_ONCE = 500


def outcomes_apart(trials: Trials, inputs: Iterator[bytes]) -> Iterator[tuple[bytes, str]]:
    """Each input, and what the reader did with it that it must not do, or ""."""
    while batch := list(islice(inputs, _AT_ONCE)):
        while batch:
            signs, failure, status = _in_child(trials, batch)
            for data, sign in zip(batch, signs, strict=False):
                trials.count += 1
                trials.read += sign == ord("r")
                yield data, ""
            batch = batch[len(signs) :]
            if batch:
                trials.count += 1
                ended = "it did not end" if status == -signal.SIGPROF else "it ended the process"
                yield batch[0], failure or f"{ended} (status {status})"
                batch = batch[1:]


def _in_child(trials: Trials, batch: list[bytes]) -> tuple[bytes, str, int]:
    """Signs of the inputs that were tried; a failure of the next, or ""; how the child ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for data in batch:
                before = trials.read
                trials.try_input(data)
                os.write(writing, b"r" if trials.read > before else b".")
        except TrialError as error:
            os.write(writing, b"!" + str(error).encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        signs, _, failure = pipe.read().partition(b"!")
    _, status = os.waitpid(child, 0)
    return signs, failure.decode(), os.waitstatus_to_exitcode(status)
