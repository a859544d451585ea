"""int8 bundles: what they lose, that rows stay independent, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.bundle import Bundle
from bart_onnx.errors import BundleError, ExportError, InputError, MissingFileError
from bart_onnx.graphs import CROSS_ATTENTION, LOGITS, graph_specs
from bart_onnx.runners.ort import OrtRunner
from exporters import quality
from exporters.export import export
from exporters.rewrite.quantization import column_sums, quantised


@pytest.fixture(scope="module")
def int8(golden, tmp_path_factory):
    target = tmp_path_factory.mktemp("int8") / "tiny"
    export(str(golden / "hf_checkpoint"), target, precision="int8", show_progress=False)
    return Bundle.open(target)


def rows_of(config, count, seed=0, longest=20):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    ids = np.full((count, longest), config.pad_token_id)
    for row, length in enumerate(lengths):
        ids[row, :length] = random.integers(3, config.vocabulary_size, length)
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    return {"encoder_token_ids": ids, "encoder_padding_mask": mask}


def test_weights_come_back_within_half_a_scale():
    values = np.random.default_rng(0).normal(0, 3, (40, 7)).astype(np.float32)
    values[:, 3] = 0
    for axis in (0, 1):
        small, scales = quantised(values, axis)
        spread = np.expand_dims(scales, axis)
        assert small.dtype == np.int8
        assert np.abs(small.astype(int)).max() == 127
        assert (np.abs(small * spread - values) <= spread / 2 * 1.0001).all()
    small, scales = quantised(values, 0)
    np.testing.assert_allclose(
        column_sums(small, scales), (small * scales).sum(axis=0), rtol=1e-4, atol=1e-4
    )
    assert quantised(np.array([[1.0], [-2.54]], np.float32), 0)[0].ravel().tolist() == [50, -127]


def test_the_graphs_keep_the_contract(int8):
    assert int8.precision == "int8"
    runner = OrtRunner(int8)
    state = runner.encode(np.full((2, 5), 4), np.array([5, 3]))
    caches = {name: array.dtype.name for name, array in state.cross.items()}
    expected = {
        spec.name: spec.dtype
        for graph in graph_specs(int8.config, "int8")
        for spec in graph.inputs
        if spec.name in caches
    }
    assert caches == expected
    assert set(caches.values()) == {"int8", "float32"}


def test_weights_take_a_quarter(int8, tiny_bundle):
    def size(bundle):
        return (bundle.path / "weights.bin").stat().st_size

    assert size(int8) < 0.4 * size(Bundle.open(tiny_bundle))


def test_logits_are_close_to_fp32(int8, tiny_bundle):
    config = int8.config
    inputs = rows_of(config, 4)
    lengths = inputs["encoder_padding_mask"].sum(axis=1)
    fed = np.random.default_rng(1).integers(3, config.vocabulary_size, (4, 6))
    found = []
    for bundle in (int8, Bundle.open(tiny_bundle)):
        runner = OrtRunner(bundle)
        state = runner.encode(inputs["encoder_token_ids"], lengths)
        outputs = runner.step(state, fed, (LOGITS, CROSS_ATTENTION))
        found.append({name: np.array(array) for name, array in outputs.items()})
    small, whole = found
    error = np.sqrt(np.mean((small[LOGITS] - whole[LOGITS]) ** 2)) / whole[LOGITS].std()
    assert error < 0.05
    assert np.abs(small[CROSS_ATTENTION] - whole[CROSS_ATTENTION]).max() < 0.1


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}, {"do_sample": True}])
def test_a_row_is_bit_equal_alone_and_in_any_batch(int8, options):
    lm = OnnxBartSeq2SeqLM.from_preset(int8.path, precision="int8", preprocessor=None)
    inputs = rows_of(int8.config, 7)
    seeded = {**options, "seed": 3} if "do_sample" in options else options
    together = lm.generate(inputs, max_length=14, return_dict=True, **seeded)
    for row in range(7) if "do_sample" not in options else range(1):
        alone = {name: array[row : row + 1] for name, array in inputs.items()}
        (found,) = lm.generate(alone, max_length=14, return_dict=True, **seeded)
        assert found.ids.tolist() == together[row].ids.tolist()
        assert np.array_equal(found.log_probs, together[row].log_probs)


def test_beams_of_several_sources_have_copies_that_stay_where_they_are(int8):
    inputs = rows_of(int8.config, 3)
    runner = OrtRunner(int8)
    lengths = inputs["encoder_padding_mask"].sum(axis=1)
    state = runner.encode(inputs["encoder_token_ids"], lengths)
    encoded = {name: array.copy() for name, array in state.cross.items()}
    state.expand(2)
    assert state.source_lengths.tolist() == np.repeat(lengths, 2).tolist()
    copies = dict(state.cross)
    for array in copies.values():
        array.setflags(write=False)
    state.select(np.array([1, 0, 2, 2, 5, 5]))
    assert all(state.cross[name] is array for name, array in copies.items())
    for array in copies.values():
        array.setflags(write=True)
    state.select(np.array([4, 5, 2, 3]))
    assert state.source_lengths.tolist() == [lengths[2], lengths[2], lengths[1], lengths[1]]
    for name, array in encoded.items():
        assert np.array_equal(state.cross[name], array[[2, 2, 1, 1]])


def test_prompts_and_scores_are_bit_equal_in_any_batch(int8):
    lm = OnnxBartSeq2SeqLM.from_preset(int8.path, precision="int8", preprocessor=None)
    inputs = rows_of(int8.config, 5)
    targets = np.random.default_rng(2).integers(3, int8.config.vocabulary_size, (5, 21))
    ones = np.ones_like(targets)
    fed = {"decoder_token_ids": targets, "decoder_padding_mask": ones}
    whole = lm.score(inputs, fed, reduction="none")
    for row in range(5):
        one = {name: array[row : row + 1] for name, array in (inputs | fed).items()}
        assert np.array_equal(lm.score(one, {}, reduction="none")[0], whole[row])


def test_an_int8_bundle_is_no_checkpoint(int8, tmp_path):
    lm = OnnxBartSeq2SeqLM.from_preset(int8.path, precision="int8", preprocessor=None)
    with pytest.raises(BundleError, match="int8"):
        lm.save_to_preset(tmp_path / "preset")
    with pytest.raises(BundleError, match="holds int8, not fp32"):
        OnnxBartSeq2SeqLM.from_preset(int8.path, preprocessor=None)


def test_examples_are_measured(golden, tmp_path):
    file = tmp_path / "examples.jsonl"
    rows = [{"text": "a quick brown fox", "summary": "fox"}, {"article": "dogs", "summary": "dog"}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    target = tmp_path / "bundle"
    checkpoint = str(golden / "hf_checkpoint")
    export(checkpoint, target, precision="int8", examples=file, show_progress=False)
    manifest = Bundle.open(target).manifest
    assert manifest["quality"]["examples"] == 2
    assert manifest["quality"]["score_before"] == pytest.approx(
        manifest["quality"]["score_after"], abs=0.05
    )
    assert "score" in (target / "README.md").read_text()


def test_what_loses_too_much_is_published_only_if_accepted(golden, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "_LARGEST_LOGIT_ERROR", 1e-6)
    checkpoint = str(golden / "hf_checkpoint")
    target = tmp_path / "bundle"
    with pytest.raises(ExportError, match="accept-quality-loss"):
        export(checkpoint, target, precision="int8", show_progress=False)
    assert not target.exists()
    export(checkpoint, target, precision="int8", accept_quality_loss=True, show_progress=False)
    (loss,) = Bundle.open(target).manifest["quality"]["accepted_loss"]
    assert "logits" in loss
    assert "Accepted" in (target / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, MissingFileError, "does not exist"),
        ("", InputError, "no examples"),
        ("{}\n", InputError, "Line 1"),
        ('{"text": "a", "summary": "b"}\nnonsense\n', InputError, "Line 2"),
        ('{"text": "a", "summary": 3}\n', InputError, "Line 1"),
        ("\xff", InputError, "UTF-8"),
    ],
)
def test_examples_that_cannot_be_used(golden, tmp_path, content, error, says):
    file = tmp_path / "examples.jsonl"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(error, match=says):
        export(
            str(golden / "hf_checkpoint"),
            tmp_path / "bundle",
            precision="int8",
            examples=file,
            show_progress=False,
        )
    assert not (tmp_path / "bundle").exists()
