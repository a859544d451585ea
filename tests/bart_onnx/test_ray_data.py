"""Corpus runs on Ray Data: what is left to do, and what is written; Ray itself is not needed."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest

from bart_onnx import generate, ray_data
from bart_onnx.bulk_flags import bulk_of, inputs_of, opened
from bart_onnx.errors import InputError
from bart_onnx.ray_data import Predictor, Writer, left

NAME = "bart_tiny_en_g2p"
MODEL = ["--preset", NAME, "--offline", "--threads", "1", "--chunk-tokens", "40"]
WORDS = ["onnx", "summarization", "banana", "x" * 100, "relationship", "", "knight", "zebra"]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "words.jsonl"
    rows = [{"id": n, "text": f"{word}"} for n, word in enumerate(WORDS * 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Run:
    """One run's flags, and what it would do."""

    def __init__(self, corpus, output, *more):
        given = [*MODEL, "--input", str(corpus), "--output", str(output), *more]
        self.flags = ray_data._parser().parse_args(given)
        self.output = output
        output.mkdir(exist_ok=True)

    def left(self):
        inputs = inputs_of(self.flags.input, self.flags)
        bulk = bulk_of(opened(self.flags), self.flags)
        return left(self.output, inputs, bulk, self.flags.overwrite)

    def write(self, stretches):
        writer = Writer(self.flags, self.output)
        return [writer({"item": stretch}) for stretch in stretches]

    def content(self):
        return b"".join(path.read_bytes() for path in sorted(self.output.iterdir()))


@pytest.fixture
def run(corpus, tmp_path):
    return Run(corpus, tmp_path / "out")


def test_the_files_of_a_run_are_what_one_process_writes(run, corpus, tmp_path):
    stretches, done = run.left()
    assert (done.inputs, sum(len(each.lines) for each in stretches)) == (0, len(WORDS) * 3)
    assert len(stretches) > 3
    told = run.write(stretches[::-1])
    assert sum(each["inputs"] for each in told) == len(WORDS) * 3
    assert sum(each["failed"] for each in told) == 3
    whole = tmp_path / "whole.jsonl"
    flags = [*MODEL, "--input", str(corpus), "--output", str(whole), "--no-progress"]
    assert generate.main(flags) == 1
    assert run.content() == whole.read_bytes()


def test_only_what_has_no_file_is_left(run):
    stretches, _ = run.left()
    run.write([stretches[0], stretches[2]])
    (run.output / ".part-00000001.jsonl.123").write_text("killed")
    again, done = run.left()
    assert [each.number for each in again] == [1, *range(3, len(stretches))]
    assert done.inputs == len(stretches[0].lines) + len(stretches[2].lines)
    run.write(again)
    assert run.left()[0] == []
    assert {path.name for path in run.output.iterdir()} == {
        f"part-{number:08d}.jsonl" for number in range(len(stretches))
    }


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_file_is_there_whole_or_not_at_all(run, monkeypatch, moment):
    def full(*given):
        raise OSError(28, "No space left on device")

    stretches, _ = run.left()
    places = {"write": (ray_data.JsonLines, "write"), "fsync": (os, "fsync")}
    monkeypatch.setattr(*places.get(moment, (os, "replace")), full)
    with pytest.raises(OSError, match="No space"):
        run.write(stretches[:1])
    assert not list(run.output.iterdir())


def test_files_of_another_run_are_not_taken_for_its_own(run, corpus, tmp_path):
    run.write(run.left()[0])
    for more in (["--num-beams", "2"], ["--chunk-tokens", "80"]):
        with pytest.raises(InputError, match=r"cannot be gone on with|do not lead to"):
            Run(corpus, run.output, *more).left()
    anew = Run(corpus, run.output, "--num-beams", "2", "--overwrite")
    stretches, done = anew.left()
    assert (len(stretches) > 3, done.inputs) == (True, 0)
    corpus.write_text(json.dumps({"text": "another"}) + "\n")
    run.write(stretches[:1])
    with pytest.raises(InputError, match=r"cannot be gone on with|do not lead to"):
        run.left()


def test_strangers_in_the_directory_are_left_alone(run):
    (run.output / "mine.txt").write_text("notes")
    with pytest.raises(InputError, match=r"mine\.txt, which these inputs do not lead to"):
        run.left()
    assert (run.output / "mine.txt").read_text() == "notes"


def test_the_door_goes_on_and_says_what_failed(run, corpus, capsys, monkeypatch):
    asked = []

    def write(stretches, flags, actors, directory):
        asked.append((len(stretches), flags.threads))
        return sum(each["failed"] for each in run.write(stretches))

    monkeypatch.setattr(ray_data, "_written", write)
    given = [*MODEL, "--input", str(corpus), "--output", str(run.output)]
    assert ray_data.main(given) == 1
    assert "24 of 24 texts done now, 0 before." in capsys.readouterr().err
    assert ray_data.main(given) == 1
    said = capsys.readouterr().err
    assert "0 of 24 texts done now, 24 before." in said
    assert "error: 3 of 24 texts failed" in said
    assert len(asked) == 1
    assert ray_data.main([*given, "--num-beams", "0"]) == 1
    assert "num_beams" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ray_data.main([*given, "--alignments"])


def test_threads_are_those_of_an_actor(run, corpus, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ray_data, "_written", lambda stretches, flags, *more: seen.append(flags.threads) or 0
    )
    given = ["--preset", NAME, "--offline", "--input", str(corpus), "--output", str(run.output)]
    assert ray_data.main([*given, "--actor-cpus", "0.5"]) == 0
    assert seen == [1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--actors", "0"], "--actors must be at least 1 and finite, found 0"),
        (["--actor-cpus", "-1"], "--actor-cpus must be at least 0 and finite, found -1"),
        (["--actor-cpus", "nan"], "--actor-cpus must be at least 0 and finite, found nan"),
        (["--actor-gpus", "inf"], "--actor-gpus must be at least 0 and finite, found inf"),
    ],
)
def test_actors_that_cannot_be(run, corpus, capsys, monkeypatch, given, says):
    monkeypatch.setattr(ray_data, "opened", None)  # a model opened by then would be in vain
    common = [*MODEL, "--input", str(corpus), "--output", str(run.output)]
    assert ray_data.main([*common, *given]) == 1
    assert says in capsys.readouterr().err


def test_without_ray_it_is_said_what_to_install(run, corpus, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = [*MODEL, "--input", str(corpus), "--output", str(run.output)]
    assert ray_data.main(given) == 1
    assert 'pip install "bart_onnx[cpu,ray]"' in capsys.readouterr().err


def test_batches_get_columns():
    predictor = Predictor([*MODEL, "--num-beams", "3"], column="word")
    words = np.array(WORDS, object)
    found = predictor({"word": words, "n": np.arange(len(WORDS))})
    lm = opened(ray_data._model_parser().parse_args(MODEL))
    expected = ["" if len(word) in (0, 100) else lm.generate(word, num_beams=3) for word in WORDS]
    assert found["generated"].tolist() == expected
    assert [bool(error) for error in found["error"]] == [len(word) == 100 for word in WORDS]
    assert found["n"].tolist() == list(range(len(WORDS)))
