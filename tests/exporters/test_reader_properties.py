"""What holds of readers whatever they are given: Hypothesis looks for what breaks it.

`scripts/fuzz` looks for inputs that break a reader; here what was read must also be right.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras_files import GOLDEN, PRESET
from safetensors.numpy import save

from bart_onnx import hub, kaggle
from bart_onnx.config import BartConfig
from bart_onnx.errors import CheckpointError, InputError, PresetError
from bart_onnx.json_objects import DEPTH_LIMIT, parse_object
from bart_onnx.server.binary_tensors import packed, parted, unpacked
from bart_onnx.server.bodies import inflated
from bart_onnx.server.failures import Refusal
from bart_onnx.tokenizer_files import read_assets, write_assets
from exporters.checkpoints.hugging_face_config import bart_config
from exporters.checkpoints.keras_config import backbone_config, check_objects
from exporters.checkpoints.safetensors_file import read_header, read_tensor

# What is slow on a machine that does other things as well is no failure.
patient = settings(deadline=None)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, 32, 305, 1 << 31, 10**400])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
HUGGING_FACE = json.loads((GOLDEN / "hf_checkpoint" / "config.json").read_text())
KERAS = json.loads((PRESET / "config.json").read_text())


@patient
@given(st.from_regex(r"(hf|kaggle)://[A-Za-z0-9_./@-]{0,40}", fullmatch=True) | st.text())
def test_a_uri_is_refused_or_is_what_was_written(text: str) -> None:
    for parse in (hub.parse_uri, kaggle.parse_uri):
        try:
            found = str(parse(text))
        except PresetError:
            continue
        assert found == text
        assert text.isascii()
        assert ".." not in text


@patient
@given(st.dictionaries(TEXTS, JSON, max_size=4))
def test_json_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert json.dumps(parse_object(json.dumps(value).encode())) == json.dumps(value)


@patient
@given(st.integers(DEPTH_LIMIT - 3, DEPTH_LIMIT + 3), st.booleans())
def test_json_is_as_deep_as_it_may_be(depth: int, lists: bool) -> None:
    inner = b"[" * (depth - 1) + b"]" * (depth - 1)
    if not lists:
        inner = b'{"a":' * (depth - 1) + b"0" + b"}" * (depth - 1)
    data = b'{"a":' + inner + b"}"
    if depth <= DEPTH_LIMIT:
        assert set(parse_object(data)) == {"a"}
    else:
        with pytest.raises(InputError, match="nested over"):
            parse_object(data)


@example(key="dropout", value=10**400)
@patient
@given(st.sampled_from(sorted(HUGGING_FACE)), JSON)
def test_a_config_is_refused_or_holds_numbers_that_can_be(key: str, value: Any) -> None:
    try:
        found = bart_config({**HUGGING_FACE, key: value}, Path("config.json"))
    except CheckpointError:
        return
    assert BartConfig.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.hidden_dim % found.num_heads == 0
    assert 0 <= found.dropout < 1


@example(place=("config", "dropout"), value=10**400)
@patient
@given(
    st.sampled_from([("config", key) for key in sorted(KERAS["config"])] + [(k,) for k in KERAS]),
    JSON,
)
def test_a_keras_config_is_refused_or_holds_numbers(place: tuple[str, ...], value: Any) -> None:
    values = json.loads(json.dumps(KERAS))
    target = values["config"] if len(place) == 2 else values
    target[place[-1]] = value
    try:
        check_objects(values, Path("config.json"))
        found = backbone_config(values, Path("config.json"), None)
    except CheckpointError:
        return
    assert BartConfig.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@patient
@given(
    st.dictionaries(
        TEXTS.filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["float32", "float16"]),
            st.lists(st.integers(1, 3), min_size=1, max_size=3),
        ),
        max_size=4,
    )
)
def test_what_safetensors_writes_is_read(tensors: dict[str, tuple[str, list[int]]]) -> None:
    arrays = {
        name: np.arange(np.prod(shape), dtype=dtype).reshape(shape)
        for name, (dtype, shape) in tensors.items()
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x.safetensors")
        path.write_bytes(save(arrays))
        found = read_header(path)
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read_tensor(found[name]), array.astype("f4"))


@patient
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["F32", "F16", "I64", "BOOL", "F4", "f32"]) | JSON,
                "shape": st.lists(st.sampled_from([0, 1, 2, -1, 1 << 62]), max_size=3) | JSON,
                "data_offsets": st.lists(st.sampled_from([0, 2, 4, 8, 16]), max_size=3) | JSON,
            },
        )
        | JSON,
        max_size=3,
    ),
    st.sampled_from([0, 2, 4, 8, 16]),
)
def test_what_is_read_safetensors_reads_too(header: dict[str, Any], size: int) -> None:
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(size)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x.safetensors")
        path.write_bytes(data)
        try:
            found = read_header(path)
        except CheckpointError:
            return
    # What stands there is nothing that is read here.
    metadata = header.pop("__metadata__", {})
    if metadata == {}:
        judged = dict(safetensors.deserialize(data))
        assert {name: list(each.shape) for name, each in found.items()} == {
            name: list(each["shape"]) for name, each in judged.items()
        }


@patient
@given(st.lists(TEXTS, unique=True, max_size=8))
def test_a_vocabulary_is_read_as_it_was_written(tokens: list[str]) -> None:
    special = ["<s>", "<pad>", "</s>"]
    names = [*special, *(token for token in tokens if token not in special)]
    vocabulary = {token: number for number, token in enumerate(names)}
    with tempfile.TemporaryDirectory() as directory:
        write_assets(Path(directory), vocabulary, [])
        assert read_assets(Path(directory)) == (vocabulary, [])


@patient
@given(st.lists(TEXTS, max_size=5), st.data())
def test_tensors_of_texts_are_read_whole_or_not(texts: list[str], data: st.DataObject) -> None:
    raw = packed(texts)
    assert unpacked(raw, len(texts)) == texts
    for other in (raw + b"\0", raw[: data.draw(st.integers(0, max(0, len(raw) - 1)))]):
        if other != raw:
            with pytest.raises(InputError):
                unpacked(other, len(texts))
    assert parted(b"{}" + raw, "2") == (b"{}", raw)


@patient
@given(st.binary(max_size=300))
def test_a_body_is_inflated_to_its_limit_and_no_further(data: bytes) -> None:
    body = gzip.compress(data)
    assert inflated(body, "gzip", len(data)) == data
    for fault, limit in ((body[:-1], len(data)), (body + b"x", len(data)), (data, 1000)):
        with pytest.raises(Refusal):
            inflated(fault, "gzip", limit)
    if data:
        with pytest.raises(Refusal) as caught:
            inflated(body, "gzip", len(data) - 1)
        assert caught.value.status_code == 413
