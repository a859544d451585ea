"""The texts of a command line's inputs: plain lines or JSON objects. It knows no model.

Every line is checked before the first is used, so that a slip in the last is found at once.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bart_onnx.errors import InputError, MissingFileError

_MARK = b"\xef\xbb\xbf"  # what some editors put before UTF-8


@dataclass(frozen=True)
class Line:
    """One input.

    Attributes:
        index: its place among the inputs, from 0.
        number: its place in the file, from 1; blank lines of JSONL are counted here only.
        id: what its object says it is called; None for nothing.
    """

    index: int
    number: int
    text: str
    id: Any = None

    @property
    def digest(self) -> str:
        """What tells its text from others: the beginning of its sha256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Fields:
    """What the fields of a JSON object are called."""

    text: str = "text"
    id: str = "id"


class Inputs:
    """Inputs that can be gone through several times.

    Args:
        source: what messages call them.
        read: gives their lines anew, as bytes.
        fields: of JSON objects; None for plain lines.
        path: their file, where they are in one.

    Raises, when gone through:
        MissingFileError, InputError: no such file, or a line that cannot be used, by its number.
    """

    def __init__(
        self,
        source: str,
        read: Callable[[], Iterable[bytes]],
        fields: Fields | None,
        path: Path | None = None,
    ) -> None:
        self.source, self._read, self._fields, self.path = source, read, fields, path

    @classmethod
    def of_text(cls, text: str) -> Inputs:
        """One text; a line break in it becomes a blank."""
        raw = text.replace("\n", " ").encode(errors="surrogateescape")
        return cls("the text", lambda: [raw], None)

    @classmethod
    def of_file(cls, path: Path, fields: Fields | None = None) -> Inputs:
        """Those of a file; what is no regular file, and can be read once only, is kept."""
        if path.exists() and not path.is_file():
            kept: list[bytes] = []
            return cls(str(path), lambda: _once(kept, _of_path(path)), fields, path)
        return cls(str(path), lambda: _of_path(path), fields, path)

    @classmethod
    def of_stdin(cls, fields: Fields | None = None) -> Inputs:
        """Those of standard input, read to its end at the first use."""
        kept: list[bytes] = []
        return cls("standard input", lambda: _once(kept, sys.stdin.buffer), fields)

    def __iter__(self) -> Iterator[Line]:
        index = 0
        for number, raw in enumerate(self._read(), start=1):
            text = self._decoded(raw.removeprefix(_MARK) if number == 1 else raw, number)
            if self._fields is None:
                yield Line(index, number, text)
            elif text.strip():
                yield self._of_object(text, self._fields, index, number)
            else:
                continue
            index += 1

    def count(self) -> int:
        """How many there are; every one has been read.

        Raises:
            InputError: none of them has any text.
        """
        count, written = 0, False
        for line in self:
            count, written = count + 1, written or bool(line.text.strip())
        if not written:
            raise InputError(f"There is no text to generate from: all of {self.source} is blank.")
        return count

    def _decoded(self, raw: bytes, number: int) -> str:
        try:
            return raw.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.source} cannot be read as UTF-8 text: line {number}: {error}"
            ) from error

    def _of_object(self, text: str, fields: Fields, index: int, number: int) -> Line:
        place = f"{self.source} line {number}"
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{place} is not JSON: {error}. Give an object on each line, or "
                "--input-format lines for plain texts."
            ) from error
        if not isinstance(found, dict):
            raise InputError(f"{place} is no JSON object, but {found!r:.60}. Give an object.")
        if fields.text not in found:
            names = ", ".join(map(repr, found)) or "none"
            raise InputError(
                f"{place} has no field {fields.text!r}; its fields: {names:.200}. Name the one "
                "that holds the text with --text-field."
            )
        value = found[fields.text]
        if not isinstance(value, str):
            raise InputError(f"{place}: {fields.text!r} must be a text, found {value!r:.60}.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{place}: {fields.text!r} is no Unicode text: {error}") from error
        return Line(index, number, value, found.get(fields.id))


def _once(kept: list[bytes], lines: Iterable[bytes]) -> list[bytes]:
    """What can be read once only, kept."""
    if not kept:
        kept.extend(lines)
    return kept


def _of_path(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
