"""KerasHub as the judge: it loads what we write, and what it saves is what we read.

Where it is installed: `pip install keras-hub==0.32.0 keras==3.15.1 torch` in an environment of its
own, which is large. Any backend will do; without a choice it is torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_files import GOLDEN, PRESET

from bart_onnx import BartTokenizer
from bart_onnx.config import BartConfig
from bart_onnx.weights import weight_shapes
from exporters.checkpoints import hugging_face, hugging_face_writer, keras, keras_writer
from exporters.checkpoints.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = BartConfig(305, 3, 2, 8, 12, max_sequence_length=16)


@pytest.fixture(scope="module")
def keras_hub() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras_hub", reason="KerasHub is in an environment of its own")


@pytest.fixture
def tokenizer() -> BartTokenizer:
    return BartTokenizer.from_files(PRESET)


def inputs(config: BartConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    lengths = np.array([9, 6])
    return {
        "encoder_token_ids": random.integers(config.vocabulary_size, size=(2, 9), dtype="i4"),
        "encoder_padding_mask": (np.arange(9) < lengths[:, None]).astype("i4"),
        "decoder_token_ids": random.integers(config.vocabulary_size, size=(2, 7), dtype="i4"),
        "decoder_padding_mask": np.ones((2, 7), "i4"),
    }


def logits(keras_hub: Any, preset: Path, config: BartConfig, **options: Any) -> np.ndarray:
    from keras import ops

    model = keras_hub.models.BartSeq2SeqLM.from_preset(str(preset), **options)
    return np.asarray(ops.convert_to_numpy(model(inputs(config))))


def random_weights(config: BartConfig) -> Mapping[str, Any]:
    random = np.random.default_rng(1)
    arrays = {
        name: random.normal(0, 0.3, shape).astype("f4")
        for name, shape in weight_shapes(config).items()
    }
    return {name: lambda array=array: array for name, array in arrays.items()}


def read(directory: Path) -> Checkpoint:
    return keras.read(directory, source="a test")


@pytest.mark.parametrize("shards", [False, True])
def test_it_loads_what_we_write(
    keras_hub: Any, tmp_path: Path, tokenizer: BartTokenizer, shards: bool
) -> None:
    source = read(PRESET)
    limit = 60_000 / 2**30 if shards else 10
    keras_writer.write(
        tmp_path / "x", source.config, source.weights, tokenizer, max_shard_size=limit
    )
    expected = logits(keras_hub, PRESET, source.config)
    np.testing.assert_array_equal(logits(keras_hub, tmp_path / "x", source.config), expected)


def test_it_loads_a_backbone_without_tokenizer(keras_hub: Any, tmp_path: Path) -> None:
    source = read(PRESET)
    keras_writer.write(tmp_path / "x", source.config, source.weights)
    found = logits(keras_hub, tmp_path / "x", source.config, preprocessor=None)
    np.testing.assert_array_equal(found, logits(keras_hub, PRESET, source.config))


def test_it_takes_our_lengths_and_tokens(
    keras_hub: Any, tmp_path: Path, tokenizer: BartTokenizer
) -> None:
    options = {"add_prefix_space": True, "unsplittable_tokens": ["<s>", "</s>", "<pad>", "<mask>"]}
    own = BartTokenizer(tokenizer.vocabulary, tokenizer.merges, **options)
    keras_writer.write(
        tmp_path / "x",
        CONFIG,
        random_weights(CONFIG),
        own,
        encoder_sequence_length=12,
        decoder_sequence_length=10,
    )
    model = keras_hub.models.BartSeq2SeqLM.from_preset(str(tmp_path / "x"))
    preprocessor = model.preprocessor
    assert preprocessor.encoder_sequence_length == 12
    assert preprocessor.decoder_sequence_length == 10
    assert preprocessor.tokenizer.add_prefix_space
    assert preprocessor.tokenizer("the <mask> fox").tolist() == own("the <mask> fox").tolist()


def test_what_it_saves_of_what_we_wrote_is_the_same(
    keras_hub: Any, tmp_path: Path, tokenizer: BartTokenizer
) -> None:
    weights = random_weights(CONFIG)
    keras_writer.write(tmp_path / "ours", CONFIG, weights, tokenizer)
    model = keras_hub.models.BartSeq2SeqLM.from_preset(str(tmp_path / "ours"))
    model.save_to_preset(str(tmp_path / "theirs"))
    model.save(str(tmp_path / "task.keras"))
    model.save_weights(str(tmp_path / "task.weights.h5"))
    for back in (
        read(tmp_path / "theirs"),
        keras.read_archive(tmp_path / "task.keras", source="a test"),
        keras.read_weights_file(tmp_path / "task.weights.h5", source="a test"),
    ):
        assert back.config == CONFIG
        for name, reader in weights.items():
            np.testing.assert_array_equal(back.weights[name](), reader(), name)


def test_it_loads_our_hugging_face_checkpoint(
    keras_hub: Any, tmp_path: Path, tokenizer: BartTokenizer
) -> None:
    source = read(PRESET)
    hugging_face_writer.write(tmp_path / "x", source.config, source.weights, tokenizer)
    expected = logits(keras_hub, PRESET, source.config)
    found = logits(keras_hub, tmp_path / "x", source.config)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    back = hugging_face.read(tmp_path / "x", source="a test")
    assert back.config.encoder == source.config.encoder


def test_it_loads_the_older_group_as_we_do(keras_hub: Any, tmp_path: Path) -> None:
    import shutil

    import h5py

    shutil.copytree(GOLDEN / "keras_preset", tmp_path / "x", copy_function=shutil.copyfile)
    with h5py.File(tmp_path / "x" / "model.weights.h5", "r+") as file:
        file.move("layers", "_layer_checkpoint_dependencies")
    source = read(tmp_path / "x")
    expected = logits(keras_hub, PRESET, source.config)
    np.testing.assert_array_equal(logits(keras_hub, tmp_path / "x", source.config), expected)
