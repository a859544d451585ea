"""fp16 and bf16 bundles: what they lose, where float16 would overflow, and what is refused.

No CPU has kernels that multiply in half: onnxruntime computes fp16 graphs in float32 and rounds
where a kernel gives float16, and has nothing for bfloat16. So both are also judged by
`rewrite.rounded`, which rounds the result of every operator.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import VARIANTS, export_checkpoint, random_checkpoint

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx import export as export_door
from bart_onnx.builder import export_bundle
from bart_onnx.bundle import Bundle
from bart_onnx.errors import BundleError, DeviceError, ExportError
from bart_onnx.graphs import CROSS_ATTENTION, DECODER_SEQUENCE_OUTPUT, HALF_PRECISIONS, LOGITS
from bart_onnx.locate import find_bundle
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.weights import weight_shapes
from exporters import weight_file
from exporters.packing import packed_tensors
from exporters.rewrite import half
from exporters.rewrite.half_weights import halved
from exporters.rounded_bundle import rounded_bundle

WORDS = Path(__file__).resolve().parents[1] / "data" / "words.txt"
SHIPPED = "bart_tiny_en_g2p"

# Largest difference from the master, as a share of its largest value; measured: 0.0012 and 0.0073.
TOLERANCES = {"fp16": 0.005, "bf16": 0.02}
# Tokens fed in each step.
STEPS = (3, 1, 1, 2)
COMPARED = (LOGITS, CROSS_ATTENTION, DECODER_SEQUENCE_OUTPUT)


@contextmanager
def on_the_cpu(bundle):
    yield OrtRunner(bundle, judging=True)


@contextmanager
def by_the_reference(bundle):
    with rounded_bundle(bundle) as rounded:
        yield OrtRunner(rounded)


JUDGES = {
    "fp16 on the CPU": ("fp16", on_the_cpu),
    "fp16 by the reference": ("fp16", by_the_reference),
    "bf16 by the reference": ("bf16", by_the_reference),
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The shipped preset in both half precisions."""
    home = tmp_path_factory.mktemp("shipped")
    found = {}
    for precision in HALF_PRECISIONS:
        place = home / precision
        arguments = ("--preset", SHIPPED, "--precision", precision, "--output", str(place))
        assert export_door.main((*arguments, "--quiet")) == 0
        found[precision] = Bundle.open(place)
    return found


def answers(runner, beams=1):
    """Caches of ragged sources, and what several steps give, of one token and of more."""
    config = runner.config
    random = np.random.default_rng(0)
    longest = min(24, config.max_sequence_length)
    lengths = np.array([longest, longest // 2, longest - 1])
    sources = random.integers(config.vocabulary_size, size=(3, longest))
    state = runner.encode(sources, lengths)
    found = {name: np.array(array, np.float32) for name, array in state.cross.items()}
    state.expand(beams)
    for step, count in enumerate(STEPS):
        token_ids = random.integers(config.vocabulary_size, size=(3 * beams, count))
        outputs = runner.step(state, token_ids, COMPARED)
        found |= {f"{name} of step {step}": outputs[name].copy() for name in COMPARED}
    return found


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_answers_are_those_of_the_master(variant, judge, variant_bundles):
    precision, opened = JUDGES[judge]
    with opened(variant_bundles(variant, precision)) as runner:
        for beams in (1, 2):
            expected = answers(OrtRunner(variant_bundles(variant)), beams)
            found = answers(runner, beams)
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                error = np.abs(found[name] - array).max() / np.abs(array).max()
                assert error <= TOLERANCES[precision], name
                assert found[name].dtype == np.float32


def test_a_half_bundle_runs_on_a_gpu_only(shipped):
    for precision, bundle in shipped.items():
        with pytest.raises(DeviceError, match=rf"{precision} runs on cuda.*--precision fp32"):
            OnnxBartSeq2SeqLM.from_preset(bundle.path, precision=precision)
        with pytest.raises(BundleError, match=f"holds {precision}, not fp32"):
            OnnxBartSeq2SeqLM.from_preset(bundle.path)
        with pytest.raises(BundleError, match=f"in {precision}.* cannot be had back"):
            bundle.weight("token_embedding")
        assert set(bundle.weight_names()) == set(weight_shapes(bundle.config))


def test_a_shipped_preset_is_found_in_the_precision_it_was_exported_in(tmp_path, monkeypatch):
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path))
    assert find_bundle(SHIPPED).precision == "fp32"
    assert find_bundle(SHIPPED, precision="fp16") is None
    export_bundle(SHIPPED, precision="fp16", show_progress=False)
    assert find_bundle(SHIPPED, precision="fp16").precision == "fp16"
    assert find_bundle(SHIPPED).precision == "fp32"


