"""generate by the generation config, stream, summarize and score, on the preset that ships."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.errors import (
    DecodingError,
    InputError,
    InputKeyError,
    InputTooLongError,
    InputTypeError,
)
from bart_onnx.samplers import BeamSampler

WORDS = ["hello", "summarization", "onnx", "a", "Massachusetts"]


@pytest.fixture(scope="module")
def lm():
    return OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p")


@pytest.fixture
def greedy(lm):
    before = lm.sampler
    lm.compile(sampler="greedy")
    yield lm
    lm.sampler = before


def arrays_of(lm, words):
    arrays = lm.preprocessor.generate_preprocess(words)
    return {name: arrays[name] for name in ("encoder_token_ids", "encoder_padding_mask")}


# Who decides.


def test_any_option_switches_to_the_generation_config(lm):
    lm.compile(sampler="random")
    found = lm.generate(WORDS, num_beams=1)
    assert found == lm.generate(WORDS, do_sample=False) == lm.summarize(WORDS)
    # The config's longest is 32; KerasHub's way goes by the preprocessor.
    ids = lm.generate("hello", num_beams=1, return_dict=True)[0].ids
    assert ids.tolist()[:2] == [2, 0]


def test_max_length_and_stops_alone_do_not_switch(lm):
    class Never(type(lm.sampler)):
        def get_next_token(self, probabilities):
            raise RuntimeError("the sampler was asked")

    lm.sampler = Never()
    with pytest.raises(RuntimeError, match="the sampler was asked"):
        lm.generate("hello", max_length=9, stop_token_ids=(2,))
    assert lm.generate("hello", max_length=9, num_beams=1)
    lm.compile()


def test_max_length_counts_as_in_transformers(lm):
    (result,) = lm.generate(["summarization"], max_length=6, num_beams=2, return_dict=True)
    assert (len(result.ids), result.finish_reason) == (6, "length")
    (result,) = lm.generate(["summarization"], max_new_tokens=4, num_beams=2, return_dict=True)
    assert len(result.ids) == 5


def test_stop_token_ids_are_the_end_tokens(lm):
    (whole,) = lm.generate(["hello"], num_beams=1, return_dict=True)
    stop = int(whole.ids[4])
    (cut,) = lm.generate(["hello"], num_beams=1, stop_token_ids=[stop], return_dict=True)
    assert cut.ids.tolist() == whole.ids[:5].tolist()
    assert cut.finish_reason == "stop"
    (endless,) = lm.generate(["hello"], num_beams=1, stop_token_ids=None, return_dict=True)
    assert len(endless.ids) == 32


def test_decoder_arrays_may_be_absent_without_preprocessor(lm):
    bare = OnnxBartSeq2SeqLM(lm.backbone, preprocessor=None)
    arrays = arrays_of(lm, WORDS)
    found = bare.generate(arrays, num_beams=3)
    assert found["decoder_token_ids"].dtype == arrays["encoder_token_ids"].dtype
    texts = lm.preprocessor.generate_postprocess(found)
    assert texts == lm.generate(WORDS, num_beams=3)
    several = bare.generate(arrays, num_beams=3, num_return_sequences=2)
    assert several["decoder_token_ids"].shape[:2] == (5, 2)
    with pytest.raises(InputKeyError, match="decoder_token_ids"):
        bare.generate(arrays, stop_token_ids=(2,))


# Forms.


def test_forms_of_inputs_and_results(lm):
    whole = lm.generate(WORDS, num_beams=2)
    assert isinstance(whole, list)
    assert lm.generate("hello", num_beams=2) == whole[0]
    assert lm.generate(np.array(WORDS), num_beams=2) == whole
    assert lm.generate((WORDS[at : at + 2] for at in (0, 2, 4)), num_beams=2) == whole
    several = lm.generate(WORDS, num_beams=3, num_return_sequences=3)
    assert [len(each) for each in several] == [3] * 5
    assert lm.generate("hello", num_beams=3, num_return_sequences=3) == several[0]
    assert lm.generate([], num_beams=2) == []
    assert lm.generate([], num_beams=2, return_dict=True) == []


def test_prompts(lm):
    ids = lm.preprocessor.tokenizer.encode_batch(["hˈɛ"])[0]
    by_id = lm.generate(["hello"], decoder_input_ids=[[2, 0, *ids]], return_dict=True)[0]
    assert by_id.ids.tolist()[: len(ids) + 2] == [2, 0, *ids]
    assert by_id.prompt_length == len(ids) + 2
    pairs = {"encoder_text": ["hello"], "decoder_text": ["hˈɛ"]}
    assert lm.generate(pairs, num_beams=1) == [by_id.text]
    assert by_id.text.startswith("hˈɛ")
    assert lm.generate(pairs, num_beams=1, strip_prompt=True) == [by_id.text.removeprefix("hˈɛ")]
    # The start token is put before a prompt that lacks it.
    short = lm.generate(["hello"], decoder_input_ids=[[0, *ids]], return_dict=True)[0]
    assert short.ids.tolist() == by_id.ids.tolist()
    unequal = lm.generate(["hello", "a"], decoder_input_ids=[[2, 0, *ids], [2]], num_beams=2)
    assert unequal[1] == lm.generate("a", num_beams=2)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 5}])
def test_a_result_says_how_it_came_about(greedy, options):
    results = greedy.generate(WORDS, return_dict=True, **options)
    texts = greedy.generate(WORDS, **options)
    assert [each.text for each in results] == texts
    scores = greedy.score(WORDS, texts)
    for result, score in zip(results, scores, strict=True):
        assert result.finish_reason == "stop"
        assert result.ids[0] == 2
        assert result.ids[-1] == 2
        assert len(result.log_probs) == len(result.ids) - result.prompt_length
        total = float(result.log_probs.sum())
        if result.prompt_length == 1:
            assert total == pytest.approx(score, abs=1e-3)
        length = len(result.log_probs) if "num_beams" in options else 1
        if "do_sample" not in options and "num_beams" in options:
            # forced_bos_token_id scores 0 there, and its log-probability here.
            forced = float(result.log_probs[0])
            assert result.score == pytest.approx((total - forced) / length, abs=1e-5)
        else:
            assert result.score == pytest.approx(total, abs=1e-4)
        assert result.n_best[0].text == result.text
        assert result.to_dict()["text"] == result.text


def test_top_log_probs_and_n_best(lm):
    (result,) = lm.generate(
        ["onnx"], num_beams=4, num_return_sequences=3, top_log_probs=3, return_dict=True
    )
    assert [len(place) for place in result.top_log_probs] == [3] * len(result.log_probs)
    for place, token, own in zip(
        result.top_log_probs, result.ids[1:].tolist(), result.log_probs, strict=True
    ):
        assert list(place.values()) == sorted(place.values(), reverse=True)
        if token in place:
            assert place[token] == pytest.approx(own, abs=1e-6)
    scores = [each.score for each in result.n_best]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert len({each.text for each in result.n_best}) == 3


def test_alignments(lm):
    results = lm.generate(WORDS, num_beams=3, alignments=True, return_dict=True)
    one = lm.generate(["onnx"], num_beams=3, alignments=[(0, 1), (1, 2)], return_dict=True)[0]
    for result in results:
        assert result.alignment.shape == (len(result.log_probs), len(result.source_ids))
        np.testing.assert_allclose(result.alignment.sum(axis=1), 1, atol=1e-5)
    every = [
        lm.generate(["onnx"], num_beams=3, alignments=[head], return_dict=True)[0].alignment
        for head in ((0, 1), (1, 2))
    ]
    np.testing.assert_allclose(one.alignment, np.mean(every, axis=0), atol=1e-6)
    heads = [(layer, head) for layer in range(2) for head in range(4)]
    all_named = lm.generate(["onnx"], num_beams=3, alignments=heads, return_dict=True)[0]
    np.testing.assert_allclose(all_named.alignment, results[2].alignment, atol=1e-6)
    with pytest.raises(InputError, match="layer 9"):
        lm.generate(["onnx"], alignments=[(9, 0)], num_beams=1, return_dict=True)


def test_reports_of_a_sampler(greedy):
    words = ["hello", "onnx"]
    results = greedy.generate(words, return_dict=True, alignments=True)
    assert [each.text for each in results] == greedy.generate(words)
    assert results[0].ids[:2].tolist() == [2, 0]
    assert results[0].prompt_length == 2
    assert results[0].alignment.shape[0] == len(results[0].log_probs)
    with pytest.raises(InputError, match="return_dict=True"):
        greedy.generate(words, top_log_probs=2)


def test_summaries_put_the_checkpoints_prefix_before_texts(lm, monkeypatch):
    with_prefix = {**lm.generation_config, "prefix": "un"}
    monkeypatch.setattr(type(lm), "generation_config", property(lambda _: with_prefix))
    words = ["unhello", "unonnx"]
    assert lm.summarize(["hello", "onnx"]) == lm.generate(words, num_beams=1)
    assert lm.summarize("hello") == lm.generate("unhello", num_beams=1)


# Streams.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 1},
        {"num_beams": 4},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0},
        {"do_sample": True, "seed": 2},
        {"max_length": 7},
        {"strip_prompt": True},
        {"long_input": "split"},
    ],
)
def test_pieces_make_up_the_text(greedy, options):
    for word in WORDS:
        assert "".join(greedy.stream(word, **options)) == greedy.generate(word, **options)


def test_a_stream_gives_text_before_the_end(greedy):
    assert len(list(greedy.stream("summarization"))) > 5
    assert len(list(greedy.stream("Massachusetts", num_beams=3))) > 1


def test_streams_of_samplers_that_look_at_several_rows(lm):
    before = lm.sampler
    lm.sampler = BeamSampler(num_beams=3)
    assert list(lm.stream("hello")) == [lm.generate("hello")]
    lm.sampler = before


def test_async_streams_leave_the_loop_free(greedy):
    async def together():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        pieces = [piece async for piece in greedy.astream("summarization", num_beams=2)]
        ticking.cancel()
        return pieces, ticks

    pieces, ticks = asyncio.run(together())
    assert "".join(pieces) == greedy.generate("summarization", num_beams=2)
    assert ticks > len(pieces)


def test_a_cancelled_stream_frees_its_row(greedy, monkeypatch):
    runner, original = greedy.runner, greedy.runner.step
    steps, reached, go_on = [], threading.Event(), threading.Event()

    def counted(state, token_ids, wanted):
        steps.append(weakref.ref(state))
        if len(steps) == 3:
            reached.set()
            assert go_on.wait(60)
        return original(state, token_ids, wanted)

    async def read():
        async for _ in greedy.astream("summarization", num_beams=2):
            pass

    async def cancel_during_a_step():
        task = asyncio.create_task(read())
        await asyncio.to_thread(reached.wait, 60)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(runner, "step", counted)
    asyncio.run(cancel_during_a_step())
    # The step that ran was the last, and nothing holds the caches any more.
    assert len(steps) == 3
    gc.collect()
    assert [each() for each in steps] == [None] * 3


def test_a_closed_stream_gives_no_more(greedy):
    stream = greedy.stream("summarization")
    next(stream)
    stream.close()
    assert list(stream) == []


def test_what_cannot_be_streamed(greedy):
    with pytest.raises(InputTypeError, match="one text"):
        list(greedy.stream(["hello"]))
    with pytest.raises(InputTypeError, match="one text"):
        list(greedy.stream(["hello"], num_beams=2))
    with pytest.raises(InputError, match="num_return_sequences"):
        list(greedy.stream("hello", num_beams=2, num_return_sequences=2))
    bare = OnnxBartSeq2SeqLM(greedy.backbone, preprocessor=None)
    with pytest.raises(InputError, match="preprocessor"):
        list(bare.stream("hello", num_beams=2))


# Long inputs.


@pytest.fixture
def short_sighted(lm):
    before = lm.preprocessor.encoder_sequence_length
    lm.preprocessor.encoder_sequence_length = 12
    yield lm
    lm.preprocessor.encoder_sequence_length = before


LONG = "Cat sat. Dog ran. Owl saw. Fox hid."


def test_long_inputs(short_sighted):
    lm = short_sighted
    with pytest.raises(InputTooLongError):
        lm.generate(LONG, num_beams=1, long_input="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (cut,) = lm.generate([LONG], num_beams=1, long_input="truncate", return_dict=True)
    assert "first 12" in cut.long_input
    (split,) = lm.generate([LONG], num_beams=2, long_input="split", return_dict=True)
    assert len(split.parts) == len(split.part_results) > 1
    assert f"{len(split.parts)} parts" in split.long_input
    texts = [lm.generate(part.text, num_beams=2) for part in split.parts]
    assert split.text == " ".join(text.strip() for text in texts)
    assert "".join(part.text[part.overlap :] for part in split.parts) == LONG
    mixed = lm.generate(["hello", LONG], num_beams=2, long_input="split")
    assert mixed == [lm.generate("hello", num_beams=2), split.text]
    assert "".join(lm.stream(LONG, num_beams=2, long_input="split")) == split.text
    (short,) = lm.generate(["hello"], num_beams=1, long_input="split", return_dict=True)
    assert (short.long_input, len(short.parts)) == ("", 1)


def test_long_inputs_of_a_sampler(short_sighted):
    lm = short_sighted
    lm.compile(sampler="greedy")
    whole = lm.generate(LONG, long_input="split")
    assert lm.generate([LONG, "hello"], long_input="split") == [whole, lm.generate("hello")]
    (result,) = lm.generate([LONG], long_input="split", return_dict=True)
    assert result.text == whole
    assert "".join(lm.stream(LONG, long_input="split")) == whole
    with pytest.raises(InputError, match="chop"):
        lm.generate(LONG, long_input="chop", num_beams=1)
    lm.compile()


# Stops, words, functions.


def test_stop_strings_end_with_the_token_that_completes_one(lm):
    whole = lm.generate("summarization", num_beams=1)
    assert len(whole) > 8
    for length in (2, 3):
        wanted = whole[3 : 3 + length]
        (cut,) = lm.generate(["summarization"], stop_strings=wanted, return_dict=True)
        assert cut.text == whole[: whole.index(wanted) + length]
        assert cut.finish_reason == "stop"
    beams = lm.generate(["summarization"], stop_strings=[whole[3:5], "?"], num_beams=3)
    assert beams[0].endswith(whole[3:5])
    bare = OnnxBartSeq2SeqLM(lm.backbone, preprocessor=None)
    with pytest.raises(InputError, match="stop_strings"):
        bare.generate(arrays_of(lm, WORDS), stop_strings="x")


def test_bad_words_never_come(lm):
    whole = lm.generate("hello", num_beams=2)
    assert "l" in whole
    assert "l" not in lm.generate("hello", num_beams=2, bad_words=["l"])
    assert whole[:2] not in lm.generate("hello", num_beams=2, bad_words=whole[:2])


def test_functions_of_the_user(lm):
    seen = []

    def nothing_but_zero(token_ids, scores):
        seen.append((token_ids.shape, scores.shape))
        changed = np.full_like(scores, -np.inf)
        changed[39] = 0
        return changed

    (result,) = lm.generate(
        ["hello"], logits_processor=nothing_but_zero, max_length=6, return_dict=True
    )
    assert result.ids.tolist() == [2, 39, 39, 39, 39, 39]
    assert seen == [((length,), (112,)) for length in range(1, 6)]
    numbers = []

    def allowed(row, token_ids):
        numbers.append(row)
        return [40 + row, 2]

    texts = lm.generate(["hello", "a"], prefix_allowed_tokens_fn=allowed, return_dict=True)
    assert set(numbers) == {0, 1}
    assert set(texts[1].ids[2:].tolist()) <= {41, 2}


def test_a_failing_row_leaves_the_others(lm):
    whole = lm.generate(WORDS, num_beams=2)

    def allowed(row, token_ids):
        return [] if row == 3 else range(112)

    with pytest.raises(DecodingError, match=r"[Rr]ow 3.*prefix_allowed_tokens_fn") as caught:
        lm.generate(WORDS, num_beams=2, prefix_allowed_tokens_fn=allowed)
    assert list(caught.value.failed) == [3]
    assert caught.value.results == [*whole[:3], None, whole[4]]
    with pytest.raises(DecodingError) as caught:
        lm.generate(WORDS, num_beams=2, prefix_allowed_tokens_fn=allowed, return_dict=True)
    assert [each and each.text for each in caught.value.results] == [*whole[:3], None, whole[4]]


# Scores.


def test_scores_are_log_likelihoods(lm):
    texts = lm.generate(WORDS, num_beams=1)
    sums, means = lm.score(WORDS, texts), lm.score(WORDS, texts, reduction="mean")
    every = lm.score(WORDS, texts, reduction="none")
    assert sums.dtype == np.float32
    for text, total, mean, own in zip(texts, sums, means, every, strict=True):
        ids = lm.preprocessor.tokenizer.encode_batch([text])[0]
        assert len(own) == len(ids) + 2
        assert total == pytest.approx(own.sum(), rel=1e-5)
        assert mean == pytest.approx(total / len(own), rel=1e-5)
    assert lm.score("hello", texts[0]) == pytest.approx(float(sums[0]), abs=1e-6)
    alone = [lm.score([word], [text])[0] for word, text in zip(WORDS, texts, strict=True)]
    np.testing.assert_array_equal(np.array(alone, np.float32), sums)
    assert lm.score("hello", texts[0]) > lm.score("hello", texts[1])
    with pytest.raises(InputError, match="5 sources and 1 targets"):
        lm.score(WORDS, ["x"])
    with pytest.raises(InputError, match="average"):
        lm.score("a", "b", reduction="average")
    with pytest.raises(InputTooLongError, match="targets"):
        lm.score("a", "b" * 100)
    assert lm.score([], []).shape == (0,)


# What is refused.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_beam": 3}, "num_beam;"),
        ({"num_return_sequences": 3}, "num_return_sequences=3"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_beams=2"),
        ({"temperature": 0.5}, "do_sample=True"),
        ({"max_length": 5, "max_new_tokens": 4}, "max_new_tokens"),
        ({"min_length": 9, "max_length": 8}, "min_length=9"),
        ({"suppress_tokens": [0], "forced_bos_token_id": 0}, "forced_bos_token_id"),
        ({"num_beams": 0}, "num_beams"),
        ({"early_stopping": "sometimes"}, "early_stopping"),
        ({"eos_token_id": 400}, "eos_token_id is 400"),
        ({"suppress_tokens": [4000]}, "suppress_tokens"),
        ({"max_length": 300, "num_beams": 2}, "64 positions"),
        ({"logits_processor": 3}, "logits_processor"),
        ({"bad_words": ["a"], "bad_words_ids": [[5]]}, "bad_words_ids"),
        ({"decoder_input_ids": 5}, "decoder_input_ids"),
        ({"decoder_input_ids": [[[1], [1, 2]]]}, "decoder_input_ids"),
        ({"decoder_input_ids": [["x"]] * 5}, "decoder_input_ids"),
        ({"seed": 3}, "do_sample=True"),
        ({"max_new_tokens": 100_000}, "max_new_tokens is 100000"),
        ({"max_length": np.int64(100), "num_beams": 2}, "64 positions"),
        ({"min_length": 60, "max_new_tokens": 5}, "min_length=60"),
        ({"bad_words": [5]}, "bad_words"),
        ({"bad_words": 3}, "bad_words"),
        ({"bad_words": b"x"}, "bad_words"),
        ({"bad_words": [" "]}, "blank"),
        ({"length_penalty": 500.0, "num_beams": 2}, "length_penalty"),
        ({"temperature": 1e300, "do_sample": True}, "temperature"),
        ({"repetition_penalty": 1e-46}, "repetition_penalty"),
        ({"num_beams": 2, "num_return_sequences": 2, "long_input": "split"}, "split"),
        ({"alignments": "x", "return_dict": True, "num_beams": 1}, "alignments"),
        ({"alignments": [1, 2], "return_dict": True, "num_beams": 1}, "alignments"),
        ({"alignments": [(0.7, 0)], "return_dict": True, "num_beams": 1}, "alignments"),
        ({"decoder_input_ids": [[2, 0]]}, "1 rows for 5"),
        ({"decoder_input_ids": [[2, 500]] * 5}, "prompt of row 0"),
        ({"num_beams": True}, "num_beams"),
        ({"top_p": 1.5, "do_sample": True}, "top_p"),
    ],
)
def test_options_that_cannot_be_used_are_named(lm, options, named):
    with pytest.raises(InputError, match=named):
        lm.generate(WORDS, **options)


def test_options_that_ask_for_nothing_are_accepted(lm):
    plain = lm.generate(WORDS, num_beams=1)
    beam_options = {"length_penalty": 2.0, "early_stopping": True}
    assert lm.generate(WORDS, num_beams=1, **beam_options) == plain
    neutral = {"temperature": 1.0, "top_k": 50, "min_length": None, "bad_words": None}
    assert lm.generate(WORDS, num_beams=1, **neutral) == plain


def test_a_prompt_too_long_fails_its_row_only(lm):
    pairs = {"encoder_text": ["onnx", "cat"], "decoder_text": ["", "x" * 40]}
    with pytest.raises(DecodingError, match=r"Row 1.*max_length is 32") as caught:
        lm.generate(pairs, num_beams=2)
    assert caught.value.results == [lm.generate("onnx", num_beams=2), None]
    with pytest.raises(DecodingError, match="max_length"):
        list(lm.stream({"encoder_text": "cat", "decoder_text": "x" * 40}, num_beams=2))


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}, {"do_sample": True}])
def test_nan_of_a_users_function_fails_its_row_only(lm, options):
    whole = lm.generate(["onnx", "cat"], return_dict=True, **options, seed=None)
    third = int(whole[1].ids[2])

    def spoiled(token_ids, scores):
        return scores * np.nan if len(token_ids) > 2 and token_ids[2] == third else scores

    with pytest.raises(DecodingError, match=r"Row 1.*logits_processor") as caught:
        lm.generate(["onnx", "cat"], num_beams=1, logits_processor=spoiled)
    assert caught.value.results[0] == lm.generate("onnx", num_beams=1)


def test_parts_of_a_text_are_one_input(short_sighted):
    lm = short_sighted
    numbers = []

    def allowed(number, token_ids):
        numbers.append(number)
        return range(112)

    lm.generate([[LONG, "cat"], ["onnx"]], long_input="split", prefix_allowed_tokens_fn=allowed)
    assert set(numbers) == {0, 1, 2}
    (result,) = lm.generate(
        [LONG], decoder_input_ids=[[2, 0]], long_input="split", return_dict=True, top_log_probs=2
    )
    assert all(part.ids[:2].tolist() == [2, 0] for part in result.part_results)
    assert [each.text for each in result.n_best] == [result.text]
    assert len(result.top_log_probs) == len(result.log_probs)


def test_arrays_and_prompts_by_id_exclude_each_other(lm):
    bare = OnnxBartSeq2SeqLM(lm.backbone, preprocessor=None)
    arrays = lm.preprocessor.generate_preprocess(["cat"])
    with pytest.raises(InputError, match="decoder_input_ids"):
        bare.generate(arrays, decoder_input_ids=[[2]])
    with pytest.raises(InputTypeError, match="dict of arrays"):
        bare.score("a", "b")


def test_lone_surrogates_are_refused_as_everywhere(lm):
    with pytest.raises(InputError):
        lm.generate("\ud800", num_beams=2)


def test_the_generation_config_cannot_be_written_to(lm):
    with pytest.raises(TypeError):
        lm.generation_config["num_beams"] = 3
