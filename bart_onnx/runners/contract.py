"""What every runner holds its sessions and its callers to."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from bart_onnx.errors import BundleError, InputTooLongError
from bart_onnx.graphs import GraphSpec


def checked_session(session: Any, spec: GraphSpec) -> Any:
    """The session, if its graph takes and gives what the contract says.

    Raises:
        BundleError: it does not.
    """
    for tensors, found in (
        (spec.inputs, session.get_inputs()),
        (spec.outputs, session.get_outputs()),
    ):
        expected = [(tensor.name, list(tensor.shape)) for tensor in tensors]
        given = [(tensor.name, list(tensor.shape)) for tensor in found]
        if given != expected:
            odd = next(pair for pair in zip_longest(expected, given) if pair[0] != pair[1])
            raise BundleError(
                f"The {spec.name} graph does not fit the bundle's config: expected {odd[0]}, "
                f"found {odd[1]}. Export the checkpoint again."
            )
    return session


def check_positions(side: str, length: int, limit: int) -> None:
    """Refuse more tokens than a side of the model has positions.

    Raises:
        InputTooLongError: there are more.
    """
    if length > limit:
        raise InputTooLongError(
            f"The {side} was given {length} tokens; this model has {limit} positions."
        )
