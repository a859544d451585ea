"""The golden model as the goldens were made: KerasHub's tokenizer and lengths."""

from __future__ import annotations

import json

import numpy as np

from bart_onnx import BartSeq2SeqLMPreprocessor, BartTokenizer, OnnxBartSeq2SeqLM, samplers

# The lengths that the goldens were made with.
ENCODER_LENGTH, DECODER_LENGTH = 24, 20


def golden_answers(golden):
    return json.loads((golden / "generate.json").read_text())


def golden_preprocessor(golden):
    assets = golden / "keras_preset" / "assets" / "tokenizer"
    tokenizer = BartTokenizer(str(assets / "vocabulary.json"), str(assets / "merges.txt"))
    return BartSeq2SeqLMPreprocessor(tokenizer, ENCODER_LENGTH, DECODER_LENGTH)


def golden_lm(bundle, golden, preprocessor=True):
    """The exported tiny model, greedy, with KerasHub's preprocessor or without any."""
    lm = OnnxBartSeq2SeqLM.from_preset(bundle, preprocessor=None)
    lm.preprocessor = golden_preprocessor(golden) if preprocessor else None
    lm.compile(sampler="greedy")
    return lm


def golden_sampler(case, **changes):
    config = {**case["sampler_config"], **changes}
    return samplers.deserialize({"class_name": case["sampler"], "config": config})


def raw_inputs(case):
    inputs = {name: np.array(value) for name, value in case["inputs"].items()}
    for name in ("encoder_padding_mask", "decoder_padding_mask"):
        inputs[name] = inputs[name].astype(case["mask_dtype"])
    return inputs
