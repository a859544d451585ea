"""from_preset, what generate() keeps and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from golden_lm import ENCODER_LENGTH, golden_lm

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.errors import (
    InputError,
    InputTooLongError,
    InputTruncatedWarning,
    InputTypeError,
    MissingFileError,
    PresetError,
)


@pytest.fixture(scope="module")
def lm(tiny_bundle, golden):
    return golden_lm(tiny_bundle, golden)


@pytest.fixture(scope="module")
def arrays_lm(tiny_bundle, golden):
    return golden_lm(tiny_bundle, golden, preprocessor=False)


def test_mask_token_follows_the_source(tiny_bundle, lm):
    from_bundle = OnnxBartSeq2SeqLM.from_preset(tiny_bundle).preprocessor.tokenizer
    assert len(from_bundle.tokenize("<mask>")) == 1
    assert len(lm.preprocessor.tokenizer.tokenize("<mask>")) > 1


def test_ids_keep_their_dtype(arrays_lm, lm):
    for dtype in (np.int32, np.int64):
        arrays = lm.preprocessor.generate_preprocess(["the fox"])
        arrays["decoder_token_ids"] = arrays["decoder_token_ids"].astype(dtype)
        found = arrays_lm.generate(arrays, stop_token_ids=None)
        assert found["decoder_token_ids"].dtype == dtype
        assert found["decoder_padding_mask"].dtype == bool
        assert found["decoder_padding_mask"].all()


def test_empty_list_and_empty_text(lm):
    assert lm.generate([]) == []
    assert isinstance(lm.generate(""), str)


@pytest.mark.parametrize("max_length", [1, 2])
def test_no_room_generates_nothing(lm, max_length):
    assert lm.generate("the fox", max_length=max_length) == ""


def test_long_input_is_cut_with_a_warning_or_refused(lm):
    text = "the fox " * 40
    with pytest.warns(InputTruncatedWarning, match=r"\d+ tokens"):
        cut = lm.generate(text)
    assert isinstance(cut, str)
    with pytest.raises(InputTooLongError, match=str(ENCODER_LENGTH)):
        lm.generate(text, long_input="error")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda lm: lm.generate(3), InputTypeError, "int"),
        (lambda lm: lm.generate(["the", 3]), InputTypeError, "int"),
        (lambda lm: lm.generate({"encoder_text": "a"}), KeyError, "decoder_text"),
        (lambda lm: lm.generate("a", max_length=49), InputError, "48 positions"),
        (lambda lm: lm.generate("a", stop_token_ids="never"), InputError, "'never'"),
        (lambda lm: lm.generate("a", stop_token_ids=2), InputTypeError, "2"),
        (lambda lm: lm.generate("a", long_input="shrug"), InputError, "shrug"),
        (lambda lm: lm.generate("a", max_length="9"), InputTypeError, "'9'"),
    ],
)
def test_refusals_with_preprocessor(lm, call, error, says):
    with pytest.raises(error, match=says):
        call(lm)


def arrays(**changes):
    inputs = {
        "encoder_token_ids": np.array([[0, 120, 2], [0, 2, 1]]),
        "encoder_padding_mask": np.array([[1, 1, 1], [1, 1, 0]]),
        "decoder_token_ids": np.array([[2, 0, 1, 1], [2, 0, 1, 1]]),
        "decoder_padding_mask": np.array([[1, 1, 0, 0], [1, 1, 0, 0]]),
    }
    return {**inputs, **changes}


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        ("text", InputTypeError, "dict of arrays"),
        ({"encoder_token_ids": [[0]]}, InputError, "encoder_padding_mask"),
        (arrays(decoder_padding_mask=np.ones((2, 3), int)), InputError, r"\(2, 4\).*\(2, 3\)"),
        (arrays(encoder_token_ids=np.zeros(3, int)), InputError, r"\[rows, length\]"),
        (arrays(encoder_token_ids=np.zeros((2, 3))), InputTypeError, "float64"),
        (
            arrays(encoder_token_ids=np.array([[0, 305, 2], [0, 2, 1]])),
            InputError,
            r"encoder_token_ids\[0, 1\] is 305; this model's ids are 0 to 304",
        ),
        (arrays(encoder_padding_mask=np.array([[1, 0, 1], [1, 1, 0]])), InputError, "row 0.*gap"),
        (arrays(decoder_padding_mask=np.zeros((2, 4), int)), InputError, "all zeros"),
        (
            arrays(
                decoder_token_ids=np.zeros((1, 4), int), decoder_padding_mask=np.ones((1, 4), int)
            ),
            InputError,
            "2 rows.*1; give",
        ),
        (
            arrays(
                encoder_token_ids=np.zeros((2, 49), int),
                encoder_padding_mask=np.ones((2, 49), int),
            ),
            InputTooLongError,
            "49 tokens; this model has 48",
        ),
    ],
)
def test_refusals_of_arrays(arrays_lm, inputs, error, says):
    with pytest.raises(error, match=says):
        arrays_lm.generate(inputs, stop_token_ids=(2,))


def test_auto_stop_needs_a_preprocessor(arrays_lm):
    with pytest.raises(InputError, match="A `preprocessor` must be attached"):
        arrays_lm.generate(arrays())


def test_bundle_without_tokenizer_needs_preprocessor_none(variant_bundles):
    path = variant_bundles("plain").path
    with pytest.raises(MissingFileError, match="preprocessor=None"):
        OnnxBartSeq2SeqLM.from_preset(path)
    assert OnnxBartSeq2SeqLM.from_preset(path, preprocessor=None).preprocessor is None


def test_offline_never_exports(golden, tmp_path, monkeypatch):
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path))
    with pytest.raises(PresetError, match=r"python -m bart_onnx\.export --preset"):
        OnnxBartSeq2SeqLM.from_preset(golden / "hf_checkpoint", offline=True)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_exported_once(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BART_ONNX_HOME", str(tmp_path))
    first = OnnxBartSeq2SeqLM.from_preset(golden / "hf_checkpoint")
    assert "of memory" in capsys.readouterr().err
    again = OnnxBartSeq2SeqLM.from_preset(golden / "hf_checkpoint", offline=True)
    assert first.runner.bundle.path == again.runner.bundle.path
    assert tmp_path in first.runner.bundle.path.parents


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "onnx", "onnxscript", "keras", "h5py"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from bart_onnx import OnnxBartSeq2SeqLM
lm = OnnxBartSeq2SeqLM.from_preset(sys.argv[1])
lm.compile(sampler="greedy")
print(lm.generate("the fox"))
"""


def test_generates_where_no_builder_library_can_be_imported(tiny_bundle):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, tiny_bundle], capture_output=True, text=True, check=True
    )
    assert done.stdout == "fox the\n"
    assert done.stderr == ""
