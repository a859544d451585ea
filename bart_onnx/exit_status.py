"""How a door's process ends: with a status, and what went wrong in a line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bart_onnx.errors import BartOnnxError

FAILED = 1
# 128 and SIGINT's number, as shells say it.
INTERRUPTED = 130


def exit_status(
    run: Callable[[], int], *, interrupted: str | None = None, file_error: str | None = None
) -> int:
    """What a door ends with: what `run` gives, 1 for an error said, 130 where it is interrupted.

    Args:
        interrupted: what to say when the user interrupts it; None for nothing.
        file_error: what to say before the system's own word, where files may fail; None lets such
            an error through, as one that nobody expects.
    """
    try:
        return run()
    except BartOnnxError as error:
        _say(f"error: {error}")
    except OSError as error:
        if file_error is None:
            raise
        _say(f"error: {file_error}{error}")
    except KeyboardInterrupt:
        if interrupted is not None:
            _say(interrupted)
        return INTERRUPTED
    return FAILED


def _say(message: str) -> None:
    print(message, file=sys.stderr)
