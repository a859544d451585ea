"""One model in many threads at once: each call gives what it gives alone, to the last bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.samplers import BeamSampler, ContrastiveSampler, RandomSampler, TopKSampler

WORDS = ["onnx", "summarization", "banana", "a", "relationship", "through", "knight", "zebra"]
OPTIONS = [
    {"do_sample": False},
    {"num_beams": 4},
    {"num_beams": 3, "num_return_sequences": 3},
    {"do_sample": True, "temperature": 1.3, "seed": 4},
    {"do_sample": True, "top_p": 0.8, "seed": 7, "num_return_sequences": 2},
    {"max_new_tokens": 5},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
]
SAMPLERS = [
    lambda: BeamSampler(num_beams=3),
    lambda: TopKSampler(k=4, seed=3),
    lambda: RandomSampler(seed=5),
    lambda: ContrastiveSampler(k=3, alpha=0.4),
]


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread a step", "two threads a step"])
def lm(request):
    return OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True, threads=request.param)


def told(result):
    return (
        result.text,
        result.ids.tolist(),
        result.log_probs.tobytes(),
        result.alignment.tobytes(),
        [each.text for each in result.n_best],
    )


def test_calls_with_options(lm):
    def call(case):
        words, options = case
        found = lm.generate(words, return_dict=True, alignments=True, **options)
        return [told(each) for each in found]

    cases = [(WORDS[first : first + 3], each) for first in range(6) for each in OPTIONS]
    alone = [call(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, cases * 3)) == alone * 3


def test_streams(lm):
    def call(case):
        word, beams = case
        pieces = list(lm.stream(word, num_beams=beams))
        ids = lm.preprocessor.tokenizer(word)
        return "".join(pieces), np.asarray(ids).tolist()

    cases = [(word, beams) for word in WORDS for beams in (1, 3)]
    alone = [call(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, cases * 3)) == alone * 3


def test_models_with_samplers_of_their_own():
    """A compiled sampler is the model's own state, so each thread has a model."""

    def call(number):
        own = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True, threads=1)
        own.compile(sampler=SAMPLERS[number % len(SAMPLERS)]())
        return own.generate(WORDS, max_length=12)

    alone = [call(number) for number in range(len(SAMPLERS))]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(2 * len(SAMPLERS)))) == alone * 2
