"""Every documented form of generate() and compile(): what may go in, and what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from golden_lm import golden_answers, golden_lm

from bart_onnx import OnnxBartSeq2SeqLM, samplers
from bart_onnx.errors import InputError, InputKeyError, InputTypeError
from bart_onnx.generation import as_batches
from bart_onnx.samplers import (
    BeamSampler,
    ContrastiveSampler,
    GreedySampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
)

TEXTS = ["the fox", "two cat sat on the box", "the quick red dog ran and sat", "hello world!"]
SAID = ["fox the", "box box one cat two.", "and ran red ran the the.", "qui red red"]
PROMPTED = {"encoder_text": TEXTS[:3], "decoder_text": ["", "fox the on", "the"]}


@pytest.fixture(scope="module")
def lm(tiny_bundle, golden):
    return golden_lm(tiny_bundle, golden)


@pytest.fixture(autouse=True)
def greedy(lm):
    lm.compile(sampler="greedy")


@pytest.fixture
def arrays_lm(lm):
    """The same model without a preprocessor."""
    other = OnnxBartSeq2SeqLM(lm.backbone)
    other.compile(sampler="greedy")
    return other


class Dataset:
    """Iterable again and again, and no list."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize(
    "inputs",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        [text.encode() for text in TEXTS],
        [np.str_(text) for text in TEXTS],
        {"encoder_text": TEXTS, "decoder_text": [""] * 4},
        {"encoder_text": np.array(TEXTS), "decoder_text": ("", "", "", "")},
        [TEXTS[:1], TEXTS[1:]],
        (TEXTS[:3], tuple(TEXTS[3:])),
        [np.array(TEXTS[:2]), np.array(TEXTS[2:])],
        [{"encoder_text": TEXTS[:3], "decoder_text": [""] * 3}, TEXTS[3:]],
        Dataset(TEXTS[:2], [], TEXTS[2:]),
        Dataset(*TEXTS),
    ],
)
def test_batches_in_every_form_give_a_list_of_str(lm, inputs):
    assert lm.generate(inputs) == SAID


def test_generators_are_read_as_they_go(lm):
    assert lm.generate(TEXTS[first : first + 3] for first in (0, 3)) == SAID
    assert lm.generate(text for text in TEXTS) == SAID
    assert lm.generate(iter([TEXTS])) == SAID


@pytest.mark.parametrize(
    "text", ["the fox", b"the fox", np.str_("the fox"), np.array("the fox"), np.bytes_("the fox")]
)
def test_one_text_gives_a_str(lm, text):
    assert lm.generate(text) == "fox the"
    assert lm.generate({"encoder_text": text, "decoder_text": ""}) == "fox the"


@pytest.mark.parametrize("inputs", [[], (), np.array([], str), [[]], iter([]), Dataset([], [])])
def test_nothing_gives_nothing(lm, inputs):
    assert lm.generate(inputs) == []


def test_a_batch_on_either_side_gives_a_list_and_the_dict_is_left_alone(lm):
    for encoder, decoder in ((["the fox"], ""), ("the fox", [""])):
        inputs = {"encoder_text": encoder, "decoder_text": decoder}
        assert lm.generate(inputs) == ["fox the"]
        assert inputs == {"encoder_text": encoder, "decoder_text": decoder}


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        (3, InputTypeError, "int 3"),
        (None, InputTypeError, "None"),
        (["the", ["fox"]], InputTypeError, r"inputs\[1\]"),
        ([["the"], "fox"], InputTypeError, r"inputs\[0\]"),
        ([["the"], ["fox", 3]], InputTypeError, r"inputs\[1\].*3"),
        ([[["the"]]], InputTypeError, "inputs"),
        (np.array([["a"]]), InputTypeError, r"\(1, 1\)"),
        ([{"encoder_text": "a"}], InputKeyError, "decoder_text"),
        (iter([4]), InputTypeError, "int 4"),
    ],
)
def test_what_is_no_text_is_refused(lm, inputs, error, says):
    with pytest.raises(error, match=says):
        lm.generate(inputs)


