"""BartBackbone and the model around it: KerasHub's forward, cache and evaluate goldens, saving."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bart_onnx import BartBackbone, OnnxBartSeq2SeqLM
from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.initializer import initialize
from bart_onnx.training_options import Checkpointing, OptimizerOptions

CLOSE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def lm(golden):
    lm = OnnxBartSeq2SeqLM.from_preset(golden / "keras_preset")
    lm.preprocessor.encoder_sequence_length = 24
    lm.preprocessor.decoder_sequence_length = 20
    return lm


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BART_ONNX_HOME", str(tmp_path_factory.mktemp("store")))
        yield


def test_forward_golden(lm, golden):
    expected = np.load(golden / "forward.npz")
    names = ("token_ids", "padding_mask")
    inputs = {f"{s}_{n}": expected[f"{s}_{n}"] for s in ("encoder", "decoder") for n in names}
    found = lm.backbone(inputs)
    for side in ("encoder", "decoder"):
        real = inputs[f"{side}_padding_mask"].astype(bool)
        name = f"{side}_sequence_output"
        np.testing.assert_allclose(found[name][real], expected[name][real], **CLOSE)
    real = inputs["decoder_padding_mask"].astype(bool)
    np.testing.assert_allclose(lm(inputs)[real], expected["logits"][real], **CLOSE)


def test_cache_golden(lm, golden):
    expected = np.load(golden / "cache.npz")
    sources, mask = expected["encoder_token_ids"], expected["encoder_padding_mask"]
    hidden = lm.call_encoder(sources, mask)
    real = mask.astype(bool)
    np.testing.assert_allclose(hidden[real], expected["encoder_hidden_states"][real], **CLOSE)
    hidden = expected["encoder_hidden_states"]
    logits, states, own, cross = lm.call_decoder_with_cache(
        hidden,
        mask,
        expected["decoder_token_ids"],
        self_attention_cache=np.zeros_like(expected["self_cache"]),
        self_attention_cache_update_index=0,
        cross_attention_cache=np.zeros_like(expected["cross_cache"]),
        cross_attention_cache_update_index=0,
    )
    np.testing.assert_allclose(logits, expected["prefill_logits"], **CLOSE)
    np.testing.assert_allclose(states, expected["prefill_hidden"], **CLOSE)
    np.testing.assert_allclose(own, expected["self_cache"], **CLOSE)
    np.testing.assert_allclose(cross, expected["cross_cache"], **CLOSE)
    logits, states, own, again = lm.call_decoder_with_cache(
        hidden,
        mask,
        expected["step_token_ids"],
        self_attention_cache=expected["self_cache"],
        self_attention_cache_update_index=int(expected["step_index"]),
        cross_attention_cache=expected["cross_cache"],
        cross_attention_cache_update_index=None,
    )
    np.testing.assert_allclose(logits, expected["step_logits"], **CLOSE)
    np.testing.assert_allclose(states, expected["step_hidden"], **CLOSE)
    np.testing.assert_allclose(own, expected["step_self_cache"], **CLOSE)
    np.testing.assert_array_equal(again, expected["cross_cache"])


def test_evaluate_and_predict_golden(lm, golden):
    said = json.loads((golden / "evaluate.json").read_text())
    found = lm.evaluate(said["data"])
    assert found.keys() == said["evaluate"].keys()
    for name, value in said["evaluate"].items():
        assert found[name] == pytest.approx(value, abs=1e-5)
    logits = lm.predict(said["data"])
    assert (list(logits.shape), str(logits.dtype)) == (said["predict_shape"], "float32")
    assert logits.argmax(-1).tolist() == said["predict_argmax"]
    assert float(logits.sum(dtype=np.float64)) == pytest.approx(said["predict_sum"], abs=1)


def test_numbers_and_config():
    backbone = BartBackbone(305, 2, 4, 32, 64, max_sequence_length=48, seed=3)
    assert backbone.count_params() == sum(read().size for read in backbone.weights.values())
    config = backbone.get_config()
    assert config["num_layers"] == backbone.num_layers == 2
    assert BartBackbone.from_config(config).config == backbone.config
    again = BartBackbone(305, 2, 4, 32, 64, max_sequence_length=48, seed=3)
    for name, read in backbone.weights.items():
        np.testing.assert_array_equal(read(), again.weights[name]())


@pytest.mark.parametrize(("layers", "parameters"), [(6, 139_417_344), (12, 406_287_360)])
def test_parameter_counts_of_the_published_models(layers, parameters):
    wide = layers == 12
    numbers = (50265, layers, 16 if wide else 12, 1024 if wide else 768, 4096 if wide else 3072)
    assert BartBackbone(*numbers, seed=0).count_params() == parameters


def test_initial_weights_are_kerashubs():
    config = BartBackbone(305, 1, 4, 64, 128, seed=0).config
    weights = {name: read() for name, read in initialize(config, 7).items()}
    kernel = weights["encoder.layers.0.feedforward_intermediate.kernel"]
    assert abs(kernel).max() <= 0.04
    assert kernel.std() == pytest.approx(0.0176, abs=0.0005)
    assert not weights["encoder.layers.0.feedforward_intermediate.bias"].any()
    assert (weights["encoder.embedding_layer_norm.gamma"] == 1).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_heads": 5}, "5 encoder heads"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"max_sequence_length": None}, "max_sequence_length"),
        ({"num_layers": 0}, "num_layers"),
    ],
)
def test_numbers_that_are_refused(options, says):
    numbers = {
        "vocabulary_size": 305,
        "num_layers": 1,
        "num_heads": 4,
        "hidden_dim": 32,
        "intermediate_dim": 64,
    }
    with pytest.raises(InputError, match=says):
        BartBackbone(**{**numbers, **options})


def test_overrides_of_a_preset(golden):
    path = golden / "keras_preset"
    fresh = BartBackbone.from_preset(path, load_weights=False, num_layers=1)
    assert (fresh.num_layers, fresh.hidden_dim) == (1, 32)
    assert BartBackbone.from_preset(path, dropout=0.3).dropout == 0.3
    with pytest.raises(InputError, match="load_weights=False"):
        BartBackbone.from_preset(path, num_layers=1)
    with pytest.raises(InputError, match="no argument layers"):
        BartBackbone.from_preset(path, load_weights=False, layers=1)
    published = BartBackbone.from_preset("bart_large_en_cnn", load_weights=False, num_layers=1)
    assert published.vocabulary_size == 50264


def test_config_of_the_whole_model(lm):
    again = OnnxBartSeq2SeqLM.from_config(json.loads(json.dumps(lm.get_config())))
    assert again.get_config() == lm.get_config()
    assert again.backbone.config == lm.backbone.config


@pytest.mark.parametrize("format", ["keras", "huggingface"])
def test_save_and_load_again(lm, tmp_path, format):
    lm.save_to_preset(tmp_path / "saved", format=format)
    again = OnnxBartSeq2SeqLM.from_preset(tmp_path / "saved")
    for name, read in lm.backbone.weights.items():
        np.testing.assert_array_equal(again.backbone.weights[name](), read(), name)
    if format == "keras":
        assert again.preprocessor.encoder_sequence_length == 24
        assert again.preprocessor.decoder_sequence_length == 20
    for model in (lm, again):
        model.compile(sampler="greedy")
    assert again.generate("the fox", max_length=20) == lm.generate("the fox", max_length=20)
    with pytest.raises(InputError, match="formats: keras, huggingface"):
        lm.save_to_preset(tmp_path / "other", format="gguf")


def test_tokenizer_and_preprocessor_are_saved_by_themselves(lm, golden, tmp_path):
    kind = type(lm.preprocessor)
    lm.preprocessor.save_to_preset(tmp_path / "preset")
    again = kind.from_preset(str(tmp_path / "preset"))
    assert again.get_config() == lm.preprocessor.get_config()
    assert again.tokenizer.vocabulary == lm.preprocessor.tokenizer.vocabulary
    written = json.loads((tmp_path / "preset" / "tokenizer.json").read_text())
    assert written == json.loads((golden / "keras_preset" / "tokenizer.json").read_text())


def texts():
    return {"encoder_text": ["the fox", "two cat sat"], "decoder_text": ["fox the", "sat cat two"]}


def fresh(golden):
    lm = OnnxBartSeq2SeqLM.from_preset(golden / "keras_preset")
    lm.preprocessor.encoder_sequence_length = lm.preprocessor.decoder_sequence_length = 16
    lm.compile(OptimizerOptions(learning_rate=3e-3), sampler="greedy")
    return lm


def test_fit_changes_what_is_generated_and_is_repeatable(golden):
    first, second = fresh(golden), fresh(golden)
    before = first.generate("two cat sat")
    histories = [lm.fit(texts(), epochs=30, verbose=0, seed=1).history for lm in (first, second)]
    assert histories[0] == histories[1]
    assert histories[0]["loss"][-1] < 0.5 * histories[0]["loss"][0]
    assert first.generate("two cat sat") == second.generate("two cat sat") == "sat cat two"
    assert before != "sat cat two"


def test_fit_on_a_dataset_equals_fit_on_its_rows(golden):
    first, second = fresh(golden), fresh(golden)
    batches = [
        {key: [value] for key, value in zip(texts(), pair, strict=True)}
        for pair in zip(*texts().values(), strict=True)
    ]
    one = first.fit(batches, epochs=2, verbose=0)
    other = second.fit(texts(), batch_size=1, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(one.history["loss"], other.history["loss"], rtol=1e-6)


def test_fit_resumes_from_its_checkpoint(golden, tmp_path):
    whole = fresh(golden).fit(texts(), epochs=4, verbose=0)
    checkpointing = Checkpointing(tmp_path)
    fresh(golden).fit(texts(), epochs=2, verbose=0, checkpointing=checkpointing)
    resumed = fresh(golden).fit(texts(), epochs=4, verbose=0, checkpointing=checkpointing)
    assert resumed.history == whole.history


def test_validation_and_callbacks(golden):
    seen = []

    class Listener:
        def on_epoch_end(self, epoch, logs):
            seen.append((epoch, sorted(logs)))

    history = fresh(golden).fit(
        texts(), epochs=2, verbose=0, validation_data=texts(), callbacks=[Listener()]
    )
    figures = ["loss", "sparse_categorical_accuracy"]
    names = sorted([*figures, *(f"val_{name}" for name in figures)])
    assert sorted(history.history) == names
    assert seen == [(0, names), (1, names)]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda lm: lm.fit("text"), InputTypeError, "dict of texts"),
        (lambda lm: lm.fit([], epochs=1), InputError, "dataset is empty"),
        (lambda lm: lm.fit([texts()], y=[1]), InputError, "its own targets"),
        (lambda lm: lm.fit([texts()], batch_size=2), InputError, "batches have their own"),
        (lambda lm: lm.fit(texts(), validation_split=0.5), InputError, "validation_data"),
        (lambda lm: lm.fit(texts(), epochs=-1), InputError, "epochs"),
        (lambda lm: lm("text"), InputTypeError, "generate"),
        (lambda lm: lm(texts()), InputTypeError, "generate"),
        (lambda lm: OnnxBartSeq2SeqLM(lm.runner), InputTypeError, "BartBackbone"),
        (lambda lm: OnnxBartSeq2SeqLM(lm.backbone, "x"), InputTypeError, "Preprocessor"),
        (lambda lm: OnnxBartSeq2SeqLM.from_preset("x", layers=1), TypeError, "layers"),
    ],
)
def test_refusals(lm, call, error, says):
    with pytest.raises(error, match=says):
        call(lm)
