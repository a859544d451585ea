"""Generation defaults are those that transformers (5.23) takes from the same files.

A Keras preset has none but what this package wrote into it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from keras_files import PRESET
from tiny_checkpoints import golden_config, golden_tensors, write_checkpoint
from transformers import BartForConditionalGeneration

from bart_onnx.decoding.generation_config import for_summarization
from bart_onnx.errors import CheckpointError
from exporters.checkpoints import keras, keras_writer
from exporters.checkpoints.hugging_face import read
from exporters.checkpoints.hugging_face_generation import KNOWN_KEYS

SUMMARY_DEFAULTS = {
    "num_beams": 4,
    "length_penalty": 2.0,
    "early_stopping": True,
    "max_length": 40,
    "min_length": 5,
    "no_repeat_ngram_size": 3,
    "forced_bos_token_id": 0,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        SUMMARY_DEFAULTS,
        {"force_bos_token_to_be_generated": True},
        {"forced_eos_token_id": ..., "eos_token_id": ..., "decoder_start_token_id": ...},
        {"temperature": None, "output_past": True, "do_sample": False, "eos_token_id": [2, 3]},
    ],
)
def test_generation_defaults_in_config_json(tmp_path: Path, changes: dict[str, object]) -> None:
    write_checkpoint(tmp_path, golden_config(**changes), golden_tensors())
    check_generation(tmp_path)


def test_generation_config_json_alone_counts(tmp_path: Path, shared_data: Path) -> None:
    write_checkpoint(tmp_path, golden_config(num_beams=7), golden_tensors())
    published = "distilbart-cnn-6-6.generation_config.json"
    shutil.copyfile(
        shared_data / "bart_vocab" / "hf_reference_configs" / published,
        tmp_path / "generation_config.json",
    )
    assert check_generation(tmp_path)["num_beams"] == 4


def check_generation(directory: Path) -> Mapping[str, Any]:
    found = read(directory, source="test").generation_config
    model = BartForConditionalGeneration.from_pretrained(directory)
    expected = {k: v for k, v in model.generation_config.to_dict().items() if v is not None}
    assert found == {key: value for key, value in expected.items() if key in KNOWN_KEYS}
    assert set(expected) - set(found) <= {
        "_from_model_config",
        "transformers_version",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
    }
    json.dumps(found)
    return found


def test_summarization_task_is_recorded_and_not_applied(tmp_path: Path) -> None:
    tasks = {"summarization": {**SUMMARY_DEFAULTS, "unknown": 1}, "translation": {"num_beams": 9}}
    values = golden_config(task_specific_params=tasks, num_beams=2)
    found = read(write_checkpoint(tmp_path, values, golden_tensors()), source="t").generation_config
    assert found["num_beams"] == 2
    assert found["task_specific_params"] == {"summarization": SUMMARY_DEFAULTS}


def test_a_file_of_its_own_leaves_the_task_of_config_json(tmp_path: Path) -> None:
    tasks = {"summarization": SUMMARY_DEFAULTS}
    values = golden_config(task_specific_params=tasks, num_beams=7, min_length=9)
    write_checkpoint(tmp_path, values, golden_tensors())
    (tmp_path / "generation_config.json").write_text('{"num_beams": 2}')
    found = read(tmp_path, source="t").generation_config
    assert found == {"num_beams": 2, "task_specific_params": tasks}
    merged = for_summarization(found)
    assert (merged["num_beams"], merged["min_length"]) == (4, 5)


@pytest.mark.parametrize("tasks", [None, [], "summarization", {}, {"summarization": 3}])
def test_tasks_of_no_use_are_left_behind(tmp_path: Path, tasks: object) -> None:
    values = golden_config(task_specific_params=tasks)
    found = read(write_checkpoint(tmp_path, values, golden_tensors()), source="t").generation_config
    assert "task_specific_params" not in found


@pytest.mark.parametrize(("prefix", "kept"), [(" ", " "), ("", None), (None, None), (3, None)])
def test_a_prefix_of_texts_is_kept(tmp_path: Path, prefix: object, kept: str | None) -> None:
    write_checkpoint(tmp_path, golden_config(prefix=prefix), golden_tensors())
    found = read(tmp_path, source="it").generation_config
    assert found.get("prefix") == kept
    assert ("prefix" in found) == (kept is not None)


def test_a_saved_keras_preset_keeps_them(tmp_path: Path) -> None:
    source = keras.read(PRESET, source="t")
    own = {"num_beams": 3, "task_specific_params": {"summarization": {"min_length": 5}}}
    saved, none = tmp_path / "saved", tmp_path / "none"
    keras_writer.write(saved, source.config, source.weights, generation_config=own)
    assert keras.read(saved, source="t").generation_config == own
    keras_writer.write(none, source.config, source.weights, generation_config={})
    assert not (none / "generation_config.json").exists()
    (saved / "generation_config.json").write_text('{"num_beams": "many"}')
    with pytest.raises(CheckpointError, match="num_beams"):
        keras.read(saved, source="t")
