"""BartSeq2SeqLMPreprocessor against KerasHub's goldens, and misuse."""

from __future__ import annotations

import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bart_onnx.errors import (
    CheckpointError,
    InputError,
    InputKeyError,
    InputTooLongError,
    InputTruncatedWarning,
    InputTypeError,
)
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.preprocessor_files import read_sequence_lengths
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.tokenizer_options import LONGEST

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "keras_golden"
CASES: dict[str, Any] = json.loads((GOLDEN / "preprocessor.json").read_text(encoding="utf-8"))
IDS = {
    "encoder_token_ids": np.int32,
    "decoder_token_ids": np.int32,
    "encoder_padding_mask": np.bool_,
    "decoder_padding_mask": np.bool_,
}
ERRORS = {"TypeError": TypeError, "KeyError": KeyError}


@pytest.fixture(scope="module")
def tokenizer() -> BartTokenizer:
    return BartTokenizer.from_files(GOLDEN / "keras_preset")


@pytest.fixture
def preprocessor(tokenizer: BartTokenizer) -> BartSeq2SeqLMPreprocessor:
    return BartSeq2SeqLMPreprocessor(
        tokenizer,
        encoder_sequence_length=CASES["encoder_sequence_length"],
        decoder_sequence_length=CASES["decoder_sequence_length"],
    )


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: f"{case['method']}")
def test_golden(case: dict[str, Any], preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    before = json.dumps(case["input"])
    method = getattr(preprocessor, case["method"])
    wanted = case["result"]
    if not wanted["ok"]:
        with pytest.raises(ERRORS[wanted["type"]]) as caught:
            method(case["input"], **case["kwargs"])
        assert isinstance(caught.value, InputError)
        return
    # KerasHub cuts without a word; here the two cases that cut say so.
    cuts = case["kwargs"].get("encoder_sequence_length") == 4
    with pytest.warns(InputTruncatedWarning) if cuts else nullcontext():
        found = method(case["input"], **case["kwargs"])
    assert plain(found) == wanted["value"]
    assert json.dumps(case["input"]) == before


def test_dtypes(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    pair = {"encoder_text": ["a"], "decoder_text": ["b"]}
    x, y, sample_weight = preprocessor(pair, y=3, sample_weight=4)
    assert {name: array.dtype for name, array in x.items()} == IDS
    assert (y.dtype, sample_weight.dtype) == (np.int32, np.bool_)
    generated = preprocessor.generate_preprocess("a")
    assert {name: array.dtype for name, array in generated.items()} == IDS


def test_results_share_no_memory(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    x, y, sample_weight = preprocessor({"encoder_text": ["a"], "decoder_text": ["b"]})
    assert not np.shares_memory(x["decoder_token_ids"], y)
    assert not np.shares_memory(x["decoder_padding_mask"], sample_weight)


@pytest.mark.parametrize(
    "texts",
    [("the", "a"), [b"the", b"a"], np.array(["the", "a"]), np.array([b"the", b"a"])],
    ids=lambda value: f"{type(value).__name__} of {type(value[0]).__name__}",
)
def test_kinds_of_batches(texts: Any, preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    wanted = plain(preprocessor.generate_preprocess(["the", "a"]))
    assert plain(preprocessor.generate_preprocess(texts)) == wanted
    pair = {"encoder_text": texts, "decoder_text": ("", "")}
    assert plain(preprocessor.generate_preprocess(pair)) == wanted
    assert plain(preprocessor(pair)[0]["encoder_token_ids"]) == wanted["encoder_token_ids"]


@pytest.mark.parametrize("text", [b"the", np.str_("the"), np.array("the")], ids=repr)
def test_kinds_of_single_texts(text: Any, preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    wanted = plain(preprocessor.generate_preprocess("the"))
    assert plain(preprocessor.generate_preprocess(text)) == wanted
    assert np.ndim(wanted["encoder_token_ids"]) == 1


def test_a_text_beside_a_batch_of_one_is_a_batch(
    preprocessor: BartSeq2SeqLMPreprocessor,
) -> None:
    pair = {"encoder_text": "the", "decoder_text": ["a"]}
    arrays = preprocessor.generate_preprocess(pair)
    assert {array.ndim for array in arrays.values()} == {2}
    assert pair == {"encoder_text": "the", "decoder_text": ["a"]}


def test_no_texts_give_no_rows(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    shapes = {"encoder_token_ids": (0, 8), "decoder_token_ids": (0, 10)}
    for arrays in (
        preprocessor.generate_preprocess([]),
        preprocessor.generate_preprocess({"encoder_text": [], "decoder_text": []}),
        preprocessor({"encoder_text": [], "decoder_text": []})[0],
    ):
        assert {name: arrays[name].shape for name in shapes} == shapes
        assert {name: array.dtype for name, array in arrays.items()} == IDS
    empty = {"decoder_token_ids": np.zeros((0, 4), int), "decoder_padding_mask": np.zeros((0, 4))}
    with pytest.raises(InputTypeError, match="float64"):
        preprocessor.generate_postprocess({**empty, "decoder_padding_mask": np.ones((1, 4))})
    assert preprocessor.generate_postprocess(empty) == []


def test_special_ids_are_the_tokenizers() -> None:
    tokenizer = BartTokenizer({"<pad>": 0, "<s>": 1, "</s>": 2, "a": 5}, [])
    preprocessor = BartSeq2SeqLMPreprocessor(tokenizer, 4, 4)
    x, y, _ = preprocessor({"encoder_text": "a", "decoder_text": "a"})
    assert plain(x["encoder_token_ids"]) == [1, 5, 2, 0]
    assert plain(x["decoder_token_ids"]) == [2, 1, 5, 2]
    assert plain(y) == [1, 5, 2, 0]
    ids = {"decoder_token_ids": [2, 1, 5, 2, 0], "decoder_padding_mask": [1, 1, 1, 1, 1]}
    assert preprocessor.generate_postprocess(ids) == "a"


def test_tokenizer_options_do_not_change_the_packing(preprocessor: Any) -> None:
    wanted = plain(preprocessor.generate_preprocess("the fox"))
    preprocessor.tokenizer = BartTokenizer.from_files(
        GOLDEN / "keras_preset", sequence_length=2, dtype="string"
    )
    assert plain(preprocessor.generate_preprocess("the fox")) == wanted


def test_hugging_face_specials_leave_generated_text() -> None:
    ids = {"decoder_token_ids": [[2, 0, 101, 304, 3, 1]], "decoder_padding_mask": [[True] * 6]}
    tokenizer = BartTokenizer.from_files(GOLDEN / "hf_checkpoint")
    assert BartSeq2SeqLMPreprocessor(tokenizer).generate_postprocess(ids) == ["a"]


# -- lengths


@pytest.mark.parametrize("length", [1, 2])
def test_small_generation_lengths_leave_no_room(
    length: int, preprocessor: BartSeq2SeqLMPreprocessor
) -> None:
    x = {"encoder_text": ["a"], "decoder_text": ["the fox"]}
    arrays = preprocessor.generate_preprocess(x, sequence_length=length)
    assert plain(arrays["decoder_token_ids"]) == [[2, 0]]
    assert plain(arrays["decoder_padding_mask"]) == [[True, True]]
    assert preprocessor.generate_postprocess(arrays) == [""]


@pytest.mark.parametrize(
    "lengths",
    [
        {"encoder_sequence_length": 1},
        {"decoder_sequence_length": 1},
        {"sequence_length": 1},
        {"sequence_length": -3},
        {"sequence_length": 2.5},
        {"encoder_sequence_length": "8"},
    ],
    ids=str,
)
def test_lengths_too_small_for_the_specials_are_refused(
    lengths: dict[str, Any], preprocessor: BartSeq2SeqLMPreprocessor
) -> None:
    with pytest.raises(InputError, match="sequence_length must be"):
        preprocessor({"encoder_text": "a", "decoder_text": "b"}, **lengths)


def test_smallest_training_lengths(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    x, y, _ = preprocessor(
        {"encoder_text": "", "decoder_text": "the fox"},
        encoder_sequence_length=2,
        decoder_sequence_length=2,
    )
    assert plain(x["encoder_token_ids"]) == [0, 2]
    assert (plain(x["decoder_token_ids"]), plain(y)) == ([2, 0], [0, 2])


def test_lengths_are_settable_and_checked(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    preprocessor.sequence_length = 6
    assert preprocessor.decoder_sequence_length == preprocessor.sequence_length == 6
    preprocessor.encoder_sequence_length = 5
    arrays = preprocessor.generate_preprocess("a")
    assert (len(arrays["encoder_token_ids"]), len(arrays["decoder_token_ids"])) == (5, 6)
    with pytest.raises(InputError, match="at least 2, found 1"):
        preprocessor.encoder_sequence_length = 1
    with pytest.raises(InputError, match="at least 1, found 0"):
        preprocessor.sequence_length = 0
    assert BartSeq2SeqLMPreprocessor(preprocessor.tokenizer).sequence_length == 1024


# -- long input


def test_long_text_is_cut_with_a_warning(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    with pytest.warns(InputTruncatedWarning) as caught:
        arrays = preprocessor.generate_preprocess(["a", "abcabcabc", "abcabcabcabc"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert "encoder_sequence_length 8: row 1 lost 3 tokens, row 2 lost 6 tokens." in message
    assert plain(arrays["encoder_token_ids"])[1] == [0, 101, 102, 103, 101, 102, 103, 2]
    with pytest.warns(InputTruncatedWarning, match="row 4 lost 1 tokens, and 2 more rows some"):
        preprocessor.generate_preprocess(["abcabca"] * 7)


def test_text_that_just_fits_is_silent(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocessor.generate_preprocess("abcabc", long_input="error")
        preprocessor.generate_preprocess({"encoder_text": "a", "decoder_text": "abcabcabcabc"})


@pytest.mark.parametrize("by_call", [True, False])
def test_long_text_is_refused_on_request(by_call: bool, tokenizer: BartTokenizer) -> None:
    own: Any = {} if by_call else {"long_input": "error"}
    each: Any = {"long_input": "error"} if by_call else {}
    preprocessor = BartSeq2SeqLMPreprocessor(tokenizer, 8, 8, **own)
    pair = {"encoder_text": ["a", "abcabcabc"], "decoder_text": ["", ""]}
    for method in (preprocessor, preprocessor.generate_preprocess):
        with pytest.raises(InputTooLongError) as caught:
            method(pair, **each)
        for part in ("row 1 has 11 tokens", "length is 8", "Shorten", 'long_input="truncate"'):
            assert part in str(caught.value)


def test_unknown_long_input_lists_the_known(preprocessor: Any) -> None:
    with pytest.raises(InputError, match="'split' is unknown; known are 'truncate', 'error'"):
        preprocessor.generate_preprocess("a", long_input="split")
    with pytest.raises(InputError, match="unknown"):
        preprocessor.long_input = ["error"]


# -- misuse


def test_missing_key_reads_as_a_sentence(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    for method in (preprocessor, preprocessor.generate_preprocess):
        with pytest.raises(InputKeyError) as caught:
            method({"encoder_text": "a"})
        assert str(caught.value) == "decoder_text is missing; found encoder_text. Add it."
    with pytest.raises(KeyError, match="decoder_padding_mask is missing"):
        preprocessor.generate_postprocess({"decoder_token_ids": [1]})


def test_unequal_batches_are_refused(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    for decoder in (["a"], "a", []):
        with pytest.raises(InputError, match="encoder_text has 2 texts, but decoder_text has"):
            preprocessor.generate_preprocess({"encoder_text": ["a", "b"], "decoder_text": decoder})


@pytest.mark.parametrize("x", [3, None, [1], {"encoder_text": 3, "decoder_text": "a"}], ids=str)
def test_no_text_is_refused(x: Any, preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    with pytest.raises(InputTypeError, match="must be a"):
        preprocessor.generate_preprocess(x)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[1, 2], [3]], [[1, 1], [1, 1]], "rows of different lengths"),
        ([1.5], [1], "float64"),
        (3, 1, "rank 1 or 2"),
        ([[1, 2]], [1, 1], "must be equal"),
        ([-1], [1], "negative id"),
    ],
)
def test_bad_results_are_refused(
    ids: Any, mask: Any, message: str, preprocessor: BartSeq2SeqLMPreprocessor
) -> None:
    with pytest.raises(InputError, match=message):
        preprocessor.generate_postprocess({"decoder_token_ids": ids, "decoder_padding_mask": mask})


def test_tokenizer_must_be_one() -> None:
    with pytest.raises(InputTypeError, match="must be a BartTokenizer"):
        BartSeq2SeqLMPreprocessor("bart_base_en")  # type: ignore[arg-type]
    without = BartSeq2SeqLMPreprocessor(BartTokenizer())
    with pytest.raises(InputError, match="No vocabulary"):
        without.generate_preprocess("a")


# -- config


def test_config_keeps_the_lengths(preprocessor: BartSeq2SeqLMPreprocessor) -> None:
    config = preprocessor.get_config()
    again = BartSeq2SeqLMPreprocessor.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    assert (again.encoder_sequence_length, again.decoder_sequence_length) == (8, 10)
    preprocessor.long_input = "error"
    strict = BartSeq2SeqLMPreprocessor.from_config(preprocessor.get_config())
    assert strict.long_input == "error"


def test_config_is_keras_hubs_and_the_lengths(tokenizer: BartTokenizer) -> None:
    saved = json.loads((GOLDEN / "keras_preset" / "preprocessor.json").read_text("utf-8"))
    lengths = {"encoder_sequence_length": 1024, "decoder_sequence_length": 1024}
    preprocessor = BartSeq2SeqLMPreprocessor(tokenizer)
    assert preprocessor.get_config() == {**saved["config"], **lengths}
    loaded = BartSeq2SeqLMPreprocessor.from_config(saved["config"])
    assert loaded.get_config() == preprocessor.get_config()


def test_unknown_keyword_is_refused_by_name(tokenizer: BartTokenizer) -> None:
    with pytest.raises(TypeError, match="lenght"):
        BartSeq2SeqLMPreprocessor(tokenizer, lenght=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("length", [0, 65_537, 1 << 40, 10**60, 2.0, True, "8"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_lengths_of_a_file_fill_no_memory(side: str, length: object, tmp_path: Path) -> None:
    config = {f"{side}_sequence_length": length}
    (tmp_path / "preprocessor.json").write_text(json.dumps({"config": config}))
    with pytest.raises(CheckpointError, match=f"{side}_sequence_length is .* up to 65536") as found:
        read_sequence_lengths(tmp_path)
    assert len(str(found.value)) < 1000


def test_the_longest_is_packed(tokenizer: BartTokenizer, tmp_path: Path) -> None:
    config = {"encoder_sequence_length": 65_536}
    (tmp_path / "preprocessor.json").write_text(json.dumps({"config": config}))
    preprocessor = BartSeq2SeqLMPreprocessor(tokenizer, **read_sequence_lengths(tmp_path))
    assert preprocessor.generate_preprocess("a")["encoder_token_ids"].shape == (65_536,)
    with pytest.raises(InputError, match="must be at most 65536"):
        preprocessor.decoder_sequence_length = 65_537


def test_a_model_that_reads_more_than_rows_may_hold_has_the_longest_rows():
    preprocessor = BartSeq2SeqLMPreprocessor.from_files(GOLDEN / "hf_checkpoint", LONGEST + 1)
    assert preprocessor.encoder_sequence_length == LONGEST
    with pytest.raises(InputError, match="at most"):
        preprocessor.generate_preprocess("a", encoder_sequence_length=LONGEST + 1)
