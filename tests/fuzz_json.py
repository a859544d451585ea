"""Changes the JSON in an input as JSON, so that what is behind the parser is reached too."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

_DECODER = json.JSONDecoder()
_MOST = 400
_ODD = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 1 << 31, 1 << 63, 1 << 64, 10**40, 0.5, -0.0),
    *(1e308, float("inf"), float("nan"), "", "a", "0", "..", "/", "\0", "\ud800", "é", [], {}),
    *([[]], [0], [1, 2], ["a", "a"], {"a": 1}, {"": {}}, [None], [[0, 1], [2]], "a" * 5000),
)


def rewritten(
    data: bytes | bytearray, draw: random.Random, words: Sequence[bytes] = ()
) -> bytes | None:
    """An input with one to four changes inside its first JSON object; None where it has none."""
    parts = _parts(data)
    if parts is None:
        return None
    before, root, after = parts
    try:
        for _ in range(draw.choice((1, 1, 2, 4))):
            _change(root, draw, words)
        changed = json.dumps(root[0], ensure_ascii=draw.random() < 0.5)
    except (ValueError, RecursionError):
        return None
    return before + changed.encode("utf-8", "surrogatepass") + after


def enlarged(data: bytes, text: str) -> Iterator[bytes]:
    """An input with a long text in the place of each value of its JSON, and of each name."""
    for number in range(_MOST):
        parts = _parts(data)
        places = _places(parts[1])[1:] if parts else []
        if parts is None or number >= 2 * len(places):
            return
        before, root, after = parts
        holder, key = places[number // 2]
        if number % 2 == 0:
            holder[key] = text
        elif isinstance(holder, dict):
            holder[text] = holder.pop(key)
        yield before + json.dumps(root[0]).encode() + after


def _parts(data: bytes | bytearray) -> tuple[bytes, list[Any], bytes] | None:
    """What is before the first JSON object of an input, that object in a list, what is after."""
    text = data.decode("utf-8", "surrogateescape")
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    before, after = (part.encode("utf-8", "surrogateescape") for part in (text[:start], text[end:]))
    return before, [value], after


def _change(root: list[Any], draw: random.Random, words: Sequence[bytes]) -> None:
    places = _places(root)
    holder, key = draw.choice(places)
    match draw.randrange(8):
        case 0 | 1:
            holder[key] = _new(draw, words)
        case 2 if holder is not root:
            del holder[key]
        case 3:
            other, at = draw.choice(places)
            holder[key] = copy.deepcopy(other[at])
        case 4 if isinstance(holder, dict):
            name = _name(draw, words, [at for held, at in places if isinstance(held, dict)])
            holder[name] = holder.pop(key) if draw.random() < 0.5 else copy.deepcopy(holder[key])
        case 4:
            holder.insert(key, copy.deepcopy(holder[key]))
        case 5:
            holder[key] = [holder[key]] if draw.random() < 0.5 else {"a": holder[key]}
        case 6:
            holder[key] = _near(holder[key], draw, words)
        case _ if isinstance(holder[key], list):
            holder[key] = holder[key] * draw.choice((2, 3, 9))
        case _:
            holder[key] = _near(holder[key], draw, words)
    # The outermost value stays an object, or nothing behind the parser would be reached.
    if not isinstance(root[0], dict):
        root[:] = [{"a": root[0]}]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Every list or object with each of its keys, as far as there are not too many."""
    found: list[tuple[Any, Any]] = [(root, 0)]
    for holder, key in found:
        value = holder[key]
        if len(found) < _MOST and isinstance(value, dict | list):
            found += (
                (value, at) for at in list(value if isinstance(value, dict) else range(len(value)))
            )
    return found


def _near(value: Any, draw: random.Random, words: Sequence[bytes]) -> Any:
    """A value much like another."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return draw.choice((value + 1, value - 1, -value, value * 2, value // 2, str(value)))
    if isinstance(value, str):
        place = draw.randrange(len(value) + 1)
        return value[:place] + str(_new(draw, words)) + value[place + draw.randrange(3) :]
    return _new(draw, words)


def _new(draw: random.Random, words: Sequence[bytes]) -> Any:
    if not words or draw.random() < 0.6:
        return copy.deepcopy(draw.choice(_ODD))
    word = draw.choice(words).decode("utf-8", "replace")
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        return word


def _name(draw: random.Random, words: Sequence[bytes], known: Sequence[str]) -> str:
    return draw.choice(known) if draw.random() < 0.5 else str(_new(draw, words))
