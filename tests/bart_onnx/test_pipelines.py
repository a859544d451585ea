"""`pipeline`: transformers 4's arguments and results, judged by what 4.57 itself answered."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import bart_onnx
from bart_onnx import BartTokenizer, OnnxBartSeq2SeqLM, pipeline
from bart_onnx.errors import (
    BartOnnxError,
    DecodingError,
    DeviceError,
    InputError,
    InputTooLongError,
    InputTruncatedWarning,
    InputTypeError,
)
from bart_onnx.pipeline_arguments import device_of, preset_of
from bart_onnx.pipelines import clean_up
from bart_onnx.text_generator import TextGenerator

SHIPPED = "bart_tiny_en_g2p"
GOLDEN = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "pipelines_v4.json").read_text("utf-8")
)


@pytest.fixture(scope="module")
def pipe():
    return pipeline("summarization", model=SHIPPED, offline=True)


@pytest.fixture(scope="module")
def shipped(pipe):
    return pipe.model


@pytest.mark.parametrize("task", ["summarization", "text2text-generation"])
def test_it_answers_as_transformers_4_did(tiny_bundle, monkeypatch, task):
    monkeypatch.setattr(TextGenerator, "generation_config", GOLDEN["generation_config"])
    judged = pipeline(task, model=str(tiny_bundle), device=-1, framework="pt")
    for case in GOLDEN[task]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = judged(case["inputs"], **case["arguments"])
        assert _plain(found) == case["results"], case["arguments"]


def _plain(found):
    if isinstance(found, list):
        return [_plain(each) for each in found]
    return {name: getattr(each, "tolist", lambda each=each: each)() for name, each in found.items()}


def test_forms_of_inputs(pipe):
    one, several = (
        [{"summary_text": "ˈɑŋks"}],
        [{"summary_text": "ˈɑŋks"}, {"summary_text": "kˈæt"}],
    )
    assert pipe("onnx") == one
    assert pipe(b"onnx") == one
    for inputs in (["onnx", "cat"], ("onnx", "cat"), np.array(["onnx", "cat"])):
        assert pipe(inputs) == several
    assert pipe([]) == []
    for inputs in (
        iter(["onnx", "cat"]),
        (w for w in ("onnx", "cat")),
        {"onnx": 1, "cat": 2}.keys(),
    ):
        given = pipe(inputs)
        assert iter(given) is given
        assert list(given) == [one, [several[1]]]
    assert list(pipe(_Dataset(["onnx", "cat"]), batch_size=2)) == [one, [several[1]]]


class _Dataset:
    def __init__(self, texts):
        self._texts = texts

    def __len__(self):
        return len(self._texts)

    def __getitem__(self, index):
        return self._texts[index]


def test_an_iterable_is_read_no_further_than_it_must_be(pipe):
    read = []

    def texts():
        for word in ("onnx", "cat", "dog"):
            read.append(word)
            yield word

    found = pipe(texts())
    assert read == []
    next(found)
    assert read == ["onnx"]
    assert len(list(pipe(texts(), batch_size=2))) == 3


@pytest.mark.parametrize("draws", [{}, {"num_beams": 2}, {"num_return_sequences": 2}])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_is_drawn_does_not_depend_on_the_batch_size(pipe, batch_size, draws):
    words = ["international"] * 4
    draws = {"do_sample": True, "seed": 7, "temperature": 3.0, **draws}
    expected = [each if isinstance(each, list) else [each] for each in pipe(words, **draws)]
    assert len({str(each) for each in expected}) > 1
    assert list(pipe(iter(words), batch_size=batch_size, **draws)) == expected


def test_ids_are_those_of_the_result(pipe, shipped):
    (result,) = shipped.summarize(["onnx"], return_dict=True)
    (found,) = pipe("onnx", return_tensors=True)
    assert list(found) == ["summary_token_ids"]
    assert found["summary_token_ids"].dtype == np.int64
    assert found["summary_token_ids"].tolist() == result.ids.tolist()


def test_arguments_of_the_pipeline_hold_until_a_call_says_otherwise(shipped):
    pipe = pipeline("text2text-generation", model=shipped, max_length=4)
    short = shipped.generate("summarization", max_length=4, num_beams=1)
    assert pipe("summarization") == [{"generated_text": short}]
    assert pipe("summarization", max_length=32)[0]["generated_text"] == "sˌʌməɹəzˈAʃən"


def test_it_draws_only_where_it_is_asked(shipped, monkeypatch):
    monkeypatch.setattr(
        TextGenerator, "generation_config", {**shipped.generation_config, "do_sample": True}
    )
    pipe = pipeline(model=shipped)
    assert pipe("onnx") == [{"summary_text": "ˈɑŋks"}]
    drawn = pipe("onnx", do_sample=True, seed=1, temperature=3.0)
    assert drawn == pipe("onnx", do_sample=True, seed=1, temperature=3.0)


def test_a_text_that_is_too_long(pipe):
    long = "ab. " * 40
    with pytest.raises(InputTooLongError, match=r'truncation=True cuts it.*long_input="split"'):
        pipe(long)
    with pytest.warns(InputTruncatedWarning):
        cut = pipe(long, truncation=True)
    with pytest.warns(InputTruncatedWarning):
        assert pipe(long, truncation="longest_first") == cut
    assert pipe(long, long_input="split")[0]["summary_text"] != cut[0]["summary_text"]


def test_max_length_below_the_min_length_of_the_config_runs(shipped, monkeypatch):
    config = {**shipped.generation_config, "min_length": 20}
    monkeypatch.setattr(TextGenerator, "generation_config", config)
    pipe = pipeline(model=shipped)
    with pytest.warns(UserWarning, match="min_length=20 of the generation config is more than max"):
        (found,) = pipe("onnx", max_length=9, return_tensors=True)
    assert len(found["summary_token_ids"]) == 9
    with pytest.raises(InputError, match="min_length=12 is more than max_length=9"):
        pipe("onnx", max_length=9, min_length=12)


def test_a_prefix_stands_before_every_text(pipe, shipped, monkeypatch):
    expected = pipe("xonnx")
    assert pipe("onnx", prefix="x") == expected
    config = {**shipped.generation_config, "prefix": "x"}
    monkeypatch.setattr(TextGenerator, "generation_config", config)
    assert pipe("onnx") == expected
    assert pipe("xonnx", prefix="") == expected


def test_stop_sequence_is_a_token(pipe, shipped):
    token = shipped.preprocessor.tokenizer.encode_batch(["k"])[0]
    assert len(token) == 1
    expected = shipped.generate("onnx", eos_token_id=token[0], num_beams=1)
    assert pipe("onnx", stop_sequence="k") == [{"summary_text": expected}]
    with pytest.raises(InputError, match=r"has 3 tokens.*stop_strings=\['abc'\]"):
        pipe("onnx", stop_sequence="abc")


def test_clean_up():
    assert (
        clean_up("it is n't . is it ' you 're , we 've ? I 'm !")
        == "it isn't. is it'you're, we've? I'm!"
    )


def test_failed_texts_are_told_with_the_others(pipe, shipped):
    everything = list(range(shipped.config.vocabulary_size))
    with pytest.raises(DecodingError) as failed:
        pipe(["onnx"], suppress_tokens=everything, forced_bos_token_id=None)
    assert failed.value.results == [None]


def test_a_tokenizer_of_ones_own(shipped):
    named = pipeline(model=SHIPPED, tokenizer=SHIPPED, offline=True)
    own = pipeline(model=shipped, tokenizer=BartTokenizer.from_preset(SHIPPED))
    preprocessor = pipeline(model=shipped, tokenizer=shipped.preprocessor)
    for pipe in (named, own, preprocessor):
        assert pipe("onnx") == [{"summary_text": "ˈɑŋks"}]
    assert own.tokenizer is not shipped.preprocessor.tokenizer
    assert (own.task, own.device) == ("summarization", "cpu")
    bare = OnnxBartSeq2SeqLM(shipped.backbone)
    assert pipeline(model=bare, tokenizer=own.tokenizer)("onnx") == [{"summary_text": "ˈɑŋks"}]
    with pytest.raises(InputError, match="needs a model with a preprocessor"):
        pipeline(model=bare)


@pytest.mark.parametrize(
    ("model", "revision", "preset"),
    [
        ("facebook/bart-large-cnn", None, "hf://facebook/bart-large-cnn"),
        ("facebook/bart-large-cnn", "v1", "hf://facebook/bart-large-cnn@v1"),
        ("hf://facebook/bart-base", "main", "hf://facebook/bart-base@main"),
        ("bart_large_en_cnn", None, "bart_large_en_cnn"),
        (None, None, "hf://sshleifer/distilbart-cnn-12-6"),
    ],
)
def test_names_of_models(model, revision, preset):
    assert preset_of(model, "summarization", revision) == preset


def test_a_directory_wins_over_the_hub(tmp_path, monkeypatch):
    (tmp_path / "facebook" / "bart-large-cnn").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert preset_of("facebook/bart-large-cnn", "summarization", None) == "facebook/bart-large-cnn"


def test_without_a_model_the_usual_one_is_named():
    with (
        pytest.warns(UserWarning, match="sshleifer/distilbart-cnn-12-6"),
        pytest.raises(BartOnnxError, match="distilbart"),
    ):
        pipeline("summarization", offline=True)


@pytest.mark.parametrize(
    ("device", "means"),
    [(None, "cpu"), (-1, "cpu"), ("cpu", "cpu"), (0, "cuda"), ("cuda:0", "cuda"), ("cuda", "cuda")],
)
def test_devices(device, means):
    assert device_of(device) == means


@pytest.mark.parametrize("device", [1, "cuda:1", "mps", "npu:0", True, object()])
def test_devices_that_no_version_drives(device):
    with pytest.raises(DeviceError, match="is not driven by this version"):
        device_of(device)


@pytest.mark.parametrize(
    "arguments",
    [
        {"framework": "pt", "use_fast": False, "torch_dtype": "auto", "device_map": "auto"},
        {"trust_remote_code": False, "token": None, "model_kwargs": {}, "dtype": "float32"},
        {
            "num_workers": 2,
            "use_cache": True,
            "num_beam_groups": 1,
            "return_dict_in_generate": False,
        },
    ],
)
def test_what_changes_nothing_is_accepted(shipped, arguments):
    assert pipeline(model=shipped, **arguments)("onnx") == [{"summary_text": "ˈɑŋks"}]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"task": "fill-mask"}, InputError, "there are 'summarization' and 'text2text-generation'"),
        ({"task": "translation_en_to_fr"}, InputError, "mBART's languages are not here"),
        ({"task": "text2text-generation", "model": None}, InputError, "name one with model="),
        ({"device": 0}, DeviceError, "'cuda'"),
        ({"torch_dtype": "float16"}, InputError, "torch_dtype='float16' cannot be done here"),
        ({"trust_remote_code": True}, InputError, "no code of a checkpoint is ever run"),
        ({"model_kwargs": {"a": 1}}, InputError, "give precision, threads, offline or verify"),
        ({"config": 3}, InputError, "a bundle holds all that the model is"),
        ({"revision": "v1"}, InputError, "is of a hub's model"),
        ({"model": 3}, InputTypeError, "found int"),
        ({"tokenizer": 3}, InputTypeError, "found int. Leave it out"),
        ({"generation_config": 3}, InputError, r"\*\*generation_config.to_diff_dict\(\)"),
        ({"penalty_alpha": 0.6}, InputError, 'sampler="contrastive"'),
        ({"return_dict_in_generate": True}, InputError, "return_dict=True"),
        ({"assistant_model": 3}, InputError, "drafts of another model"),
        ({"truncation": "only_second"}, InputError, "is for pairs of texts"),
        ({"truncation": True, "long_input": "split"}, InputError, "differ; give one of them"),
        ({"long_input": "guess"}, InputError, "'guess'"),
        ({"batch_size": 0}, InputError, "batch_size must be an integer of at least 1"),
        ({"prefix": 3}, InputTypeError, "prefix must be a text"),
        ({"stop_sequence": 3}, InputTypeError, "stop_sequence must be a text, found int 3"),
        ({"overlap_sentences": -1}, InputError, "overlap_sentences is -1"),
        ({"no_such_thing": 1}, InputTypeError, "There is no option no_such_thing"),
        ({"num_beams": 0}, InputError, "num_beams must be from 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, error, says):
    with pytest.raises(error, match=says):
        pipeline(**{"task": "summarization", "model": SHIPPED, "offline": True, **arguments})(
            "onnx"
        )


def test_a_model_that_is_open_cannot_be_opened_otherwise(shipped):
    with pytest.raises(InputError, match="threads, revision cannot be changed"):
        pipeline(model=shipped, threads=2, revision="v1")
    with pytest.raises(InputError, match="the model runs on 'cpu'"):
        pipeline(model=shipped, device=0)


@pytest.mark.parametrize("inputs", [3, None, {"a": "b"}, ["onnx", 3], [["onnx"]], [None]])
def test_what_is_no_text_is_refused(pipe, inputs):
    with pytest.raises(InputTypeError):
        pipe(inputs)


def test_the_package_shows_it():
    assert bart_onnx.pipeline is pipeline
    assert "pipeline" in bart_onnx.__all__