def test_what_counts_as_batches():
    assert as_batches("ab") is as_batches(b"ab") is as_batches(["a"]) is as_batches({}) is None
    assert as_batches(np.array(["a"])) is as_batches([]) is as_batches(["a", ["b"]]) is None
    assert list(as_batches([["a"], ("b",)])) == [["a"], ("b",)]


def arrays(lm, inputs, **lengths):
    """What the preprocessor makes of inputs, for a model without."""
    return lm.preprocessor.generate_preprocess(inputs, **lengths)


def test_arrays_in_batches_are_padded_to_the_widest(lm, arrays_lm):
    whole = arrays_lm.generate(arrays(lm, TEXTS), stop_token_ids=[2])
    short = arrays(lm, TEXTS[:1], sequence_length=9)
    found = arrays_lm.generate([short, arrays(lm, TEXTS[1:])], stop_token_ids=[2])
    np.testing.assert_array_equal(found["decoder_padding_mask"], whole["decoder_padding_mask"])
    mask = whole["decoder_padding_mask"]
    assert (found["decoder_token_ids"][mask] == whole["decoder_token_ids"][mask]).all()
    assert (found["decoder_token_ids"][0, 9:] == 1).all()


def test_no_batches_of_arrays(arrays_lm):
    found = arrays_lm.generate(iter([]), stop_token_ids=None)
    assert found["decoder_token_ids"].shape == found["decoder_padding_mask"].shape == (0, 0)


def test_texts_are_refused_without_a_preprocessor(arrays_lm):
    for inputs in ("a", ["a"], iter(["a"])):
        with pytest.raises(InputTypeError, match="dict of arrays"):
            arrays_lm.generate(inputs, stop_token_ids=[2])


def test_stop_token_ids_in_every_form(lm):
    assert lm.generate(TEXTS, stop_token_ids="auto") == SAID
    stop = lm.preprocessor.tokenizer.end_token_id
    for form in ([stop], (stop,), {stop: 1}.keys(), np.array([stop]), range(stop, stop + 1)):
        assert lm.generate(TEXTS, stop_token_ids=list(form)) == SAID
    assert lm.generate(TEXTS, stop_token_ids=np.array([stop])) == SAID
    endless = lm.generate(TEXTS, stop_token_ids=None)
    assert endless == lm.generate(TEXTS, stop_token_ids=()) != SAID


@pytest.mark.parametrize("sampler", ["greedy", "beam", "contrastive"])
def test_strip_prompt_leaves_what_follows_the_prompt(lm, sampler):
    lm.compile(sampler=sampler)
    whole = lm.generate(PROMPTED)
    stripped = lm.generate(PROMPTED, strip_prompt=True)
    prompts = PROMPTED["decoder_text"]
    assert [p + s for p, s in zip(prompts, stripped, strict=True)] == whole
    assert stripped != whole
    one = {"encoder_text": TEXTS[1], "decoder_text": "fox the on"}
    assert "fox the on" + lm.generate(one, strip_prompt=True) == lm.generate(one)


def test_strip_prompt_of_a_full_prompt_leaves_nothing(lm):
    inputs = {"encoder_text": "the fox", "decoder_text": "a cat and a dog and a fox"}
    assert lm.generate(inputs, max_length=7, strip_prompt=True) == ""


def test_strip_prompt_of_arrays_moves_what_follows_to_the_left(lm, arrays_lm):
    inputs = arrays(lm, PROMPTED)
    whole = arrays_lm.generate(inputs, stop_token_ids=[2])
    found = arrays_lm.generate(inputs, stop_token_ids=[2], strip_prompt=True)
    assert found["decoder_token_ids"].shape == whole["decoder_token_ids"].shape
    for row, length in enumerate(inputs["decoder_padding_mask"].sum(axis=1)):
        mask = whole["decoder_padding_mask"][row]
        follows = whole["decoder_token_ids"][row][mask][length:].tolist()
        mask = found["decoder_padding_mask"][row]
        assert found["decoder_token_ids"][row][mask].tolist() == follows
        assert mask[: len(follows)].all()
        assert (found["decoder_token_ids"][row][~mask] == 1).all()


