"""How Keras writes an object into a preset's JSON files: its class beside its config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MODULES = {
    "BartBackbone": "bart_backbone",
    "BartSeq2SeqLM": "bart_seq_2_seq_lm",
    "BartSeq2SeqLMPreprocessor": "bart_seq_2_seq_lm_preprocessor",
    "BartTokenizer": "bart_tokenizer",
}


def keras_object(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What KerasHub 0.32 writes for an object of this class with this config."""
    return {
        "module": f"keras_hub.src.models.bart.{_MODULES[class_name]}",
        "class_name": class_name,
        "config": dict(config),
        "registered_name": f"keras_hub>{class_name}",
    }


def write_keras_object(path: Path, class_name: str, config: Mapping[str, Any]) -> None:
    """Write an object into a file of its own, whose directory is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(keras_object(class_name, config), indent=4)
    path.write_text(text, encoding="utf-8")
