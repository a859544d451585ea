"""The form of `hf://org/name[@revision]`. It knows no network and no cache."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bart_onnx.errors import PresetError

SCHEME = "hf://"
FORM = "hf://org/name or hf://org/name@revision"

# The hub's own rules for names: letters, digits, "-", "_", "."; no "--" or ".."; no edge "-" or
# ".". A revision is also a file name in the cache, so it must not climb out of it.
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*"
_REPOSITORY = re.compile(f"{_NAME}/{_NAME}", re.ASCII)
_URI = re.compile(f"{SCHEME}({_NAME}/{_NAME})(?:@({_REVISION}))?", re.ASCII)


@dataclass(frozen=True)
class HubUri:
    """A repository on the hub, and the branch, tag or commit asked for (None: its main branch)."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}{at}"


def is_hub_uri(preset: object) -> bool:
    """Whether a preset is meant as a hub URI, well-formed or not."""
    return isinstance(preset, str) and preset.startswith(SCHEME)


def parse_uri(uri: str) -> HubUri:
    """The parts of a URI.

    Raises:
        PresetError: it is not of the form that the message shows.
    """
    match = _URI.fullmatch(uri)
    if match is None or not _is_allowed(match[1], match[2] or ""):
        raise PresetError(f"{uri[:200]!r} is no hub URI; expected {FORM}.")
    return HubUri(match[1], match[2])


def suggest_uri(preset: str) -> str | None:
    """The URI that a bare `org/name` was probably meant as; None where it looks like no such."""
    if _REPOSITORY.fullmatch(preset) and _is_allowed(preset, ""):
        return SCHEME + preset
    return None


def _is_allowed(repository: str, revision: str) -> bool:
    climbs = ".." in repository or ".." in revision
    return not climbs and "--" not in repository and not repository.endswith(".git")
