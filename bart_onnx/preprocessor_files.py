"""preprocessor.json of a Keras preset: the sequence lengths that this package keeps there."""

from __future__ import annotations

from pathlib import Path

from bart_onnx.errors import CheckpointError, InputError
from bart_onnx.json_objects import read_object
from bart_onnx.tokenizer_options import LONGEST

LENGTHS = ("encoder_sequence_length", "decoder_sequence_length")


def read_sequence_lengths(directory: Path) -> dict[str, int]:
    """The lengths in a directory's preprocessor.json; empty if there is none, or none in it.

    KerasHub writes no lengths.

    Raises:
        CheckpointError: the file is damaged, or a length is none.
    """
    path = directory / "preprocessor.json"
    if not path.is_file():
        return {}
    try:
        config = read_object(path).get("config")
    except InputError as error:
        raise CheckpointError(f"{path} {error}; copy or download it again.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no preprocessor's config; copy or download it again.")
    found = {name: config[name] for name in LENGTHS if name in config}
    for name, length in found.items():
        if type(length) is not int or not 0 < length <= LONGEST:
            raise CheckpointError(
                f"{path}: {name} is {length!r:.40}; expected a whole number up to {LONGEST}."
            )
    return found
