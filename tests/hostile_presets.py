"""Keras presets whose JSON files and links no Keras wrote, and what must be said of each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hostile_hdf5 import Builder, text
from keras_files import change_json


def objects(name: str, change: Callable[[dict[str, Any]], object]) -> Builder:
    """A preset one of whose JSON files was changed."""

    def build(preset: Path) -> Path:
        change_json(preset / name, change)
        return preset

    return build


def index(weight_map: object) -> Builder:
    """A preset in shards, by an index of this weight_map."""

    def build(preset: Path) -> Path:
        os.rename(preset / "model.weights.h5", preset / "model_00000.weights.h5")
        content = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (preset / "model.weights.json").write_text(json.dumps(content))
        return preset

    return build


def link(name: str) -> Builder:
    """A preset one of whose files is a link out of its directory."""

    def build(preset: Path) -> Path:
        outside = preset.parent / f"{preset.name}.outside"
        os.rename(preset / name, outside)
        (preset / name).symlink_to(outside)
        return preset

    return build


def foreign_class(content: dict[str, Any]) -> None:
    """A layer that would run code of its writer's."""
    content["config"]["dtype"] = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"function": "import os"},
        "registered_name": None,
    }


def in_config(**values: object) -> Callable[[dict[str, Any]], object]:
    """Set values under "config"."""
    return lambda content: content["config"].update(values)


def at_top(**values: object) -> Callable[[dict[str, Any]], object]:
    """Set values beside "config"."""
    return lambda content: content.update(values)


def quantized(content: dict[str, Any]) -> None:
    """The dtypes of an int8 preset."""
    policies = {"default_policy": None, "policy_map": {}}
    content["config"]["dtype"] = {
        "module": "keras.dtype_policies",
        "class_name": "DTypePolicyMap",
        "config": policies,
        "registered_name": None,
    }


PRESETS: Mapping[str, tuple[Builder, str]] = {
    "class": (objects("config.json", foreign_class), "names the class 'Lambda'"),
    "class in a list": (
        objects("config.json", in_config(name=[{"class_name": "Lambda", "config": {}}])),
        "names the class 'Lambda'",
    ),
    "other model": (
        objects(
            "config.json",
            at_top(class_name="BertBackbone", registered_name="keras_hub>BertBackbone"),
        ),
        "names the class 'BertBackbone'",
    ),
    "registered elsewhere": (
        objects("config.json", at_top(registered_name="mine>BartBackbone")),
        "registered as 'mine>BartBackbone'",
    ),
    "module": (objects("config.json", at_top(module="os")), "of 'os'"),
    "module beside": (objects("config.json", at_top(module="keras_hub_mine.x")), "of 'keras_hub_m"),
    "task's class": (objects("task.json", at_top(class_name="Evil")), "task.json names the class"),
    "class of the task's preprocessor": (
        objects(
            "task.json",
            lambda content: content["config"]["preprocessor"].update(class_name=["x"]),
        ),
        "task.json names the class",
    ),
    "preprocessor's class": (
        objects("preprocessor.json", at_top(class_name="Evil")),
        "preprocessor.json names the class 'Evil'",
    ),
    "tokenizer's class": (
        objects("tokenizer.json", at_top(class_name="Evil")),
        "tokenizer.json names the class 'Evil'",
    ),
    "tokenizer of Hugging Face": (
        text("tokenizer.json", b'{"model": {"type": "BPE"}}'),
        "tokenizer.json names the class None",
    ),
    "quantized": (objects("config.json", quantized), "DTypePolicyMap.*quantized"),
    "key": (objects("config.json", at_top(custom_objects={})), "custom_objects"),
    "config key": (
        objects("config.json", in_config(lora_rank=4)),
        r"config keys = \['lora_rank'\]",
    ),
    "no config": (objects("config.json", at_top(config=[])), r"config = \[\]; expected an object"),
    "dtype": (objects("config.json", in_config(dtype="float8")), "dtype = 'float8'"),
    "large number": (
        objects("config.json", in_config(num_layers=10**9)),
        "num_layers = 1000000000; expected an integer from 1 to 1000",
    ),
    "no number": (objects("config.json", in_config(hidden_dim="32")), "hidden_dim = '32'"),
    "missing number": (
        objects("config.json", lambda content: content["config"].pop("num_heads")),
        "num_heads = None; expected an integer",
    ),
    "heads": (
        objects("config.json", in_config(num_heads=5)),
        "cannot be shared by 5 encoder heads",
    ),
    "dropout": (objects("config.json", in_config(dropout=float("nan"))), "dropout = nan"),
    "length": (
        objects("preprocessor.json", in_config(encoder_sequence_length=-1)),
        "encoder_sequence_length = -1",
    ),
    "large json": (text("config.json", b" " * (64 << 20)), "has 67108864 bytes"),
    "deep json": (text("config.json", b"[" * 1_000_000), "not valid JSON"),
    "vocabulary": (text("assets/tokenizer/vocabulary.json", b"[]"), "must hold a JSON object"),
    "vocabulary without start": (
        text("assets/tokenizer/vocabulary.json", b'{"<pad>": 1, "</s>": 2}'),
        "vocabulary's <s> = None",
    ),
    "id outside": (
        objects("assets/tokenizer/vocabulary.json", lambda content: content.update({"<s>": 305})),
        "start_token_id is 305, but the vocabulary has ids 0 to 304",
    ),
    "linked config": (link("config.json"), "outside its directory"),
    "linked weights": (link("model.weights.h5"), "outside its directory"),
    "linked vocabulary": (link("assets/tokenizer/vocabulary.json"), "outside its directory"),
    "linked directory": (link("assets"), "outside its directory"),
    "shard above": (index({"/layers/x/vars": "../model_00000.weights.h5"}), "is in '../model_0000"),
    "shard anywhere": (index({"/layers/x/vars": ["/etc/x.weights.h5"]}), "is in '/etc/x.weights"),
    "shard of a kind": (index({"/layers/x/vars": "config.json"}), "is in 'config.json'"),
    "shard of a type": (index({"/layers/x/vars": {"a": 1}}), "expected the name of a .weights.h5"),
    "shards": (
        index({"/layers/x/vars": [f"model_{number}.weights.h5" for number in range(1001)]}),
        "lists 1001 shards",
    ),
    "no shards": (index({}), "must hold a weight_map"),
    "misplaced": (
        index({"/layers/x/vars": "model_00000.weights.h5"}),
        "contradict each other: 91 datasets",
    ),
}
