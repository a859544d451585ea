"""BartTokenizer against KerasHub's goldens, the real vocabulary, and misuse."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bart_onnx.bpe import AddedToken
from bart_onnx.errors import InputError, InputTypeError, MissingFileError
from bart_onnx.tokenizer import BartTokenizer

# KerasHub merges across the cuts of GPT-2's regular expression; these ids are Hugging Face's.
CUT_OTHERWISE = {"a\n\nb", "isn't it's 'so' 'tis", "'s 't"}
# Hugging Face calls these tokens special, KerasHub does not; each layout keeps to its maker.
SPECIAL_IN_HUGGING_FACE_ONLY = {"<unk>", "a <mask> b"}
# KerasHub refuses these by mistake; the value is the answer here.
REFUSED_BY_KERAS_HUB = {"call(bytes)": [101], "call(np str array)": [[101]]}

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "keras_golden"
CASES: dict[str, Any] = json.loads((GOLDEN / "tokenizer.json").read_text(encoding="utf-8"))
ASSETS = GOLDEN / "keras_preset" / "assets" / "tokenizer"

REFERENCE_ROWS = {
    "": "",
    "Hello world": "31414 232",
    "Hello world!": "31414 232 328",
    "The quick brown fox": "133 2119 6219 23602",
    " leading space": "981 980",
    "My friends are cool but they eat too many carbs.": "2387 964 32 3035 53 51 3529 350 171 "
    "33237 4",
    "naïve café — “quotes” 日本語 🙂": "2133 48350 26059 93 44 48 2253 17467 17 46 47416 6800 8210 "
    "44636 11582 48537 17772 45868",
}
MASKED = "UN Chief Says There Is No <mask> in Syria"


@pytest.fixture(scope="module")
def keras() -> BartTokenizer:
    return BartTokenizer.from_files(GOLDEN / "keras_preset")


@pytest.fixture(scope="module")
def hugging_face() -> BartTokenizer:
    return BartTokenizer.from_files(GOLDEN / "hf_checkpoint")


@pytest.fixture(scope="module")
def real(shared_data: Path) -> BartTokenizer:
    return BartTokenizer.from_files(shared_data / "bart_vocab")


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def with_options(**options: Any) -> BartTokenizer:
    return BartTokenizer(ASSETS / "vocabulary.json", str(ASSETS / "merges.txt"), **options)


# -- goldens


def test_listed_differences_are_all_there_are() -> None:
    differing = {case["text"] for case in CASES["cases"] if not case["keras_equals_hf"]}
    assert differing == CUT_OTHERWISE | SPECIAL_IN_HUGGING_FACE_ONLY


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: ascii(case["text"]))
def test_golden_ids_and_text(
    case: dict[str, Any], keras: BartTokenizer, hugging_face: BartTokenizer
) -> None:
    text = case["text"]
    wanted = case["hf_ids"] if text in CUT_OTHERWISE else case["keras_ids"]
    found = keras(text)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int32
    assert found.tolist() == wanted
    assert plain(hugging_face(text)) == case["hf_ids"]
    assert keras.detokenize(found) == case["keras_detokenized"]
    if text not in CUT_OTHERWISE:
        assert with_options(dtype="string")(text) == case["keras_tokens"]


def test_golden_specials_and_size(keras: BartTokenizer) -> None:
    for name, value in CASES["special"].items():
        assert getattr(keras, name) == value
    assert keras.vocabulary_size() == CASES["vocabulary_size"]
    assert keras.special_tokens == ["<s>", "</s>", "<pad>"]
    assert keras.special_token_ids == [0, 2, 1]


def test_golden_batch(keras: BartTokenizer) -> None:
    found = keras(CASES["batch"]["input"])
    assert found == CASES["batch"]["ids"]
    assert all(type(token_id) is int for row in found for token_id in row)


@pytest.mark.parametrize("case", CASES["detokenize"], ids=lambda case: str(case["ids"]))
def test_golden_detokenize(case: dict[str, Any], keras: BartTokenizer) -> None:
    assert keras.detokenize(case["ids"]) == case["result"]["value"]


@pytest.mark.parametrize("case", CASES["options"], ids=str)
def test_golden_options(case: dict[str, Any]) -> None:
    wanted = case["result"]["value"]
    if case["kwargs"].get("dtype") == "string" and isinstance(case["input"], list):
        # KerasHub pads rows of tokens with the number 1.
        wanted = [["<pad>" if token == 1 else token for token in row] for row in wanted]
    found = with_options(**case["kwargs"])(case["input"])
    assert plain(found) == wanted


ERROR_CALLS = {
    "dtype=float32": lambda: with_options(dtype="float32"),
    "no <s>": lambda: BartTokenizer({"</s>": 0, "<pad>": 1}, []),
    "merge not in vocabulary": lambda: BartTokenizer(
        {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}, ["x yy"]
    ),
    "vocabulary is a list": lambda: BartTokenizer(["a"], ["a b"]),  # type: ignore[arg-type]
    "merges is an int": lambda: BartTokenizer({"a": 0}, 3),  # type: ignore[arg-type]
    "no vocabulary": lambda: BartTokenizer()("a"),
    "call(3)": lambda: with_options()(3),
    "call(bytes)": lambda: with_options()(b"a"),
    "call(np str array)": lambda: with_options()(np.array(["a"])),
    "id_to_token(len)": lambda: with_options().id_to_token(305),
    "id_to_token(-1)": lambda: with_options().id_to_token(-1),
    "token_to_id('zzz')": lambda: with_options().token_to_id("zzz"),
}


@pytest.mark.parametrize("name", CASES["errors"])
def test_golden_errors(name: str) -> None:
    if name in REFUSED_BY_KERAS_HUB:
        assert plain(ERROR_CALLS[name]()) == REFUSED_BY_KERAS_HUB[name]
        return
    golden = CASES["errors"][name]
    with pytest.raises(InputError) as caught:
        ERROR_CALLS[name]()
    assert golden["type"] == "ValueError"
    assert isinstance(caught.value, ValueError)


def test_error_messages_begin_as_keras_hubs() -> None:
    for name in ("id_to_token(len)", "token_to_id('zzz')", "dtype=float32"):
        with pytest.raises(InputError) as caught:
            ERROR_CALLS[name]()
        assert str(caught.value) == CASES["errors"][name]["message"]


# -- the real vocabulary


def test_reference_rows(real: BartTokenizer) -> None:
    texts = list(REFERENCE_ROWS)
    rows = [[int(token_id) for token_id in ids.split()] for ids in REFERENCE_ROWS.values()]
    assert real(texts) == rows
    assert real.detokenize(rows) == texts


def test_mask_takes_the_blank_before_it_as_tokenizer_json_says(real: BartTokenizer) -> None:
    assert plain(real(MASKED)) == [4154, 1231, 15674, 345, 1534, 440, 50264, 11, 1854]
    assert real.special_token_ids == [0, 2, 1, 3, 50264]


def test_mask_leaves_the_blank_without_tokenizer_json(shared_data: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((shared_data / "bart_vocab" / name).read_bytes())
    tokenizer = BartTokenizer.from_files(tmp_path)
    assert plain(tokenizer(MASKED))[5:9] == [440, 1437, 50264, 11]


def test_all_articles(real: BartTokenizer, shared_data: Path) -> None:
    path = shared_data / "text" / "scitldr_a_test.jsonl"
    articles = [json.loads(line)["article"] for line in path.read_text("utf-8").splitlines()]
    rows = [[0, *row, 2] for row in real.encode_batch(articles)]
    assert (len(rows), sum(map(len, rows))) == (618, 132_924)
    digest = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
    assert digest == "9f9d4e926108150d13b88292c507c0188c6b8a027801a8d092aacc9fcaada188"
    assert real.decode_batch([row[1:-1] for row in rows]) == articles


# -- types


@pytest.mark.parametrize(
    "inputs",
    ["the fox", b"the fox", np.str_("the fox"), np.array("the fox"), np.array(b"the fox")],
    ids=lambda value: type(value).__name__,
)
def test_one_text_gives_rank_1(inputs: Any, keras: BartTokenizer) -> None:
    found = keras.tokenize(inputs)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [120, 261, 277, 293]


@pytest.mark.parametrize(
    "inputs",
    [
        ["the", "a"],
        ("the", "a"),
        [b"the", "a"],
        np.array(["the", "a"]),
        np.array([b"the", b"a"]),
        np.array(["the", b"a"], dtype=object),
    ],
    ids=repr,
)
def test_batches_give_lists(inputs: Any, keras: BartTokenizer) -> None:
    assert keras(inputs) == [[120, 261], [101]]


def test_empty_batches(keras: BartTokenizer) -> None:
    assert keras([]) == []
    assert keras([""]) == [[]]
    assert keras(np.array([], dtype=str)) == []
    assert plain(keras("")) == []
    padded = with_options(sequence_length=4)
    assert padded([]).shape == (0, 4)
    assert padded([""]).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("dtype", ["int64", np.int64, np.dtype("uint16"), "int32"])
def test_integer_dtypes(dtype: Any) -> None:
    assert with_options(dtype=dtype)("a").dtype == np.dtype(dtype)
    assert with_options(dtype=dtype, sequence_length=2)(["a"]).dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    "inputs",
    [3, None, 1.5, [1], [["a"]], {"a": "b"}, np.array([["a"]]), np.array([1]), ["a", None]],
)
def test_no_text_is_refused(inputs: Any, keras: BartTokenizer) -> None:
    with pytest.raises(InputTypeError, match="must"):
        keras(inputs)


def test_bytes_and_surrogates_that_are_no_utf8_are_refused(keras: BartTokenizer) -> None:
    with pytest.raises(InputError, match=r"inputs\[1\] is bytes that are not UTF-8"):
        keras(["a", b"\xff"])
    with pytest.raises(InputError, match="Text 1 holds a surrogate"):
        keras(["a", "b\ud800"])


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        (101, "a"),
        (np.int64(101), "a"),
        (np.array(101), "a"),
        ([101, 102], "ab"),
        ((101, 102), "ab"),
        ([np.int64(101), np.int64(102)], "ab"),
        (np.array([101, 102], np.uint64), "ab"),
        (np.array([], np.int32), ""),
        ([], ""),
        ([[]], [""]),
        (np.array([[101, 2], [102, 1]]), ["a</s>", "b<pad>"]),
        ([np.array([101]), [102, 103]], ["a", "bc"]),
        (2**40, ""),
    ],
)
def test_detokenize_types(inputs: Any, wanted: Any, keras: BartTokenizer) -> None:
    assert keras.detokenize(inputs) == wanted


@pytest.mark.parametrize(
    "inputs", ["a", 1.5, True, [1.5], [[1], 2], [1, [2]], [["a"]], np.ones((1, 1, 1), int), [[[1]]]]
)
def test_no_ids_are_refused(inputs: Any, keras: BartTokenizer) -> None:
    with pytest.raises(InputTypeError, match="must"):
        keras.detokenize(inputs)


def test_negative_ids_are_refused(keras: BartTokenizer) -> None:
    with pytest.raises(InputError, match="Row 1 holds the negative id -100"):
        keras.detokenize([[1], [2, -100]])


NO_SPECIALS = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: not any(token in text for token in ("<s>", "</s>", "<pad>", "<unk>", "<mask>"))
)


@given(texts=st.lists(NO_SPECIALS, max_size=4))
def test_detokenize_undoes_tokenize(
    texts: list[str], keras: BartTokenizer, hugging_face: BartTokenizer
) -> None:
    for tokenizer in (keras, hugging_face):
        assert tokenizer.detokenize(tokenizer(texts) or [[]]) == (texts or [""])


@given(text=NO_SPECIALS)
def test_a_text_alone_and_in_a_batch_has_the_same_ids(text: str, keras: BartTokenizer) -> None:
    assert plain(keras(text)) == keras(["the", text])[1]


# -- options and state


def test_ids_come_from_the_vocabulary() -> None:
    tokenizer = BartTokenizer({"<pad>": 0, "<s>": 1, "</s>": 2, "a": 7}, [], sequence_length=3)
    assert (tokenizer.pad_token_id, tokenizer.start_token_id, tokenizer.end_token_id) == (0, 1, 2)
    assert tokenizer(["<s>a", ""]).tolist() == [[1, 7, 0], [0, 0, 0]]
    assert tokenizer.vocabulary_size() == 4
    assert tokenizer.id_to_token(7) == "a"
    assert tokenizer.token_to_id("a") == 7
    assert list(tokenizer.get_vocabulary()) == ["<pad>", "<s>", "</s>", "a"]
    with pytest.raises(InputError, match="Id 3 is out of vocabulary range"):
        tokenizer.id_to_token(3)


def test_unsplittable_tokens_replace_the_default() -> None:
    tokenizer = with_options(unsplittable_tokens=["<mask>"])
    assert tokenizer.unsplittable_tokens == ["<mask>"]
    assert tokenizer.special_tokens == ["<s>", "</s>", "<pad>"]
    assert plain(tokenizer("<s>"))[0] != 0


def test_unsplittable_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match=r"'<sep>'.*not among the 305 tokens"):
        with_options(unsplittable_tokens=["<sep>"])


def test_added_tokens_follow_their_rules() -> None:
    mask = AddedToken("<mask>", lstrip=True, rstrip=True)
    tokenizer = with_options(added_tokens=[mask, {"content": "so", "special": False}])
    so = tokenizer.token_to_id("so")
    assert plain(tokenizer("a <mask> b so")) == [101, 304, 102, 36, so]
    assert tokenizer.special_tokens == ["<s>", "</s>", "<pad>", "<mask>"]
    assert plain(tokenizer("<s>"))[0] != 0


def test_bytes_outside_the_vocabulary_vanish_or_become_the_unknown_token() -> None:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4}
    assert plain(BartTokenizer(vocabulary, [])("aba")) == [4, 4]
    assert plain(BartTokenizer(vocabulary, [], unknown_token="<unk>")("aba")) == [4, 3, 4]


def test_sequence_length_can_be_set() -> None:
    tokenizer = with_options()
    tokenizer.sequence_length = 2
    assert tokenizer("abc").tolist() == [101, 102]
    tokenizer.sequence_length = None
    assert tokenizer(["abc"]) == [[101, 102, 103]]


@pytest.mark.parametrize(
    "options",
    [
        {"sequence_length": 0},
        {"sequence_length": 2.0},
        {"sequence_length": (1 << 16) + 1},
        {"sequence_length": 10**60},
        {"sequence_length": True},
        {"add_prefix_space": 1},
        {"unsplittable_tokens": "<s>"},
        {"unsplittable_tokens": [3]},
        {"unsplittable_tokens": [""]},
        {"added_tokens": 3},
        {"added_tokens": [{"text": "a"}]},
        {"added_tokens": [{"content": "a", "lstrip": "no"}]},
        {"unknown_token": 3},
        {"dtype": None},
        {"dtype": "words"},
        {"dtype": "int8"},
        {"dtype": ",int32"},
        {"dtype": "02"},
        {"dtype": "x" * 999},
        {"dtype": {"config": {"name": {"names": ["a"], "formats": [",i4"]}}}},
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        with_options(**options)


def test_unknown_keyword_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="sequence_lenght"):
        with_options(sequence_lenght=3)


SPECIALS = {"<s>": 0, "<pad>": 1, "</s>": 2}


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        ({**SPECIALS, 3: 3}, [], "must map str to int"),
        ({**SPECIALS, "a": "3"}, [], "must map str to int"),
        ({**SPECIALS, "a": True}, [], "must map str to int"),
        ({**SPECIALS, "a": -1}, [], "the id of token 'a' is -1"),
        ({**SPECIALS, "a": 2**31}, [], "ids are 0 to 2147483647"),
        ({**SPECIALS, "a": 2}, [], "share the id 2"),
        (SPECIALS, None, "merges is None"),
        (None, [], "vocabulary is None"),
        ({**SPECIALS, "a": 3}, [""], "two tokens with one blank between"),
        ({**SPECIALS, "a": 3}, ["a"], "two tokens with one blank between"),
        ({**SPECIALS, "a": 3}, ["a a a"], "two tokens with one blank between"),
        ({**SPECIALS, "a": 3}, [("a", "a")], "Merge rule 0 must be a str"),
        ({**SPECIALS, "a": 3}, ["a a"], "makes token 'aa' that is not in"),
    ],
)
def test_bad_vocabularies_are_refused(vocabulary: Any, merges: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"(?i){message}"):
        BartTokenizer(vocabulary, merges)


def test_without_vocabulary() -> None:
    tokenizer = BartTokenizer()
    assert (tokenizer.vocabulary, tokenizer.merges) == (None, None)
    assert (tokenizer.start_token_id, tokenizer.pad_token_id) == (None, None)
    for use in (
        lambda: tokenizer("a"),
        lambda: tokenizer.detokenize(1),
        tokenizer.vocabulary_size,
        tokenizer.get_vocabulary,
        lambda: tokenizer.id_to_token(0),
        lambda: tokenizer.token_to_id("a"),
    ):
        with pytest.raises(InputError, match="No vocabulary has been set"):
            use()


def test_assets_round_trip(tmp_path: Path, hugging_face: BartTokenizer) -> None:
    hugging_face.save_assets(tmp_path / "new" / "assets")
    files = sorted((tmp_path / "new" / "assets").iterdir())
    assert [path.name for path in files] == sorted(BartTokenizer.file_assets)
    assert files[1].read_bytes() == (ASSETS / "vocabulary.json").read_bytes()
    assert files[0].read_text("utf-8").startswith("#version: 0.2\nĠ t\n")
    tokenizer = BartTokenizer.from_config(json.loads(json.dumps(hugging_face.get_config())))
    tokenizer.load_assets(tmp_path / "new" / "assets")
    assert tokenizer.get_config() == hugging_face.get_config()
    assert (tokenizer.vocabulary, tokenizer.merges) == (
        hugging_face.vocabulary,
        hugging_face.merges,
    )
    assert plain(tokenizer("a <mask> b")) == plain(hugging_face("a <mask> b"))
    tokenizer.set_vocabulary_and_merges(None, None)
    assert tokenizer.vocabulary is None
    with pytest.raises(MissingFileError, match=r"vocabulary\.json"):
        tokenizer.load_assets(tmp_path)


def test_config_is_keras_hubs(keras: BartTokenizer) -> None:
    saved = json.loads((GOLDEN / "keras_preset" / "tokenizer.json").read_text("utf-8"))
    assert keras.get_config() == saved["config"]
    assert BartTokenizer.from_config(saved["config"]).get_config() == saved["config"]


def test_caller_cannot_change_the_vocabulary(keras: BartTokenizer) -> None:
    assert keras.vocabulary is not None
    keras.vocabulary.clear()
    keras.unsplittable_tokens.clear()
    assert plain(keras("<s>a")) == [0, 101]
