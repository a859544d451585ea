"""Trials in children, some hundred inputs in each, for a reader whose library may not come to an
end: the child is ended with that input, and the next one goes on behind it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import islice

from fuzz_trial import TooLongError, TrialError, Trials

_AT_ONCE = 500


def outcomes_apart(trials: Trials, inputs: Iterator[bytes]) -> Iterator[tuple[bytes, str]]:
    """Each input, and what the reader did with it that it must not do, or "".

    Who comes to no end in time is only counted: it is the library that does not, and who asks it
    for a user ends it likewise.
    """
    while batch := list(islice(inputs, _AT_ONCE)):
        while batch:
            signs, failure, status = _in_child(trials, batch)
            for data, sign in zip(batch, signs, strict=False):
                trials.count += 1
                trials.read += sign == ord("r")
                trials.ended += sign == ord("~")
                yield data, ""
            batch = batch[len(signs) :]
            if batch:
                trials.count += 1
                trials.ended += status == -signal.SIGPROF
                if not failure and status != -signal.SIGPROF:
                    failure = f"the process ended with status {status}"
                yield batch[0], failure
                batch = batch[1:]


def _in_child(trials: Trials, batch: list[bytes]) -> tuple[bytes, str, int]:
    """Signs of the inputs that were tried; a failure of the next, or ""; how the child ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for data in batch:
                os.write(writing, _sign(trials, data))
        except TrialError as error:
            os.write(writing, b"!" + str(error).encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        signs, _, failure = pipe.read().partition(b"!")
    _, status = os.waitpid(child, 0)
    return signs, failure.decode(), os.waitstatus_to_exitcode(status)


def _sign(trials: Trials, data: bytes) -> bytes:
    """What became of an input: read, refused, or "~" where that took too long."""
    before = trials.read
    try:
        trials.try_input(data)
    except TooLongError:
        return b"~"
    return b"r" if trials.read > before else b"."
