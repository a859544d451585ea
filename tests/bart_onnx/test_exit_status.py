"""How doors end: the status, and what is said."""

from __future__ import annotations

import pytest

from bart_onnx.errors import DownloadError, InputError
from bart_onnx.exit_status import exit_status


def raising(error):
    def run():
        raise error

    return run


def test_what_is_run_says_its_status(capsys):
    assert [exit_status(lambda status=status: status) for status in (0, 1)] == [0, 1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "words", "status", "said"),
    [
        (InputError("A is no B."), {}, 1, "error: A is no B.\n"),
        # One of the tree that is an OSError too says for itself what it is of.
        (DownloadError("No hub."), {"file_error": "no file: "}, 1, "error: No hub.\n"),
        (OSError("disk full"), {"file_error": "no file: "}, 1, "error: no file: disk full\n"),
        (OSError("disk full"), {"file_error": ""}, 1, "error: disk full\n"),
        (KeyboardInterrupt(), {}, 130, ""),
        (KeyboardInterrupt(), {"interrupted": "Kept."}, 130, "Kept.\n"),
    ],
)
def test_an_error_is_a_line_and_a_status(capsys, error, words, status, said):
    assert exit_status(raising(error), **words) == status
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("error", [OSError("disk full"), ZeroDivisionError()])
def test_what_nobody_expects_is_let_through(capsys, error):
    with pytest.raises(type(error)):
        exit_status(raising(error))
    assert capsys.readouterr() == ("", "")
