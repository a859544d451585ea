"""Options of the server: flags, environment and a YAML file all come from one dataclass's fields.

A flag wins over BART_ONNX_NAME in the environment, and that over the file. It knows no model.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from bart_onnx.devices import CPU
from bart_onnx.documents import LongInput
from bart_onnx.errors import InputError, InputTypeError, MissingFileError, MissingPackageError
from bart_onnx.graphs import PRECISIONS
from bart_onnx.server.limits import BATCHINGS
from bart_onnx.store import preset_path

PREFIX = "BART_ONNX_"
_CONFIG = "config"
# Texts that are split have several rows, whose outputs are not one stream.
_LONG_INPUTS = tuple(each for each in get_args(LongInput) if each != "split")

_LARGEST_FILE, _MOST_BRACKETS = 1 << 14, 100
# An int beyond it is no float.
_LARGEST = 1e300
# Anchors make a value of few lines larger than any memory, once it is written out.
_SHOWN = reprlib.Repr()

T = TypeVar("T")


def _option(default: T, explained: str, shown: bool = True) -> T:
    field: T = dataclasses.field(default=default, repr=shown, metadata={"help": explained})
    return field


@dataclass(frozen=True)
class ServerOptions:
    """How a server runs; each field's metadata says what it is.

    Raises:
        InputError: a value out of its range, no preset, or two that are served by one name.
    """

    preset: tuple[str, ...] = _option((), "a model to serve; repeatable")
    host: str = _option("127.0.0.1", "the address to listen at")
    port: int = _option(8000, "the port to listen at; 0 for any that is free")
    api_key: tuple[str, ...] = _option(
        (),
        "who sends one of these may ask; repeatable; better in the environment or the file, since "
        "others on this machine can read a command line",
        shown=False,
    )
    precision: str = _option("fp32", f"one of {', '.join(PRECISIONS)}")
    device: str = _option(CPU, "what runs the model")
    threads: int | None = _option(None, "of one step; unset: the cores this process may use")
    offline: bool = _option(False, "no network, and no export")
    long_input: str = _option(
        "error", f"what becomes of a text longer than the model reads: {' or '.join(_LONG_INPUTS)}"
    )
    speculation: bool = _option(
        False, "draft tokens of greedy requests from their sources, where that is faster"
    )
    rows: int = _option(64, "rows decoded together")
    batching: str = _option(
        "continuous",
        "when rows join: continuous, between any two steps; leaving, when none runs; static, when "
        "none runs, and all are answered when the last has ended",
    )
    cache_tokens: int | None = _option(None, "tokens of all caches; unset: what the device says")
    waiting: int = _option(256, "requests that may wait")
    deadline: float = _option(60.0, "seconds that a request may take, waiting included")
    stall: float = _option(
        60.0,
        "seconds without a turn of an engine that has something to do, after which /health/live "
        "fails; longer than the model reads its longest source",
    )
    body_bytes: int = _option(4 * 2**20, "the largest body, as it comes and inflated")
    characters: int = _option(400_000, "the longest prompts of a request, together")
    prompts: int = _option(32, "prompts of a request")
    sequences: int = _option(16, "beams, or sequences, of a prompt")
    metrics: bool = _option(True, "whether there is /metrics")
    page: bool = _option(True, "whether there is the page at /")
    drain_delay: float = _option(5.0, "seconds after SIGTERM that new requests are told so for")
    drain_timeout: float = _option(30.0, "seconds that requests under way have after that")

    def __post_init__(self) -> None:
        for name in ("threads", "rows", "cache_tokens", "waiting", "body_bytes", "characters"):
            check_least(name, getattr(self, name), 1)
        for name in ("prompts", "sequences"):
            check_least(name, getattr(self, name), 1)
        for name in ("port", "drain_delay", "drain_timeout"):
            check_least(name, getattr(self, name), 0)
        for name, value in (("deadline", self.deadline), ("stall", self.stall)):
            if not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0 and finite, found {value}.")
        if self.port > 65_535:
            raise InputError(f"port must be at most 65535, found {self.port}.")
        _check_known("long_input", self.long_input, _LONG_INPUTS)
        _check_known("precision", self.precision, PRECISIONS)
        _check_known("batching", self.batching, BATCHINGS)
        for key in self.api_key:
            _check_key(key)
        self._check_presets()

    @property
    def names(self) -> dict[str, str]:
        """Each preset by the name that it is served by: the last part of a path or URI."""
        return {served_name(preset): preset for preset in self.preset}

    def _check_presets(self) -> None:
        if not self.preset or not all(self.names):
            raise InputError("There is nothing to serve; name a model with --preset.")
        if len(self.names) < len(self.preset):
            raise InputError(
                f"Two of {', '.join(self.preset)} would be served by the same name, the last part "
                "of their paths; rename one."
            )


def served_name(preset: str) -> str:
    """What clients call a preset; a path that is there by its last part, links not followed."""
    path = preset_path(preset)
    if path is not None:
        return Path(os.path.abspath(path)).name
    parts = preset.rstrip("/").split("/")
    if preset.startswith("kaggle://") and parts[-1].isdigit():
        parts.pop()  # the version
    return parts[-1].split("@")[0]


def option_parser(program: str, epilog: str) -> argparse.ArgumentParser:
    """A parser with a flag for each option."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve models over HTTP. Each option may also be set in the environment, as "
        f"{PREFIX}HOST, and in a YAML file; a flag wins over the environment, and that over the "
        "file.",
        epilog=epilog,
        allow_abbrev=False,
    )
    parser.add_argument(f"--{_CONFIG}", metavar="FILE", help="a YAML file of these options")
    for field in dataclasses.fields(ServerOptions):
        told = "" if field.default in ((), None) else f"; default: {field.default}"
        kind: dict[str, Any] = {"metavar": field.name.rsplit("_", 1)[-1].upper()}
        if field.type == "bool":
            kind = {"action": argparse.BooleanOptionalAction}
        elif field.type == "tuple[str, ...]":
            kind["action"] = "append"
        said = f"{field.metadata['help']}{told}".replace("%", "%%")
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=None, help=said, **kind)
    return parser


