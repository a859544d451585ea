"""generate() and the samplers called by hand against everything in KerasHub's generate.json."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from golden_lm import golden_answers, golden_lm, golden_sampler, raw_inputs

from bart_onnx import samplers
from bart_onnx.errors import InputError, InputKeyError, InputTypeError
from bart_onnx.graphs import DECODER_SEQUENCE_OUTPUT, LOGITS

pytestmark = pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")

# KerasHub reads an int mask's ones as -1 after `~`, so that the stop token at the front of the
# prompt counts, and gives the prompt back. Here an int mask is read like a bool one.
INT_MASK_BUG = {
    f"contrastive/{name}/int64_masks"
    for name in ("plain", "stop_custom", "no_bos", "unequal_prompts", "junk_after_prompt")
} | {"contrastive/prompt_holds_stop/int64_masks"}


@pytest.fixture(scope="module")
def answers(golden):
    return golden_answers(golden)


@pytest.fixture(scope="module")
def lm(tiny_bundle, golden):
    return golden_lm(tiny_bundle, golden)


@pytest.fixture(scope="module")
def arrays_lm(tiny_bundle, golden):
    return golden_lm(tiny_bundle, golden, preprocessor=False)


def preprocessed(case):
    return {name: np.array(value) for name, value in case["preprocessed"].items()}


def stops(case):
    return case["kwargs"].get("stop_token_ids", [2])


def assert_counted_equal(found, expected, name):
    mask = np.array(expected["decoder_padding_mask"], bool)
    np.testing.assert_array_equal(found["decoder_padding_mask"], mask, err_msg=name)
    # Past their ends KerasHub's rows go on with whatever keeps the longest row company.
    ids = np.array(expected["decoder_token_ids"])
    np.testing.assert_array_equal(found["decoder_token_ids"][mask], ids[mask], name)


def test_the_goldens_are_whole(answers):
    assert Counter(case["sampler"] for case in answers["cases"]) == {
        "greedy": 15,
        "beam": 18,
        "contrastive": 15,
    }
    assert Counter(case["sampler"] for case in answers["raw_cases"]) == {
        "greedy": 8,
        "beam": 8,
        "contrastive": 8,
    }


def test_texts(lm, answers):
    for case in answers["cases"]:
        lm.compile(sampler=golden_sampler(case))
        assert lm.generate(case["inputs"], **case["kwargs"]) == case["text"], case["name"]


def test_token_ids(arrays_lm, answers):
    for case in answers["cases"]:
        arrays_lm.compile(sampler=golden_sampler(case))
        found = arrays_lm.generate(preprocessed(case), stop_token_ids=stops(case))
        assert_counted_equal(found, case, case["name"])
        if case["sampler"] == "beam":
            ids = np.array(case["decoder_token_ids"])
            np.testing.assert_array_equal(found["decoder_token_ids"], ids, case["name"])


def test_all_beams(arrays_lm, answers):
    for case in (case for case in answers["cases"] if case["sampler"] == "beam"):
        arrays_lm.compile(sampler=golden_sampler(case, return_all_beams=True))
        found = arrays_lm.generate(preprocessed(case), stop_token_ids=stops(case))
        np.testing.assert_array_equal(found["decoder_token_ids"], case["all_beams"], case["name"])
        np.testing.assert_allclose(
            found["log_probs"], case["all_log_probs"], atol=1e-4, err_msg=case["name"]
        )


def test_arrays(arrays_lm, answers):
    differing = []
    for case in answers["raw_cases"]:
        arrays_lm.compile(sampler=golden_sampler(case))
        found = arrays_lm.generate(raw_inputs(case), stop_token_ids=case["stop_token_ids"])
        if case["name"] in INT_MASK_BUG:
            differing.append(case["name"])
            prompts = np.array(case["inputs"]["decoder_padding_mask"])
            assert (found["decoder_padding_mask"].sum(axis=1) > prompts.sum(axis=1)).all()
            continue
        assert_counted_equal(found, case["result"]["value"], case["name"])
        if case["sampler"] == "beam":
            ids = case["result"]["value"]["decoder_token_ids"]
            np.testing.assert_array_equal(found["decoder_token_ids"], ids, case["name"])
    assert set(differing) == INT_MASK_BUG


def test_contrastive_with_int_masks_goes_on_as_keras_hub_does_without_stops(arrays_lm, answers):
    cases = {case["name"]: case for case in answers["raw_cases"]}
    endless = cases["contrastive/stop_none/int64_masks"]["result"]["value"]["decoder_token_ids"]
    arrays_lm.compile(sampler="contrastive")
    for name in ("plain", "stop_custom", "no_bos", "junk_after_prompt"):
        case = cases[f"contrastive/{name}/int64_masks"]
        if name == "no_bos":
            assert endless[0][1] == 0  # the model itself says the start token next
        found = arrays_lm.generate(raw_inputs(case), stop_token_ids=case["stop_token_ids"])
        mask = found["decoder_padding_mask"]
        np.testing.assert_array_equal(found["decoder_token_ids"][mask], np.array(endless)[mask])


@pytest.mark.parametrize("name", ["contrastive", "greedy", "beam"])
def test_masks_of_any_dtype_are_read_alike(arrays_lm, answers, name):
    arrays_lm.compile(sampler=name)
    for case in (case for case in answers["raw_cases"] if case["sampler"] == name):
        results = []
        for dtype in (bool, np.int32, np.int64, np.uint8):
            inputs = raw_inputs({**case, "mask_dtype": dtype})
            results.append(arrays_lm.generate(inputs, stop_token_ids=case["stop_token_ids"]))
        for result in results[1:]:
            np.testing.assert_array_equal(
                result["decoder_token_ids"], results[0]["decoder_token_ids"]
            )


def next_of(runner, arrays):
    """A `next` without cache: it reads the source and the whole prompt again at every call."""
    lengths = arrays["encoder_padding_mask"].sum(axis=1)
    ids = arrays["encoder_token_ids"].astype(np.int64)

    def outputs(prompt, length):
        copies = len(prompt) // len(ids)
        state = runner.encode(np.repeat(ids, copies, axis=0), np.repeat(lengths, copies))
        wanted = (LOGITS, DECODER_SEQUENCE_OUTPUT)
        return runner.step(state, prompt[:, :length].astype(np.int64), wanted)

    def next(prompt, cache, index):
        found = outputs(prompt, index)
        return found[LOGITS][:, -1], found[DECODER_SEQUENCE_OUTPUT][:, -1], cache

    width = arrays["decoder_token_ids"].shape[1]
    hidden = outputs(arrays["decoder_token_ids"], width)[DECODER_SEQUENCE_OUTPUT]
    return next, hidden


def test_samplers_called_by_hand_give_keras_hubs_ids_past_every_end(arrays_lm, answers):
    for case in answers["cases"]:
        arrays = preprocessed(case)
        next, hidden = next_of(arrays_lm.runner, arrays)
        found = golden_sampler(case)(
            next,
            arrays["decoder_token_ids"],
            index=int(arrays["decoder_padding_mask"].sum(axis=1).min()),
            mask=arrays["decoder_padding_mask"],
            stop_token_ids=stops(case),
            hidden_states=hidden,
        )
        np.testing.assert_array_equal(found, case["decoder_token_ids"], case["name"])


def test_all_beams_by_hand(arrays_lm, answers):
    for name in ("beam4/batch", "beam4/prompts_unequal", "beam4_t2/one_c"):
        case = next(case for case in answers["cases"] if case["name"] == name)
        arrays = preprocessed(case)
        ids, log_probs = golden_sampler(case, return_all_beams=True)(
            next_of(arrays_lm.runner, arrays)[0],
            arrays["decoder_token_ids"],
            index=int(arrays["decoder_padding_mask"].sum(axis=1).min()),
            mask=arrays["decoder_padding_mask"],
            stop_token_ids=[2],
        )
        np.testing.assert_array_equal(ids, case["all_beams"])
        np.testing.assert_allclose(log_probs, case["all_log_probs"], atol=1e-4)


def test_transformers_greedy(arrays_lm, lm, answers):
    arrays_lm.compile(sampler="greedy")
    for case in answers["transformers"]:
        arrays = lm.preprocessor.generate_preprocess([case["text"]])
        found = arrays_lm.generate(arrays, stop_token_ids=(2,))
        ids = found["decoder_token_ids"][found["decoder_padding_mask"]]
        assert ids.tolist() == case["greedy_no_forced_eos"]


def unequal_example():
    """The documentation's: seven ids under a mask of six."""
    return {
        "encoder_token_ids": np.array([[0, 133, 104, 2, 1]]),
        "encoder_padding_mask": np.array([[1, 1, 1, 1, 0]]),
        "decoder_token_ids": np.array([[2, 0, 133, 104, 2, 1, 1]]),
        "decoder_padding_mask": np.array([[1, 1, 1, 1, 0, 0]]),
    }


