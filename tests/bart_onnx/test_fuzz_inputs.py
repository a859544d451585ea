"""What fuzzers change: JSON as JSON, and files that are made from descriptions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_json import enlarged, rewritten
from fuzz_made import archive_descriptions, hdf5_descriptions, put_archive, put_files, put_hdf5
from fuzz_readers import READERS
from fuzz_seeds import as_json

from bart_onnx.errors import CheckpointError
from exporters.checkpoints.keras_archive import KerasArchive
from exporters.checkpoints.keras_h5 import Hdf5, find_datasets

INPUT = as_json({"a": [1, {"b": "text"}], "c": None})


def test_changed_json_is_json_and_another() -> None:
    changed = [rewritten(INPUT, random.Random(seed), (b"word", b"17")) for seed in range(300)]
    values = [json.loads(each) for each in changed if each is not None]
    assert len(values) > 290, "a few become deeper than json writes"
    assert all(isinstance(value, dict) for value in values)
    assert sum(value != json.loads(INPUT) for value in values) > 250
    assert len({json.dumps(value) for value in values}) > 150
    assert any(b"word" in each for each in changed if each)


def test_it_is_the_same_from_the_same_seed() -> None:
    assert rewritten(INPUT, random.Random(7)) == rewritten(INPUT, random.Random(7))


def test_what_is_around_the_json_stays() -> None:
    found = rewritten(b"12\n" + INPUT + b"\0\xff", random.Random(1))
    assert found is not None
    assert found.startswith(b"12\n{")
    assert found.endswith(b"}\0\xff")


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"a":' + b"[" * 5000, b"\xff{\xff"])
def test_what_is_no_json_is_left(data: bytes) -> None:
    assert rewritten(data, random.Random(1)) is None


def test_each_value_and_each_name_is_enlarged_once() -> None:
    found = [json.loads(each) for each in enlarged(INPUT, "long")]
    assert {"a": "long", "c": None} in found
    assert {"a": [1, {"b": "text"}], "c": "long"} in found
    assert {"a": [1, {"long": "text"}], "c": None} in found
    assert {"c": None, "long": [1, {"b": "text"}]} in found
    assert len(found) == 10
    assert not list(enlarged(b"[1]", "long"))


HONEST, *REFUSED = hdf5_descriptions()
SAID = (
    "a soft link",
    "a link into another file",
    "a second link",
    "a datatype of its own",
    "in chunks",
    "in another file",
    "without a shape",
    "which needs 16 bytes and has 0",
    "needs 8796093022208 bytes",
    "of a type that is no plain number",
)


def test_described_datasets_are_those_of_a_file(tmp_path: Path) -> None:
    put_hdf5(HONEST, tmp_path / "x.h5")
    shapes = {
        name: list(entry.shape) for name, entry in find_datasets(Hdf5(tmp_path / "x.h5")).items()
    }
    assert shapes == {name: each["shape"] for name, each in json.loads(HONEST).items()}
    put_hdf5(REFUSED[0], tmp_path / "x.h5")
    assert find_datasets(Hdf5(tmp_path / "x.h5"))["layers/a/vars/0"].dtype == "BF16"


@pytest.mark.parametrize(("data", "said"), list(zip(REFUSED[1:-1], SAID, strict=True)))
def test_described_files_reach_each_check(data: bytes, said: str, tmp_path: Path) -> None:
    put_hdf5(data, tmp_path / "x.h5")
    with pytest.raises(CheckpointError, match=said):
        find_datasets(Hdf5(tmp_path / "x.h5"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"../x": "a"}, "a member named"),
        ({"assets/x": {"text": "aaaaaaaaaaaaaaaaa", "type": 8}}, "is compressed"),
        ({"assets/x": {"text": "a", "mode": 0o120777}}, "is a link"),
    ],
)
def test_described_archives_reach_each_check(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.keras"
    honest = json.loads(archive_descriptions()[0])
    put_archive(as_json(honest), path)
    assert KerasArchive(path).read("model.weights.h5") == b"weights"
    put_archive(as_json(honest | changes), path)
    with pytest.raises(CheckpointError, match=said):
        KerasArchive(path)


def test_parts_become_files(tmp_path: Path) -> None:
    put = put_files("a", "b", "c")
    put(b"1\x002\x003\x004", tmp_path)
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"1", b"2", b"3\x004"]
    put(b"\x002", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("put", [put_hdf5, put_archive])
@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": 1}', b'{"a": {"shape": "x"}}'])
def test_a_description_of_nothing_makes_an_empty_file(
    put: Callable[[bytes, Path], None], data: bytes, tmp_path: Path
) -> None:
    put(data, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size > 0


def test_every_reader_has_honest_inputs() -> None:
    assert all(reader.seeds() for reader in READERS.values())