def read_options(flags: argparse.Namespace, environment: Mapping[str, str]) -> ServerOptions:
    """The options of a parsed command line, an environment and the file that either names.

    Raises:
        InputError, InputTypeError: a value that cannot be used, or a key of the file that is no
            option.
        MissingFileError, MissingPackageError: no file is there, or nothing to read it with.
    """
    path = flags.config or environment.get(f"{PREFIX}{_CONFIG.upper()}")
    values = dict(_of_file(Path(path))) if path else {}
    for field in dataclasses.fields(ServerOptions):
        name = f"{PREFIX}{field.name.upper()}"
        # What is set to nothing is as good as unset; but no key must not mean that anyone may ask.
        if environment.get(name) or (name in environment and field.type == "tuple[str, ...]"):
            values[field.name] = _read(name, field.type, environment[name])
        given = getattr(flags, field.name)
        if given is not None:
            flag = f"--{field.name.replace('_', '-')}"
            values[field.name] = _read(flag, field.type, given)
    return ServerOptions(**values)


def _of_file(path: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingPackageError(
            f'{path} needs PyYAML, which is not installed; run pip install "bart_onnx[serve]".'
        ) from error
    try:
        found = yaml.safe_load(_text_of(path))
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFileError(f"{path} cannot be read: {error}.") from error
    except Exception as error:  # PyYAML raises what Python does at a value that its tag denies
        raise InputError(f"{path} is not YAML: {error!s:.300}.") from error
    kinds = {field.name: field.type for field in dataclasses.fields(ServerOptions)}
    if not isinstance(found, Mapping) or not set(found) <= set(kinds):
        unknown = sorted(map(str, set(found) - set(kinds))) if isinstance(found, Mapping) else found
        raise InputError(f"{path} must hold options by name, found {_SHOWN.repr(unknown)}.")
    return {name: _of_yaml(f"{name} in {path}", kinds[name], found[name]) for name in found}


def _text_of(path: Path) -> str:
    """The file's text, if it is no more than options take: PyYAML reads "[[[[..." for minutes."""
    text = path.read_text(encoding="utf-8")
    if len(text) > _LARGEST_FILE or sum(map(text.count, "[{?")) > _MOST_BRACKETS:
        raise ValueError("options are shorter, and not nested")
    return text


def _of_yaml(name: str, kind: Any, value: Any) -> Any:
    """A value of the right type as it is; one that only looks like it is refused."""
    if kind == "tuple[str, ...]":
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(each, str) for each in texts):
            return tuple(texts)
    elif kind == "float" and type(value) in (int, float) and abs(value) < _LARGEST:
        return float(value)
    elif type(value).__name__ == kind.removesuffix(" | None"):
        return value
    elif value is None and kind.endswith(" | None"):
        return None
    raise InputTypeError(f"{name} must be {kind}, found {_SHOWN.repr(value)}.")


def _read(name: str, kind: Any, value: Any) -> Any:
    """A value of the command line or the environment."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, Sequence) else value
    try:
        return _READERS[kind.removesuffix(" | None")](value)
    except (ValueError, KeyError):
        raise InputTypeError(f"{name} must be {kind}, found {value!r:.80}.") from None


def _texts(value: str) -> tuple[str, ...]:
    texts = tuple(each.strip() for each in value.split(",") if each.strip())
    if not texts:
        raise ValueError("nothing is between the commas")
    return texts


_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

_READERS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda value: _BOOLEANS[value.lower()],
    "tuple[str, ...]": _texts,
}


def check_least(name: str, value: float | None, least: int) -> None:
    """That a number is in its range, or None.

    Raises:
        InputError: it is less, infinite or NaN.
    """
    if value is not None and not least <= value < math.inf:
        raise InputError(f"{name} must be at least {least} and finite, found {value}.")


def _check_key(key: str) -> None:
    """That a client can send it: a header holds no control characters, and is stripped."""
    if not key or key != key.strip() or not key.isprintable():
        raise InputError(
            "An api_key is blank, begins or ends with white space, or holds what no header can "
            "carry; nobody could send it. Correct it, or leave it out."
        )


def _check_known(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; found {value!r:.80}.")
