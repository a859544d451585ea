"""What values an option may have: option -> check. It knows no meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any

from bart_onnx.errors import InputError, InputTypeError

Check = Callable[[str, Any], Any]

# Far beyond any use; more would ask for memory that nobody has.
_LARGEST_COUNT = 1 << 31
_MOST_BEAMS = 1024
# A length of 1,024 to this power is still far from the largest float32.
_LARGEST_EXPONENT = 8


def _integer(name: str, value: Any, least: int, most: int = _LARGEST_COUNT) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputTypeError(f"{name} must be an integer, found {value!r:.80}.")
    number = int(value)
    if not least <= number <= most:
        raise InputError(f"{name} must be from {least} to {most}, found {number}.")
    return number


def _number(name: str, value: Any, least: float, most: float, open_below: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputTypeError(f"{name} must be a number, found {value!r:.80}.")
    try:
        number = float(value)
    except OverflowError:
        raise InputError(
            f"{name} must be a number that float32 can work with, found one that no float holds."
        ) from None
    if number != 0 and not 1e-30 < abs(number) < 1e30 and math.isfinite(number):
        raise InputError(f"{name} must be a number that float32 can work with, found {value!r}.")
    above = number > least if open_below else number >= least
    if not (above and number <= most and math.isfinite(number)):
        edge = "above" if open_below else "at least"
        upper = "" if math.isinf(most) else f" and at most {most:g}"
        raise InputError(f"{name} must be {edge} {least:g}{upper} and finite, found {value!r}.")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputTypeError(f"{name} must be True or False, found {value!r:.80}.")
    return value


def _stopping(name: str, value: Any) -> Any:
    if not isinstance(value, bool) and value != "never":
        raise InputError(f"{name} must be True, False or 'never', found {value!r:.80}.")
    return value


def _ids(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InputTypeError(f"{name} must be a token id or a list of them, found {value!r:.80}.")
    return tuple(_integer(name, each, 0) for each in value)


def _sequences(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InputTypeError(f"{name} must be a list of lists of token ids, found {value!r:.80}.")
    sequences = tuple(_ids(name, each) for each in value)
    if not all(sequences):
        raise InputError(f"{name} holds an empty sequence; leave it out.")
    return sequences


def _biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    wanted = f"{name} must be pairs of token ids and a number, found"
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise InputTypeError(f"{wanted} {value!r:.80}.")
    found = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputTypeError(f"{wanted} {pair!r:.80}.")
        (sequence,) = _sequences(name, [pair[0]])
        found.append((sequence, _number(name, pair[1], -math.inf, math.inf)))
    return tuple(found)


def _decay(name: str, value: Any) -> tuple[int, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputTypeError(f"{name} must be a pair of start and factor, found {value!r:.80}.")
    return _integer(name, value[0], 0), _number(name, value[1], 0, math.inf, open_below=True)


def _strings(name: str, value: Any) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    if isinstance(strings, bytes | Mapping) or not isinstance(strings, Iterable):
        raise InputTypeError(f"{name} must be a string or a list of them, found {value!r:.80}.")
    strings = tuple(strings)
    if not all(isinstance(each, str) and each for each in strings):
        raise InputTypeError(f"{name} must hold strings, none empty, found {value!r:.80}.")
    return strings


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise InputTypeError(f"{name} must be a function, found {value!r:.80}.")
    return value


def _functions(name: str, value: Any) -> tuple[Any, ...]:
    functions = (value,) if callable(value) else value
    if isinstance(functions, str | bytes | Mapping) or not isinstance(functions, Iterable):
        raise InputTypeError(f"{name} must be a function or a list of them, found {value!r:.80}.")
    return tuple(_function(name, each) for each in functions)


def _optional(check: Check) -> Check:
    def checked(name: str, value: Any) -> Any:
        return None if value is None else check(name, value)

    return checked


_count = partial(_integer, least=0)
_positive = partial(_integer, least=1)
_share = partial(_number, least=0, most=1)
_factor = partial(_number, least=0, most=math.inf, open_below=True)

CHECKS: Mapping[str, Check] = {
    "max_length": _optional(_positive),
    "max_new_tokens": _optional(_positive),
    "min_length": _count,
    "min_new_tokens": _optional(_count),
    "num_beams": partial(_integer, least=1, most=_MOST_BEAMS),
    "num_return_sequences": partial(_integer, least=1, most=_MOST_BEAMS),
    "do_sample": _flag,
    "early_stopping": _stopping,
    "length_penalty": partial(_number, least=-_LARGEST_EXPONENT, most=_LARGEST_EXPONENT),
    "repetition_penalty": _factor,
    "encoder_repetition_penalty": _factor,
    "no_repeat_ngram_size": _count,
    "encoder_no_repeat_ngram_size": _count,
    "bad_words_ids": _sequences,
    "sequence_bias": _biases,
    "suppress_tokens": _ids,
    "begin_suppress_tokens": _ids,
    "forced_bos_token_id": _optional(_count),
    "forced_eos_token_id": _ids,
    "exponential_decay_length_penalty": _optional(_decay),
    "renormalize_logits": _flag,
    "remove_invalid_values": _flag,
    "temperature": _factor,
    "top_k": _count,
    "top_p": _share,
    "min_p": _optional(_share),
    "typical_p": partial(_number, least=0, most=1, open_below=True),
    "epsilon_cutoff": _share,
    "eta_cutoff": _share,
    "eos_token_id": _ids,
    "decoder_start_token_id": _count,
    "stop_strings": _strings,
    "prefix_allowed_tokens_fn": _optional(_function),
    "logits_processor": _functions,
    "seed": _optional(_count),
}
