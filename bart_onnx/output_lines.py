"""The lines that a command line writes: texts, or JSON objects that a later run can go on from.

Each JSON object says which run wrote it and which text it is of, so that lines of another model,
other options or other inputs are never taken for one's own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from bart_onnx.bulk import Outcome
from bart_onnx.errors import InputError
from bart_onnx.input_lines import Inputs, Line


@dataclass(frozen=True)
class Done:
    """What an earlier run left: how many inputs, how many of them failed, and bytes of lines."""

    inputs: int = 0
    failed: int = 0
    size: int = 0


class Output(Protocol):
    """Where outcomes go; each call's are flushed."""

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Write them, in their order."""


class PlainLines:
    """Texts on standard output, a line each, empty for a blank or failed one.

    A line break inside a text becomes a blank. Errors go to standard error.
    """

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """See `Output`."""
        for each in outcomes:
            for text in each.texts:
                print(" ".join(text.split("\n")))
            if each.error is not None:
                print(f"error: line {each.line.number}: {each.error}", file=sys.stderr)
        sys.stdout.flush()


class JsonLines:
    """JSON objects, one for each input, on standard output or in a file.

    Args:
        run: see `Bulk.run`.
    """

    def __init__(self, file: BinaryIO, run: str) -> None:
        self._file, self._run = file, run

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """See `Output`."""
        self._file.write(b"".join(_encoded(_record(each, self._run)) for each in outcomes))
        self._file.flush()


class OutputFile:
    """A file of JSON lines, open within `with`; what an earlier run wrote into it is kept.

    Raises:
        InputError: no such directory, or the file is the input; within `with`, it cannot be opened.
    """

    def __init__(self, path: Path, inputs: Inputs, overwrite: bool) -> None:
        self._path, self._inputs, self._overwrite = path, inputs, overwrite
        if not path.parent.is_dir():
            raise InputError(
                f"--output is {path}, but there is no directory {path.parent}. Make it first."
            )
        if path.exists() and inputs.path is not None and path.samefile(inputs.path):
            raise InputError(f"--output is {path}, which is the input. Give another file.")

    def __enter__(self) -> Self:
        is_there = self._path.is_file()
        try:
            self._file: BinaryIO = self._path.open("r+b") if is_there else self._path.open("wb")
        except OSError as error:
            raise InputError(f"--output {self._path} cannot be written: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def resumed(self, chunks: Iterable[Sequence[Line]], run: str) -> tuple[JsonLines, Done]:
        """Where to write on, and what is written already.

        Only whole stretches are kept; what follows them is written again.

        Raises:
            InputError: a line is not of this run, or of another input; nothing was changed.
        """
        # What is new, a pipe or a device holds nothing to go on from.
        if not self._file.readable():
            return JsonLines(self._file, run), Done()
        done = Done() if self._overwrite else self._kept(chunks, run)
        self._file.seek(done.size)
        self._file.truncate()
        return JsonLines(self._file, run), done

    def _kept(self, chunks: Iterable[Sequence[Line]], run: str) -> Done:
        done, number = Done(), 0
        for chunk in chunks:
            failed = 0
            for line in chunk:
                number += 1
                record = self._next(line.index, number)
                if record is None:
                    return done
                self._check(record, line, number, run)
                failed += "error" in record
            done = Done(done.inputs + len(chunk), done.failed + failed, self._file.tell())
        if self._file.read(1):
            raise self._strange(number + 1, "is one more than there are inputs")
        return done

    def _next(self, index: int, number: int) -> Mapping[str, Any] | None:
        """The next line; None at the end, and for one whose writer was killed."""
        raw = self._file.readline()
        if not raw.endswith(b"\n"):
            start = _start(index)
            if not start.startswith(raw[: len(start)]):
                raise self._strange(number, "was not written by this command")
            return None
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not {"index", "run", "input"} <= record.keys():
            raise self._strange(number, "was not written by this command")
        return record

    def _check(self, record: Mapping[str, Any], line: Line, number: int, run: str) -> None:
        if record["run"] != run:
            model = str(record["run"]).split("-")[0]
            other = "under other options" if model == run.split("-")[0] else "by another model"
            raise self._strange(number, f"was written {other} (run {record['run']}, not {run})")
        if (record["index"], record["input"]) != (line.index, line.digest):
            source = f"{self._inputs.source} line {line.number}"
            raise self._strange(number, f"is not of {source}, but of another text")

    def _strange(self, number: int, what: str) -> InputError:
        return InputError(
            f"--output {self._path} cannot be gone on with: its line {number} {what}. Give the "
            "inputs, model and options that it was begun with, another file, or --overwrite to "
            "begin it anew."
        )


def _record(outcome: Outcome, run: str) -> dict[str, Any]:
    line = outcome.line
    record: dict[str, Any] = {"index": line.index}
    if line.id is not None:
        record["id"] = line.id
    if outcome.error is not None:
        record["error"] = outcome.error
    else:
        record["text"] = outcome.texts[0]
        if len(outcome.texts) > 1:
            record["texts"] = list(outcome.texts)
        if outcome.result is not None:
            record |= outcome.result.to_dict()
    return {**record, "input": line.digest, "run": run}


def _encoded(record: Mapping[str, Any]) -> bytes:
    """A line. Half characters of an id, which UTF-8 has no bytes for, stay escaped."""
    return f"{json.dumps(record, ensure_ascii=False)}\n".encode(errors="backslashreplace")


def _start(index: int) -> bytes:
    """How every line of that index begins."""
    return json.dumps({"index": index}).removesuffix("}").encode()
