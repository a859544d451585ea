"""Binary tensors of the Open Inference Protocol: JSON with raw bytes behind it, texts as BYTES.

The form is that of Triton's binary tensor data extension (protocol/extension_binary_data.md in
triton-inference-server/server): an element is its length, 4 bytes, little-endian, and its bytes. It
knows no HTTP.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

from bart_onnx.errors import InputError

#: How long a body's JSON is, inflated; what follows is of tensors.
LENGTH_HEADER = "Inference-Header-Content-Length"

_LENGTH = struct.Struct("<I")


def parted(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """A body's JSON, and the bytes behind it.

    Args:
        length: the header's value; None where there is none, and all is JSON.

    Raises:
        InputError: it is no number of bytes that are there.
    """
    if length is None:
        return body, b""
    if not re.fullmatch("[0-9]{1,12}", length) or int(length) > len(body):
        raise InputError(
            f"{LENGTH_HEADER} must be the bytes of JSON in the body, at most its {len(body)}; "
            f"found {length!r:.40}."
        )
    return body[: int(length)], body[int(length) :]


def packed(texts: Iterable[str]) -> bytes:
    """Texts as the elements of a BYTES tensor, in UTF-8."""
    encoded = [text.encode() for text in texts]
    return b"".join(_LENGTH.pack(len(each)) + each for each in encoded)


def unpacked(raw: bytes, count: int) -> list[str]:
    """The texts that a BYTES tensor of `count` elements holds.

    Raises:
        InputError: the bytes are not those of so many elements, or one is not UTF-8.
    """
    texts, place = [], 0
    for number in range(count):
        end = place + _LENGTH.size
        if end > len(raw):
            raise InputError(f"The tensor's bytes end before element {number} of {count}.")
        (length,) = _LENGTH.unpack_from(raw, place)
        place = end + length
        if place > len(raw):
            raise InputError(
                f"Element {number} says that it has {length} bytes; {len(raw) - end} are left."
            )
        try:
            texts.append(raw[end:place].decode())
        except UnicodeDecodeError:
            raise InputError(f"Element {number} is not UTF-8.") from None
    if place < len(raw):
        raise InputError(f"{len(raw) - place} bytes follow the tensor's {count} elements.")
    return texts
