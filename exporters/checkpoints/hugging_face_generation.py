"""Reads a checkpoint's generation defaults: generation_config.json, else keys in config.json.

It checks types and token ids, and knows nothing of how a value is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bart_onnx.config import BartConfig
from exporters.checkpoints.hugging_face_config import bad_value, integer
from exporters.checkpoints.local_files import find_file, read_json_object

FILE = "generation_config.json"
TASK_KEY = "task_specific_params"
# What transformers 4's pipelines put before every text.
PREFIX_KEY = "prefix"
TASK = "summarization"

_COUNT_LIMIT = 1 << 31

# The keys of transformers' GenerationConfig (5.23) that decide which tokens come out. What only
# steers its caches, outputs, compilation and draft models is left behind.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "integer": (
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "num_beams",
        "num_beam_groups",
        "num_return_sequences",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "top_k",
    ),
    "number": (
        "temperature",
        "top_p",
        "min_p",
        "top_h",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "repetition_penalty",
        "encoder_repetition_penalty",
        "length_penalty",
        "diversity_penalty",
        "penalty_alpha",
        "guidance_scale",
        "max_time",
    ),
    "boolean": ("do_sample", "renormalize_logits", "remove_invalid_values", "token_healing"),
    "token": ("pad_token_id", "bos_token_id", "forced_bos_token_id", "decoder_start_token_id"),
    "tokens": ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
    "words": ("bad_words_ids",),
    "stopping": ("early_stopping",),
    "json": (
        "force_words_ids",
        "constraints",
        "sequence_bias",
        "exponential_decay_length_penalty",
        "stop_strings",
        "dola_layers",
        "watermarking_config",
    ),
}
KNOWN_KEYS: Mapping[str, str] = {key: kind for kind, keys in _KINDS.items() for key in keys}


def generation_config(
    directory: Path, config_values: Mapping[str, Any], config_path: Path, config: BartConfig
) -> dict[str, Any]:
    """The generation defaults of a checkpoint, under transformers' names.

    As in transformers, generation_config.json alone counts where it exists, and the keys of
    config.json otherwise; null is the same as absent. `task_specific_params` of config.json,
    for summarization only, and its `prefix` are kept for what summarises to apply: `summarize`,
    `pipeline` and `python -m bart_onnx.generate --task summarization`.

    Raises:
        CheckpointError: a known key holds what it cannot, or a token id outside the vocabulary.
    """
    path = find_file(directory, FILE)
    if path is None:
        defaults = _known(config_values, config_path, config)
        # The name that BART's first configs had for it, which transformers reads there as well.
        forced = config_values.get("force_bos_token_to_be_generated") is True
        if forced and "bos_token_id" in defaults:
            defaults["forced_bos_token_id"] = defaults["bos_token_id"]
    else:
        defaults = _known(read_json_object(path), path, config)
    return defaults | _of_pipelines(config_values, config_path, config)


def saved_generation_config(directory: Path, config: BartConfig) -> dict[str, Any]:
    """What generation_config.json alone says, the task included; {} where there is none.

    Raises:
        CheckpointError: as `generation_config`.
    """
    path = find_file(directory, FILE)
    if path is None:
        return {}
    values = read_json_object(path)
    return _known(values, path, config) | _of_pipelines(values, path, config)


def _of_pipelines(values: Mapping[str, Any], path: Path, config: BartConfig) -> dict[str, Any]:
    """What only transformers 4's pipelines read: options of the task, and a prefix of its texts."""
    kept: dict[str, Any] = {}
    tasks, prefix = values.get(TASK_KEY), values.get(PREFIX_KEY)
    if isinstance(tasks, Mapping) and isinstance(tasks.get(TASK), Mapping):
        kept[TASK_KEY] = {TASK: _known(tasks[TASK], path, config)}
    if isinstance(prefix, str) and prefix:
        kept[PREFIX_KEY] = prefix
    return kept


def _known(values: Mapping[str, Any], path: Path, config: BartConfig) -> dict[str, Any]:
    return {
        key: _CHECKS[KNOWN_KEYS[key]](value, key, path, config)
        for key, value in values.items()
        if key in KNOWN_KEYS and value is not None
    }


def _integer(value: Any, key: str, path: Path, config: BartConfig) -> int:
    return integer(value, key, path, 0, _COUNT_LIMIT)


def _number(value: Any, key: str, path: Path, config: BartConfig) -> int | float:
    if type(value) is int and abs(value) <= _COUNT_LIMIT:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise bad_value(path, key, value, "a finite number")


def _boolean(value: Any, key: str, path: Path, config: BartConfig) -> bool:
    if isinstance(value, bool):
        return value
    raise bad_value(path, key, value, "true or false")


def _token(value: Any, key: str, path: Path, config: BartConfig) -> int:
    return integer(value, key, path, 0, config.vocabulary_size - 1)


def _tokens(value: Any, key: str, path: Path, config: BartConfig) -> int | list[int]:
    if isinstance(value, list):
        return [_token(token, key, path, config) for token in value]
    return _token(value, key, path, config)


def _words(value: Any, key: str, path: Path, config: BartConfig) -> list[list[int]]:
    if not isinstance(value, list) or not all(isinstance(word, list) for word in value):
        raise bad_value(path, key, value, "a list of lists of token ids")
    return [[_token(token, key, path, config) for token in word] for word in value]


def _stopping(value: Any, key: str, path: Path, config: BartConfig) -> bool | str:
    if isinstance(value, bool):
        return value
    if value == "never":
        return "never"
    raise bad_value(path, key, value, 'true, false or "never"')


def _json(value: Any, key: str, path: Path, config: BartConfig) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise bad_value(path, key, value, "finite numbers, not nested too deeply") from None
    return value


_CHECKS: Mapping[str, Callable[[Any, str, Path, BartConfig], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "token": _token,
    "tokens": _tokens,
    "words": _words,
    "stopping": _stopping,
    "json": _json,
}
