"""From a sampler's name or config to the sampler and back. It knows nothing of sampling."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.samplers.beam_sampler import BeamSampler
from bart_onnx.samplers.contrastive_sampler import ContrastiveSampler
from bart_onnx.samplers.greedy_sampler import GreedySampler
from bart_onnx.samplers.random_sampler import RandomSampler
from bart_onnx.samplers.sampler import Sampler
from bart_onnx.samplers.top_k_sampler import TopKSampler
from bart_onnx.samplers.top_p_sampler import TopPSampler

_SAMPLERS: dict[str, type[Sampler]] = {
    "greedy": GreedySampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
    "random": RandomSampler,
    "beam": BeamSampler,
    "contrastive": ContrastiveSampler,
}
_CLASSES = {sampler.__name__: sampler for sampler in _SAMPLERS.values()}
_PACKAGES = ("keras_hub", "keras_nlp")
_SPECULATIVE = ("speculative", "SpeculativeSampler")


def get(identifier: str | Mapping[str, Any] | Sampler | None) -> Sampler | None:
    """The sampler of that name with its default arguments, of that config, or itself.

    Args:
        identifier: "greedy", "top_k", "top_p", "random", "beam" or "contrastive"; what `serialize`
            gives; a Sampler; None for None.

    Raises:
        InputError: no sampler has that name, or an argument of its config is out of range.
        InputTypeError: none of these, for example a sampler's class.
    """
    if identifier is None or isinstance(identifier, Sampler):
        return identifier
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if isinstance(identifier, str):
        return _class(identifier, _SAMPLERS)()
    if inspect.isclass(identifier) and issubclass(identifier, Sampler):
        raise InputTypeError(
            f"A sampler is an object, found the class {identifier.__name__}; pass "
            f"{identifier.__name__}()."
        )
    raise InputTypeError(
        f"A sampler is a name, a Sampler object or its config, found {identifier!r}; names: "
        f"{', '.join(_SAMPLERS)}."
    )


def serialize(sampler: Sampler) -> dict[str, Any]:
    """A sampler as KerasHub writes it: module, class_name, config and registered_name."""
    if not isinstance(sampler, Sampler):
        raise InputTypeError(f"Only a Sampler can be serialized, found {sampler!r}.")
    name = type(sampler).__name__
    known = _CLASSES.get(name) is type(sampler)
    module = type(sampler).__module__
    return {
        "module": f"keras_hub.src.samplers.{module.rpartition('.')[2]}" if known else module,
        "class_name": name,
        "config": sampler.get_config(),
        "registered_name": f"keras_hub>{name}" if known else None,
    }


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, type[Sampler]] | None = None
) -> Sampler:
    """The sampler of a config.

    Args:
        config: {"class_name": ..., "config": {...}}. The name is a class's, also behind
            "keras_hub>" or "keras_nlp>", or a word that `get` takes. Nothing is imported by name.
        custom_objects: further classes by name.

    Raises:
        InputError: no sampler has that name, or it refuses its config.
        InputTypeError: not such a mapping.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
        raise InputTypeError(
            f'A sampler\'s config is {{"class_name": ..., "config": {{...}}}}, found {config!r}.'
        )
    name = config["class_name"]
    package, _, bare = name.rpartition(">")
    known = {**_SAMPLERS, **_CLASSES, **(custom_objects or {})}
    sampler = _class(bare if package in _PACKAGES else name, known)
    arguments = config.get("config") or {}
    try:
        return sampler.from_config(arguments)
    except InputTypeError:
        raise
    except TypeError as error:
        raise InputError(f"{name} cannot be made from config {arguments!r}: {error}.") from error


def _class(name: str, known: Mapping[str, type[Sampler]]) -> type[Sampler]:
    if name in _SPECULATIVE:
        raise InputError(
            "Sampler 'speculative' needs the `next` of a second, smaller model, which KerasHub's "
            f"BART cannot give it either; samplers: {', '.join(_SAMPLERS)}."
        )
    if name not in known:
        raise InputError(f"Sampler {name!r} is unknown; samplers: {', '.join(known)}.")
    return known[name]
