"""From a checkpoint's generation config and a call's options to DecodingOptions.

It knows the names that transformers writes into that file, and no bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bart_onnx.config import BartConfig
from bart_onnx.decoding.options import DecodingOptions, check_asked
from bart_onnx.errors import InputError

#: Every option that a call may name.
OPTION_NAMES = tuple(field.name for field in dataclasses.fields(DecodingOptions))

# What a checkpoint may ask for and this package does not do, with the values that ask for nothing.
_NOT_HERE: Mapping[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "guidance_scale": (1.0,),
    "top_h": (1.0,),
    "max_time": (),
    "token_healing": (False,),
    "force_words_ids": ([],),
    "constraints": ([],),
    "dola_layers": (),
    "watermarking_config": (),
}

# Two names for one thing: whichever a call gives, the checkpoint's other one does not count.
_PAIRS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))

TASK_KEY = "task_specific_params"


def decoding_options(
    generation_config: Mapping[str, Any],
    config: BartConfig,
    asked: Mapping[str, Any],
    unasked: Mapping[str, Any] | None = None,
) -> DecodingOptions:
    """What a checkpoint says, overridden by what a call asks for.

    Args:
        generation_config: transformers' names; empty for a checkpoint that says nothing.
        config: where the ids come from that it does not name.
        asked: the call's options; None stands for an option's own default, which asks for nothing.
        unasked: a caller's own defaults, which win over the checkpoint and lose to `asked`.

    Raises:
        InputTypeError: a value of the wrong type.
        InputError: a value or a pair of options that cannot be used, or something in the
            checkpoint that this package does not do; the message names it.
    """
    ids = {"eos_token_id": config.end_token_id}
    ids["decoder_start_token_id"] = config.decoder_start_token_id
    values = {**ids, **_of_checkpoint(generation_config), **(unasked or {})}
    for pair in _PAIRS:
        if any(asked.get(name) is not None for name in pair):
            for name in pair:
                values.pop(name, None)
    defaults = {field.name: field.default for field in dataclasses.fields(DecodingOptions)}
    defaults["eos_token_id"] = ids["eos_token_id"]
    defaults["decoder_start_token_id"] = ids["decoder_start_token_id"]
    for name, value in asked.items():
        values[name] = defaults[name] if value is None else value
    options = DecodingOptions(**values)
    check_asked([name for name in asked if asked[name] is not None], options)
    check_ids(options, config)
    return options


def for_summarization(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what it keeps for this task on top, as transformers 4's pipeline had it."""
    tasks = generation_config.get(TASK_KEY)
    own = tasks.get("summarization") if isinstance(tasks, Mapping) else None
    merged = {key: value for key, value in generation_config.items() if key != TASK_KEY}
    return {**merged, **own} if isinstance(own, Mapping) else merged


def check_ids(options: DecodingOptions, config: BartConfig) -> None:
    """Refuse ids outside the vocabulary that decoding itself uses; rules check theirs."""
    ids = [("eos_token_id", each) for each in options.eos_token_id]
    ids.append(("decoder_start_token_id", options.decoder_start_token_id))
    for name, token_id in ids:
        if token_id >= config.vocabulary_size:
            raise InputError(
                f"{name} is {token_id}; this model's ids are 0 to {config.vocabulary_size - 1}."
            )


def _of_checkpoint(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    for name, neutral in _NOT_HERE.items():
        value = generation_config.get(name)
        if value is not None and value not in neutral:
            raise InputError(
                f"The checkpoint's generation config asks for {name}={value!r:.60}, which this "
                "package does not do. Take it out of generation_config.json and export again."
            )
    known = {name: generation_config.get(name) for name in OPTION_NAMES}
    return {name: value for name, value in known.items() if value is not None}