def test_all_beams_of_texts(lm, golden):
    case = next(c for c in golden_answers(golden)["cases"] if c["name"] == "beam4/batch")
    lm.compile(sampler=BeamSampler(4, return_all_beams=True))
    texts, log_probs = lm.generate(case["inputs"])
    assert [row[0] for row in texts] == case["text"]
    assert [len(row) for row in texts] == [4] * 4
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(log_probs, case["all_log_probs"], atol=1e-4)
    lm.compile(sampler=BeamSampler(4))
    assert lm.generate(case["inputs"]) == case["text"]


def test_all_beams_of_one_text_of_batches_and_of_none(lm):
    lm.compile(sampler=BeamSampler(3, return_all_beams=True))
    texts, log_probs = lm.generate("the fox")
    assert len(texts) == 3
    assert log_probs.shape == (3,)
    batches, scores = lm.generate([["the fox"], ["the fox", "hello world!"]])
    assert batches[0] == texts
    assert scores.shape == (3, 3)
    np.testing.assert_array_equal(scores[0], log_probs)
    nothing, none = lm.generate([])
    assert nothing == []
    assert none.shape == (0, 3)


def test_all_beams_stripped(lm):
    lm.compile(sampler=BeamSampler(3, return_all_beams=True))
    whole, log_probs = lm.generate(PROMPTED)
    stripped, same = lm.generate(PROMPTED, strip_prompt=True)
    np.testing.assert_array_equal(log_probs, same)
    for prompt, beams, rest in zip(PROMPTED["decoder_text"], whole, stripped, strict=True):
        assert [prompt + text for text in rest] == beams


def test_each_batch_of_beams_is_searched_by_itself(lm):
    lm.compile(sampler="beam")
    assert lm.generate([TEXTS[:2], TEXTS[2:]]) == lm.generate(TEXTS[:2]) + lm.generate(TEXTS[2:])


@pytest.mark.parametrize(
    "make",
    [
        lambda: GreedySampler(),
        lambda: BeamSampler(4, freeze_ended_beams=True),
        lambda: ContrastiveSampler(),
        lambda: TopKSampler(seed=3, temperature=2),
        lambda: TopPSampler(0.9, seed=3, temperature=2),
        lambda: RandomSampler(seed=3, temperature=2),
    ],
)
def test_how_texts_are_batched_changes_nothing(lm, make, monkeypatch):
    lm.compile(sampler=make())
    together = lm.generate(TEXTS)
    for inputs in ([TEXTS[:1], TEXTS[1:]], Dataset(*TEXTS)):
        lm.compile(sampler=make())
        assert lm.generate(inputs) == together
    lm.compile(sampler=make())
    assert lm.generate(TEXTS[0]) == together[0]
    monkeypatch.setattr("bart_onnx.decoding.prompts._BATCH_TOKENS", 60)
    lm.compile(sampler=make())
    assert lm.generate(TEXTS) == together


@pytest.mark.parametrize("freeze", [False, True])
def test_scores_of_beams_alone_are_bit_equal_to_those_in_a_batch(lm, freeze):
    lm.compile(sampler=BeamSampler(4, True, freeze))
    # Run to the width, KerasHub's beams have no ends that could depend on the batch.
    stops = "auto" if freeze else None
    texts, together = lm.generate(TEXTS, stop_token_ids=stops)
    for row, text in enumerate(TEXTS):
        alone, log_probs = lm.generate(text, stop_token_ids=stops)
        assert alone == texts[row]
        np.testing.assert_array_equal(log_probs, together[row])


def test_a_new_model_draws_from_the_five_likeliest(lm):
    new = OnnxBartSeq2SeqLM(lm.backbone, lm.preprocessor)
    assert new.sampler.get_config() == {"temperature": 1.0, "k": 5, "seed": None}
    assert isinstance(new.generate("the fox"), str)


