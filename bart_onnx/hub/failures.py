"""What went wrong at the hub, in this package's errors. It opens no connection."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from bart_onnx.errors import BartOnnxError, DownloadError, MissingFileError, PresetError
from bart_onnx.hub.uri import FORM, HubUri

# By class in huggingface_hub.errors, the narrower before the wider it derives from.
_MESSAGES: Mapping[str, tuple[type[BartOnnxError], str]] = {
    "GatedRepoError": (
        DownloadError,
        "{uri} is gated: {endpoint} wants its terms accepted. Accept them at "
        "{endpoint}/{repository} and set HF_TOKEN, or run: hf auth login",
    ),
    "DisabledRepoError": (
        DownloadError,
        "{uri} was disabled by {endpoint}; choose another repository.",
    ),
    "RevisionNotFoundError": (
        PresetError,
        "{uri} is unknown: {endpoint} has {repository}, but no revision {revision!r}; its "
        "branches, tags and commits are listed at {endpoint}/{repository}.",
    ),
    "RepositoryNotFoundError": (
        PresetError,
        "{uri} is unknown: {endpoint} has no repository {repository!r}, or it is private. Check "
        f"the name (expected {FORM}); for a private one set HF_TOKEN.",
    ),
    "RemoteEntryNotFoundError": (
        MissingFileError,
        "{uri}: {endpoint} lists a file that it does not have ({found}); try again, or choose "
        "another revision.",
    ),
    "HFValidationError": (
        PresetError,
        f"{{uri}} is no name that the hub allows ({{found}}); expected {FORM}.",
    ),
}


def translate(
    error: Exception, uri: HubUri, endpoint: str, cached: str | None, offline: bool
) -> BartOnnxError:
    """The error to raise for one that huggingface_hub, or what it stands on, raised.

    `cached` is the commit that the cache has of this URI, if any; `offline` tells that only the
    cache was asked.
    """
    if offline:
        return DownloadError(
            f"{uri} was asked for offline, and the cache has only a part of it "
            f"({_first_line(error)}); run once without --offline (and without HF_HUB_OFFLINE)."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"The disk was full while {uri} was downloaded ({error.filename or 'in the cache'}); "
            "make room, or set HF_HOME to a directory on another disk."
        )
    names = {kind.__name__ for kind in type(error).__mro__}
    for name, (kind, message) in _MESSAGES.items():
        if name in names:
            return kind(
                message.format(
                    uri=uri,
                    endpoint=endpoint,
                    repository=uri.repository,
                    revision=uri.revision or "main",
                    found=_first_line(error),
                )
            )
    return _refused(error, uri, endpoint) or _unreachable(error, uri, endpoint, cached)


def _refused(error: Exception, uri: HubUri, endpoint: str) -> DownloadError | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return DownloadError(
            f"{endpoint} refused {uri} (HTTP {status}): there is no such repository, or it may not "
            "be read by all. Check its name, and set HF_TOKEN to a token that may read it."
        )
    if status is None:
        return None
    return DownloadError(
        f"{endpoint} answered HTTP {status} for {uri}; try again later, or set HF_ENDPOINT to "
        "another address of the hub."
    )


def _unreachable(error: Exception, uri: HubUri, endpoint: str, cached: str | None) -> DownloadError:
    use_cache = (
        f" The cache has commit {cached} of it; to use that one, pass --offline or set "
        "HF_HUB_OFFLINE=1."
        if cached
        else ""
    )
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return DownloadError(
        f"{uri} could not be had from {endpoint} ({type(cause).__name__}: {_first_line(cause)}). "
        f"Check the network and HF_ENDPOINT, and try again.{use_cache}"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
