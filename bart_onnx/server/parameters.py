"""Parameters: what wires that have no form of their own for decoding ask of it, by name.

They are fields of a `CompletionRequest`, and mean what they mean there; the library's own names for
them are known too. It knows no wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bart_onnx.server.completion_request import EXTENSIONS, CompletionRequest, validated
from bart_onnx.server.failures import Refusal

_NAMES = (*EXTENSIONS, "temperature", "top_p", "top_k", "seed", "stop", "long_input")
_ALIASES: Mapping[str, str] = {
    **{own: name for name, own in EXTENSIONS.items() if own != name},
    "stop_strings": "stop",
}
_DRAW = "do_sample"


def completion_request(
    model: str, texts: list[str], parameters: Mapping[str, Any], **rest: Any
) -> CompletionRequest:
    """Texts and parameters as the request that they are.

    Args:
        rest: other fields of it.

    Raises:
        Refusal: 400; a parameter that there is not, or twice, or not so.
    """
    fields: dict[str, Any] = {}
    called: dict[str, str] = {}
    for given, value in parameters.items():
        name = _ALIASES.get(given, given)
        if name not in (*_NAMES, _DRAW):
            known = ", ".join(sorted((*_NAMES, *_ALIASES, _DRAW)))
            raise Refusal(400, f"There is no parameter {given!r:.80}; there are {known}.")
        if value is None:
            continue
        if name in fields:
            raise Refusal(400, f"{called[name]} and {given} are the same; give one of them.")
        fields[name], called[name] = value, given
    drawn = _drawn(fields.pop(_DRAW, None), fields)
    values = {"model": model, "prompt": texts, **fields, **drawn, **rest}
    return validated(CompletionRequest, values, called)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that stand in two places.

    Raises:
        Refusal: 400; one stands in both.
    """
    twice = sorted(first.keys() & second.keys())
    if twice:
        raise Refusal(400, f"{twice[0]:.80} is given in two places; give it in one.")
    return {**first, **second}


def _drawn(asked: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What do_sample adds: a temperature, which is what asks for draws here."""
    if not isinstance(asked, bool | None):
        raise Refusal(400, f"{_DRAW} must be true or false.", param=_DRAW)
    temperature = fields.get("temperature")
    if temperature is None:
        return {"temperature": 1.0} if asked else {}
    if asked is not None and asked is not bool(temperature):
        raise Refusal(
            400, f"{_DRAW} and temperature exclude each other: a temperature above 0 draws."
        )
    return {}