def test_manifest_and_card_say_how_it_was_judged(shipped):
    for precision, bundle in shipped.items():
        measured = bundle.manifest["quality"]
        assert f"rounded to {HALF_PRECISIONS[precision]}" in measured["judged_by"]
        assert measured["logit_error"] < 0.02
        card = (bundle.path / "README.md").read_text()
        assert measured["judged_by"] in card
        assert f'precision="{precision}", device="cuda")' in card
        assert sorted(path.name for path in bundle.path.iterdir()) == sorted(
            {Path(name).parts[0] for name in bundle.manifest["files"]}
            | {"manifest.json", "manifest.sha256"}
        )


def test_caches_are_half_on_the_cpu_too(shipped):
    runner = OrtRunner(shipped["fp16"], judging=True)
    state = runner.encode(np.full((2, 5), 4), np.array([5, 3]))
    assert {array.dtype.name for array in (*state.cross.values(), *state.own)} == {"float16"}
    state.reserve(200)
    assert {array.dtype.name for array in state.own} == {"float16"}


@pytest.mark.parametrize(
    ("judge", "at_least"),
    [("fp16 on the CPU", 995), ("fp16 by the reference", 995), ("bf16 by the reference", 985)],
)
def test_a_thousand_words_are_pronounced_as_in_fp32(shipped, judge, at_least):
    lm = OnnxBartSeq2SeqLM.from_preset(SHIPPED, offline=True)
    lm.compile(sampler="greedy")
    words = [line.split("\t")[0] for line in WORDS.read_text(encoding="utf-8").splitlines()]
    expected = lm.generate(words)
    master = lm.runner
    precision, opened = JUDGES[judge]
    with opened(shipped[precision]) as runner:
        lm.backbone._runnable._runner = runner
        found = lm.generate(words)
    others = [row for row in range(len(words)) if found[row] != expected[row]]
    print(f"\n{judge}: {len(words) - len(others)} of {len(words)} words as in fp32")
    for row in others:
        margin = smallest_margin(master, lm.preprocessor, words[row], expected[row])
        print(f"  {words[row]}: {expected[row]} -> {found[row]}, margin {margin:.3f}")
    assert len(words) == 1000
    assert len(words) - len(others) >= at_least


def smallest_margin(runner, preprocessor, word, phonemes):
    """How close the second-best token comes to the best, anywhere in an answer."""
    arrays = preprocessor.generate_preprocess([word])
    lengths = arrays["encoder_padding_mask"].sum(axis=1)
    state = runner.encode(np.asarray(arrays["encoder_token_ids"], np.int64), lengths)
    config = runner.config
    ids = preprocessor.tokenizer.encode_batch([phonemes])[0]
    fed = np.array([[config.decoder_start_token_id, config.start_token_id, *ids]])
    logits = np.sort(runner.step(state, fed, (LOGITS,))[LOGITS][0, 1:], axis=-1)
    return float((logits[:, -1] - logits[:, -2]).min())


def test_values_are_rounded_to_the_nearest():
    values = np.array([1, 1 + 2**-11 + 2**-20, 65519, 1e-8, -3.14159], np.float32)
    rounded = halved("kernel", values, "fp16")
    assert rounded.dtype == np.float16
    np.testing.assert_array_equal(rounded, values.astype(np.float16))
    assert rounded[2] == 65504
    short = halved("kernel", np.array([1 + 2**-8 + 2**-20, 1e5], np.float32), "bf16")
    assert short.dtype.name == "bfloat16"
    assert short.astype(np.float32).tolist() == [1 + 2**-7, 99840]


