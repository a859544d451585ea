"""What older versions of Keras and KerasNLP called things, and what in a file is no weight."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from keras_files import PRESET, arrays_of, assert_golden, change_json, copy_preset, write_arrays

from exporters.checkpoints import keras
from exporters.checkpoints.checkpoint import Checkpoint

WEIGHTS = "model.weights.h5"


def read(directory: Path) -> Checkpoint:
    return keras.read(directory, source="a test")


OLDER_NAMES = {
    "keras 3 before its rename": lambda name: name.replace(
        "layers/", "_layer_checkpoint_dependencies/"
    ),
    "tf.keras": lambda name: (
        name.replace("layers/", "_layer_checkpoint_dependencies/")
        .replace("/query_dense", "/_query_dense")
        .replace("/key_dense", "/_key_dense")
        .replace("/value_dense", "/_value_dense")
        .replace("/output_dense", "/_output_dense")
    ),
    "tf.keras on Windows": lambda name: name.replace("layers/", "_layer_checkpoint_dependencies\\"),
    "KerasNLP 0.6": lambda name: name.replace("_layer_norm/", "_layernorm/").replace(
        "reversible_embedding", "embedding"
    ),
    "a task": lambda name: f"layers/bart_backbone/{name}",
    "a task of tf.keras": lambda name: f"_backbone/{name}".replace(
        "layers/", "_layer_checkpoint_dependencies/"
    ),
}


@pytest.mark.parametrize("older", OLDER_NAMES)
def test_older_names(tmp_path: Path, older: str) -> None:
    directory = copy_preset(tmp_path / "preset")
    arrays = arrays_of(PRESET / WEIGHTS)
    write_arrays(directory / WEIGHTS, {OLDER_NAMES[older](name): a for name, a in arrays.items()})
    assert_golden(read(directory))
    assert_golden(keras.read_weights_file(directory / WEIGHTS, source="a test"))


def test_training_state_and_random_state_are_left_alone(tmp_path: Path) -> None:
    directory = copy_preset(tmp_path / "preset")
    with h5py.File(directory / WEIGHTS, "r+") as file:
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "u4")
        file["optimizer/vars/0"] = np.int64(3)
        file["_metrics/mean/vars/0"] = np.float64(3)
    assert_golden(read(directory))


def older_config(content: dict) -> None:
    content["module"] = "keras_nlp.src.models.bart.bart_backbone"
    content["registered_name"] = "keras_nlp>BartBackbone"
    content |= {"assets": [], "weights": "model.weights.h5"}
    content["config"]["dtype"] = "float32"


def older_tokenizer(content: dict) -> None:
    content["module"] = "keras_nlp.models.bart.bart_tokenizer"
    content["registered_name"] = "keras_nlp>BartTokenizer"
    del content["config"]["unsplittable_tokens"], content["config"]["config_file"]


def test_keras_nlp_names(tmp_path: Path) -> None:
    directory = copy_preset(tmp_path / "preset")
    for name in ("metadata.json", "task.json", "preprocessor.json"):
        (directory / name).unlink()
    change_json(directory / "config.json", older_config)
    change_json(directory / "tokenizer.json", older_tokenizer)
    checkpoint = read(directory)
    assert_golden(checkpoint)