# What KerasHub refuses, and here is refused by name.
ERRORS = {
    "stop auto without preprocessor": (
        lambda _, arrays: arrays.generate(unequal_example()),
        InputError,
        'A `preprocessor` must be attached to the model if `stop_token_ids="auto"`',
    ),
    "docs example, unequal lengths, stop=(2,)": (
        lambda _, arrays: arrays.generate(unequal_example(), stop_token_ids=(2,)),
        InputError,
        r"decoder_token_ids has shape \(1, 7\) and decoder_padding_mask has shape \(1, 6\)",
    ),
    "docs example, unequal lengths, stop=None": (
        lambda _, arrays: arrays.generate(unequal_example(), stop_token_ids=None),
        InputError,
        r"decoder_token_ids has shape \(1, 7\) and decoder_padding_mask has shape \(1, 6\)",
    ),
    "model('text')": (lambda lm, _: lm("text"), (TypeError, ValueError), None),
    "no decoder_text": (
        lambda lm, _: lm.generate({"encoder_text": "a"}),
        InputKeyError,
        "decoder_text",
    ),
    "max_length above max_sequence_length": (
        lambda lm, _: lm.generate("a", max_length=49),
        InputError,
        "49, but this model has 48 positions",
    ),
    "None": (lambda lm, _: lm.generate(None), InputTypeError, "None"),
    "more encoder than decoder texts": (
        lambda lm, _: lm.generate({"encoder_text": ["a", "b"], "decoder_text": ["c"]}),
        InputError,
        "2 texts.*1",
    ),
    "compile('Greedy')": (
        lambda lm, _: lm.compile(sampler="Greedy"),
        InputError,
        "'Greedy' is unknown; samplers: greedy",
    ),
    "compile(3)": (lambda lm, _: lm.compile(sampler=3), InputTypeError, "found 3; names"),
}
# What KerasHub fails at, and here works as its documentation says.
WORKING = {
    "strip_prompt=True": lambda lm, _: lm.generate("the fox", strip_prompt=True) == "fox the",
    "stop_token_ids=()": lambda lm, _: isinstance(lm.generate("a", stop_token_ids=()), str),
    "tuple of strings": lambda lm, _: lm.generate(("a", "b")) == lm.generate(["a", "b"]),
    "numpy strings": lambda lm, _: lm.generate(np.array(["a", "b"])) == lm.generate(["a", "b"]),
    "bytes": lambda lm, _: lm.generate(b"the fox") == "fox the",
    "empty list": lambda lm, _: lm.generate([]) == [],
}


def test_every_error_of_the_goldens_has_its_answer(answers):
    assert set(ERRORS) | set(WORKING) == set(answers["errors"])
    assert not any(error["ok"] for error in answers["errors"].values())


@pytest.mark.parametrize("name", ERRORS)
def test_errors(lm, arrays_lm, name):
    call, error, says = ERRORS[name]
    lm.compile(sampler="greedy")
    with pytest.raises(error, match=says):
        call(lm, arrays_lm)


@pytest.mark.parametrize("name", WORKING)
def test_what_keras_hub_fails_at_works(lm, arrays_lm, name):
    lm.compile(sampler="greedy")
    assert WORKING[name](lm, arrays_lm)


def test_greedy_is_deterministic_whatever_its_temperature(lm):
    lm.compile(sampler=samplers.GreedySampler(temperature=9.0))
    assert lm.generate("the fox") == "fox the"