def test_seeds_repeat_in_fresh_samplers_and_move_on_in_used_ones(lm):
    def answers():
        lm.compile(sampler=RandomSampler(seed=7, temperature=3))
        return [lm.generate(TEXTS[0]) for _ in range(3)]

    first = answers()
    assert len(set(first)) > 1
    assert answers() == first
    sampler = RandomSampler(seed=7, temperature=3)
    lm.compile(sampler=sampler)
    assert lm.sampler is sampler
    with pytest.raises(InputTypeError):
        lm.generate(3)  # a call that fails draws nothing
    assert lm.generate([]) == []
    assert lm.generate(TEXTS[0]) == first[0]
    lm.compile(sampler=sampler)  # the same object: its state stays
    assert lm.generate(TEXTS[0]) == first[1]


class Second(Sampler):
    def get_next_token(self, probabilities):
        return np.argsort(probabilities, axis=-1)[:, -2]


def test_a_custom_sampler(lm):
    lm.compile(sampler=Second())
    assert lm.generate(TEXTS) == [lm.generate(text) for text in TEXTS] != SAID


@pytest.mark.parametrize("name", ["greedy", "top_k", "top_p", "random", "beam", "contrastive"])
def test_every_name_compiles_and_generates(lm, name):
    lm.compile("auto", "auto", weighted_metrics="auto", sampler=name)
    assert [type(text) for text in lm.generate(TEXTS, max_length=6)] == [str] * 4
    lm.compile(sampler=samplers.serialize(samplers.get(name)))
    assert type(lm.sampler) is type(samplers.get(name))


def test_compile_takes_what_has_no_meaning_here(lm):
    new = OnnxBartSeq2SeqLM(lm.backbone, lm.preprocessor)
    new.compile("adam", "auto", weighted_metrics="auto", jit_compile=True, sampler="beam")
    assert type(new.sampler).__name__ == "BeamSampler"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"sampler": "Greedy"}, InputError, "'Greedy' is unknown; samplers: greedy, top_k"),
        ({"sampler": "foo"}, InputError, "'foo' is unknown"),
        ({"sampler": "speculative"}, InputError, "speculative.*second, smaller model"),
        ({"sampler": GreedySampler}, InputTypeError, r"pass GreedySampler\(\)"),
        ({"sampler": None}, InputTypeError, "None"),
        ({"sampler": 3}, InputTypeError, "3"),
        ({"samplers": "greedy"}, InputTypeError, "compile takes no samplers; it takes optimizer"),
        ({"metrics": [], "loss_weights": 1}, InputTypeError, "no loss_weights, metrics"),
        ({"loss": "crossentropy"}, InputError, "loss is 'crossentropy'"),
        ({"weighted_metrics": ["accuracy"]}, InputError, "weighted_metrics is"),
        ({"optimizer": "sgd"}, InputError, "sgd"),
        ({"optimizer": object()}, InputTypeError, "OptimizerOptions"),
    ],
)
def test_compile_refuses_by_name_and_changes_nothing(lm, options, error, says):
    before = lm.sampler
    with pytest.raises(error, match=says):
        lm.compile(**options)
    assert lm.sampler is before


def test_a_model_that_was_not_compiled_says_so(lm):
    new = OnnxBartSeq2SeqLM(lm.backbone, lm.preprocessor, compile=False)
    with pytest.raises(InputError, match=r"call compile\(sampler"):
        new.generate("the fox")


def test_samplers_ask_for_no_more_tokens_than_there_are(lm):
    lm.compile(sampler=TopKSampler(306))
    with pytest.raises(InputError, match="k is 306, but the vocabulary has 305"):
        lm.generate("the fox")


def test_unknown_keywords_are_refused(lm):
    with pytest.raises(TypeError, match="maxlength"):
        lm.generate("the fox", maxlength=3)
