"""JSON objects of strangers: parsed only where they are small, shallow and Unicode.

It knows no file and no meaning. Python's parser takes what JSON forbids nobody to write: objects
nested so deeply that whatever looks at them next exhausts the stack, and half characters that no
file name and no tokenizer can hold.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bart_onnx.errors import InputError

# Python objects take up to 17 times the text of strings, so that this much stays under 200 MB...
LIMIT = 8 << 20
# ... and 250 bytes each for lists and objects. A tokenizer.json has one for each of 50,000 merges.
CONTAINER_LIMIT = 1 << 19
DEPTH_LIMIT = 100


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The JSON object in a file, of which no more than `limit` bytes are read.

    Raises:
        InputError: as `parse_object`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise InputError(f"has {size} bytes; expected at most {limit}")
        return parse_object(file.read(size + 1), limit)


def parse_object(data: bytes, limit: int = LIMIT) -> dict[str, Any]:
    """The JSON object in some bytes of UTF-8.

    Raises:
        InputError: there are more than `limit` bytes, they are no JSON, no object, or one that is
            nested over 100 deep, of over 524,288 lists and objects, or has half a character.
    """
    if len(data) > limit:
        raise InputError(f"has {len(data)} bytes; expected at most {limit}")
    containers = data.count(b"[") + data.count(b"{")
    if containers > CONTAINER_LIMIT:
        raise InputError(
            f"is not valid JSON for this: up to {containers} lists and objects; expected at most "
            f"{CONTAINER_LIMIT}"
        )
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"must hold a JSON object, found {type(value).__name__}")
    _check_depth(value)
    if rb"\ud" in data.lower():
        _check_texts(value)
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH_LIMIT:
            raise InputError(f"is not valid JSON for this: nested over {DEPTH_LIMIT} deep")
        level = [
            part
            for each in level
            for part in (each.values() if isinstance(each, dict) else each)
            if isinstance(part, dict | list)
        ]


def _check_texts(value: Any) -> None:
    # A depth that was checked is no danger to the stack.
    if isinstance(value, dict):
        for key, part in value.items():
            _check_texts(key)
            _check_texts(part)
    elif isinstance(value, list):
        for part in value:
            _check_texts(part)
    elif isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"is not valid JSON ({error})") from None
