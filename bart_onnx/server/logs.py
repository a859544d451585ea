"""Logs: one JSON object a line, without texts that clients sent."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

_TOLD = ("request_id", "method", "route", "status", "seconds")


class JsonLines(logging.Formatter):
    """A record as JSON. Of an exception, and of what caused it, it tells the type and where it was
    raised, and no message: that may quote a client.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: vars(record)[name] for name in _TOLD if name in vars(record)}
        if record.exc_info and record.exc_info[1] is not None:
            told |= _fault(record.exc_info[1])
        return json.dumps(told, ensure_ascii=False, default=str)


def log_to_stderr() -> None:
    """Write every logger's records as JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    # None of these is told, and each is asked of the system for every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def _fault(error: BaseException) -> dict[str, object]:
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
    told: dict[str, object] = {"error": type(error).__name__, "where": where}
    return told if error.__cause__ is None else {**told, "cause": _fault(error.__cause__)}