@pytest.mark.parametrize(
    ("value", "says"),
    [(65520, ".*fp32"), (-1e6, ".*fp32"), (np.nan, " are not finite"), (np.inf, " are not finite")],
)
def test_a_weight_that_half_cannot_hold_is_named(value, says, tmp_path):
    checkpoint = changed(
        random_checkpoint(VARIANTS["scaled_embedding"]),
        {"decoder.layers.0.cross_attention.query.kernel": lambda values: spoiled(values, value)},
    )
    name = r"'decoder.layers.0.cross_attention.query.kernel'"
    with pytest.raises(ExportError, match=name + says):
        export_checkpoint(checkpoint, tmp_path / "bundle", "fp16")


def test_norms_may_hold_what_half_cannot(tmp_path):
    """They are multiplied with in float32."""
    loud = {"encoder.layers.0.feedforward_output.bias": lambda values: spoiled(values, 7e4)}
    checkpoint = changed(random_checkpoint(VARIANTS["scaled_embedding"]), loud)
    export_checkpoint(checkpoint, tmp_path / "bundle", "fp16")


def spoiled(values, value):
    values[0] = value
    return values


def changed(checkpoint, changes):
    """A checkpoint with some weights changed by a function of their values."""
    weights = dict(checkpoint.weights)
    for name, change in changes.items():
        weights[name] = lambda read=weights[name], change=change: change(read())
    return replace(checkpoint, weights=weights)


def loud_checkpoint():
    """Weights and products that float16 can hold, and sums of up to 100,000."""
    checkpoint = random_checkpoint(VARIANTS["untied"])
    factors = {
        "token_embedding": 7e4,
        "position_embedding": 7e4,
        "output.bias": 9e4,
        "output.kernel": 8e3,
    }
    louder = {
        name: lambda values, factor=factor: np.float32(factor) * values
        for ending, factor in factors.items()
        for name in checkpoint.weights
        if name.endswith(ending)
    }
    return changed(checkpoint, louder)


def test_sums_that_float16_cannot_hold_are_right(tmp_path):
    checkpoint = loud_checkpoint()
    expected = answers(OrtRunner(export_checkpoint(checkpoint, tmp_path / "fp32")))
    for judge, (precision, opened) in JUDGES.items():
        bundle = export_checkpoint(checkpoint, tmp_path / judge, precision)
        with opened(bundle) as runner:
            found = answers(runner)
        for name, array in expected.items():
            error = np.abs(found[name] - array).max() / np.abs(array).max()
            assert error <= 0.02, name


def test_sums_in_float16_would_give_no_numbers(tmp_path, monkeypatch):
    """The same graphs with everything in float16, sums and norms included, are refused."""
    every_weight = {tensor.name for tensor in packed_tensors(VARIANTS["untied"])}
    monkeypatch.setattr(half._Types, "_own_type", lambda types, node, floats: types.half)
    for module in (half, weight_file):
        monkeypatch.setattr(module, "is_half", every_weight.__contains__)
    with pytest.raises(ExportError, match="Logits of the fp16 graphs are not finite"):
        export_checkpoint(loud_checkpoint(), tmp_path / "naive", "fp16")
    # Of a checkpoint whose sums are small, they would do.
    quiet = random_checkpoint(VARIANTS["untied"])
    export_checkpoint(quiet, tmp_path / "quiet", "fp16")


def test_a_product_that_float16_cannot_hold_is_refused(tmp_path):
    """It has the largest sums of all; bfloat16 has room for it."""
    name = "decoder.layers.0.feedforward_output.kernel"
    loud = changed(loud_checkpoint(), {name: lambda values: 8 * values})
    with pytest.raises(ExportError, match="Logits of the fp16 graphs are not finite"):
        export_checkpoint(loud, tmp_path / "fp16", "fp16")
    export_checkpoint(loud, tmp_path / "bf16", "bf16")
