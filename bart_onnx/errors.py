"""Every error this package raises on purpose. It knows nothing else of the package.

    BartOnnxError
    |- InputError(ValueError)                 what a caller passed: text, ids, an option
    |  |- InputTypeError(TypeError)           ... is of the wrong type
    |  |- InputKeyError(KeyError)             ... lacks an entry
    |  `- InputTooLongError                   ... has more tokens than the model has positions
    |- DecodingError(ValueError)              rows that could not be decoded; it holds the others
    |- PresetError(ValueError)                no preset answers to that name
    |- MissingFileError(FileNotFoundError)    a file that must be there is not
    |- CheckpointError(ValueError)            a checkpoint that is damaged or is no BART
    |- BundleError(ValueError)                an exported directory that cannot be used
    |  |- BundleDamagedError                  ... because its bytes are not those that were written
    |  |- BundleFormatError                   ... because another version of this package wrote it
    |  `- GoldenError                         ... because it answers otherwise here than it did
    |- DeviceError(RuntimeError)              a device or provider that is not there
    |  `- DeviceMemoryError                   ... or that has too little free memory
    |- MissingPackageError(ImportError)       an optional package that the call needs
    |- ServingError(RuntimeError)             a request that a scheduler did not take or not finish
    |  |- QueueFullError                      ... because too many wait; it says when to ask again
    |  |- SchedulerClosedError                ... because it is closing
    |  |- RequestCancelledError               ... because who asked no longer wants it
    |  |- DeadlineError(TimeoutError)         ... within its time
    |  `- EngineError                         ... because running the model, or a function, failed
    |- DownloadError(OSError)                 a hub that did not answer or refused
    |- ExportError(RuntimeError)              an export that was stopped; nothing was published
    |- TrainingError(ArithmeticError)         training met a number that is not finite
    `- TrainingStateError(OSError)            how far training is could not be saved

A message says what was asked, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BartOnnxError(Exception):
    """The root of every error raised on purpose."""


class InputError(BartOnnxError, ValueError):
    """A value that a caller passed cannot be used."""


class InputTypeError(InputError, TypeError):
    """A value that a caller passed is of the wrong type."""


class InputKeyError(InputError, KeyError):
    """A mapping that a caller passed lacks an entry."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would put the message in quotes.
        return Exception.__str__(self)


class InputTooLongError(InputError):
    """An input has more tokens than the model has positions."""


class DecodingError(BartOnnxError, ValueError):
    """Some rows could not be decoded; the others were.

    Attributes:
        failed: row -> what went wrong.
        results: what the call would have given, with None for those rows.
    """

    def __init__(self, message: str, failed: Mapping[int, str], results: Any) -> None:
        super().__init__(message)
        self.failed = dict(failed)
        self.results = results


class PresetError(BartOnnxError, ValueError):
    """No preset answers to the name or URI asked for."""


class MissingFileError(BartOnnxError, FileNotFoundError):
    """A file that must be there is not."""


class CheckpointError(BartOnnxError, ValueError):
    """A checkpoint is damaged, contradicts its config, or is no BART language model."""


class BundleError(BartOnnxError, ValueError):
    """An exported directory cannot be used."""


class BundleDamagedError(BundleError):
    """A bundle's bytes are not those that were written."""


class BundleFormatError(BundleError):
    """A bundle was written in a format that this version does not read."""


class GoldenError(BundleError):
    """A bundle answers its golden requests otherwise here than where it was made."""


class DeviceError(BartOnnxError, RuntimeError):
    """A device or execution provider asked for is not there."""


class DeviceMemoryError(DeviceError):
    """A device has too little free memory for what was asked.

    Attributes:
        divisible: whether a batch is to be decoded in halves because of it.
    """

    divisible = False


class MissingPackageError(BartOnnxError, ImportError):
    """An optional package that the call needs is not installed."""


class ServingError(BartOnnxError, RuntimeError):
    """A scheduler did not take a request, or did not finish it."""


class QueueFullError(ServingError):
    """Too many requests wait.

    Attributes:
        retry_after: seconds after which to ask again, 1 to 30.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SchedulerClosedError(ServingError):
    """A scheduler takes no more requests: it finishes those it has, or is closed."""


class RequestCancelledError(ServingError):
    """Who asked no longer wants the answer."""


class DeadlineError(ServingError, TimeoutError):
    """A request was not finished within its time."""


class EngineError(ServingError):
    """Running the model failed, or a function that a request brought with it."""


class DownloadError(BartOnnxError, OSError):
    """A hub did not answer, or refused."""


class ExportError(BartOnnxError, RuntimeError):
    """An export was stopped; nothing was published."""


class TrainingError(BartOnnxError, ArithmeticError):
    """Training met a loss or gradient that is no finite number."""


class TrainingStateError(BartOnnxError, OSError):
    """A training state could not be saved; what was saved before is still there."""


class InputTruncatedWarning(UserWarning):
    """An input was cut to the preprocessor's sequence length."""
