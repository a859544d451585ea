"""From a sampler's name to the sampler. It knows the names and nothing of sampling."""

from __future__ import annotations

from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.samplers.greedy_sampler import GreedySampler
from bart_onnx.samplers.sampler import Sampler

_SAMPLERS: dict[str, type[Sampler]] = {"greedy": GreedySampler}


def get(identifier: str | Sampler) -> Sampler:
    """The sampler of that name with its default arguments, or the sampler itself.

    Raises:
        InputError: no sampler has that name.
        InputTypeError: neither a name nor a sampler, for example a sampler's class.
    """
    if isinstance(identifier, Sampler):
        return identifier
    if not isinstance(identifier, str):
        raise InputTypeError(
            f"A sampler is a name or a Sampler object, found {identifier!r}; names: "
            f"{', '.join(_SAMPLERS)}."
        )
    if identifier not in _SAMPLERS:
        raise InputError(f"Sampler {identifier!r} is unknown; samplers: {', '.join(_SAMPLERS)}.")
    return _SAMPLERS[identifier]()
