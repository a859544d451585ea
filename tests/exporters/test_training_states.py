"""Training states that no run of this package saved, and examples that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_made import put_training_state, training_states
from fuzz_seeds import CONFIG, safetensors
from keras_files import PRESET

from bart_onnx.errors import CheckpointError, InputError
from bart_onnx.tokenizer import BartTokenizer
from exporters.quality import read_examples
from exporters.training.checkpoint import _UNFINISHED, STATE_FILE, check_terms, load_run
from exporters.training.position import Position, read_place

SAVED = training_states()[0]


def place_in(directory: Path) -> tuple[int, Position]:
    saved = load_run(directory, torch.device("cpu"))
    assert saved is not None
    return read_place(saved.position)


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    put_training_state(SAVED, tmp_path / STATE_FILE)
    steps, position = place_in(tmp_path)
    fit = json.loads(SAVED)["position"]["fit"]
    assert (steps, position.to_dict()) == (6, fit)


def test_reading_leaves_what_another_run_is_saving(tmp_path: Path) -> None:
    (tmp_path / _UNFINISHED).mkdir()
    assert load_run(tmp_path, torch.device("cpu")) is None
    assert [each.name for each in tmp_path.iterdir()] == [_UNFINISHED]


def test_a_state_that_may_not_be_looked_for_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(CheckpointError, match="Permission denied"):
        load_run(tmp_path, torch.device("cpu"))


def _in_position(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda run: run["position"]["fit"].update({name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run.pop("format"), "no training state of this package"),
        (lambda run: run.update(version=2), "has version 2, this package reads 1"),
        (lambda run: run.update(version="x" * 9999), "has version 'xxx"),
        (lambda run: run.pop("position"), "how far its run is"),
        (lambda run: run.update(terms=None), "how far its run is"),
        (lambda run: run["position"].pop("steps"), "usable of steps"),
        (lambda run: run["position"].update(steps=-1), "usable of steps"),
        (lambda run: run["position"].update(fit=[]), "usable of fit"),
        (_in_position("more", 1), "usable of more"),
        (_in_position("epoch", True), "usable of epoch"),
        (_in_position("batch", 0.5), "usable of batch"),
        (_in_position("batch", 1 << 63), "usable of batch"),
        (_in_position("totals", {"loss": 1.0}), "usable of correct, places, tokens, weight"),
        (_in_position("history", {"loss": 0.5}), "usable of history"),
        (_in_position("history", {"loss": ["a"]}), "usable of history"),
        (_in_position("epochs", [None]), "usable of epochs"),
        (_in_position("best", "a"), "usable of best"),
        (_in_position("best_epoch", 0.5), "usable of best_epoch"),
        (_in_position("stopped", 0), "usable of stopped"),
    ],
)
def test_what_no_run_saves_is_refused(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    run = json.loads(SAVED)
    change(run)
    put_training_state(json.dumps(run).encode(), tmp_path / STATE_FILE)
    with pytest.raises(CheckpointError, match=said) as refused:
        place_in(tmp_path)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"null", b'{"a":' + b"[" * 99_999, b"\\ud800", b"\0", b"\0\0\0"]
)
def test_what_is_no_state_is_refused(data: bytes, tmp_path: Path) -> None:
    put_training_state(data, tmp_path / STATE_FILE)
    with pytest.raises(CheckpointError, match="no training state"):
        place_in(tmp_path)


def test_a_state_without_metadata_is_refused(tmp_path: Path) -> None:
    put_training_state(b"\0" + safetensors(b"{}", 0), tmp_path / STATE_FILE)
    with pytest.raises(CheckpointError, match="no training state of this package"):
        place_in(tmp_path)


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).mkdir()
    with pytest.raises(CheckpointError, match="no training state that can be read"):
        place_in(tmp_path)


def test_other_terms_are_told_in_short(tmp_path: Path) -> None:
    terms = {str(number): "x" * 9999 for number in range(999)}
    with pytest.raises(InputError, match="0 was 'xxx") as refused:
        check_terms(tmp_path, terms, {})
    assert len(str(refused.value)) < 4000


TEXTS = json.dumps({"text": "a\u2028bart", "summary": "a"}, ensure_ascii=False)


def test_examples_are_lines_and_no_more(tmp_path: Path) -> None:
    # JSON may hold Unicode's other line ends as they are.
    (tmp_path / "x.jsonl").write_text(f"{TEXTS}\r\n\n{TEXTS}", encoding="utf-8", newline="")
    found = read_examples(tmp_path / "x.jsonl", BartTokenizer.from_files(PRESET), CONFIG)
    assert len(found) == 2
    assert all(source[0] == CONFIG.start_token_id for source, _ in found)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 99_999, "Line 2 of .* is no JSON"),
        ("9" * 5000, "Line 2 of .* is no JSON"),
        ('{"text": "a"}', 'Line 2 of .* needs "text"'),
        (r'{"text": "\ud800", "summary": "a"}', "surrogate"),
    ],
)
def test_an_example_that_cannot_be_read_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f"{TEXTS}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_examples(tmp_path / "x.jsonl", BartTokenizer.from_files(PRESET), CONFIG)
