"""python -m bart_onnx.generate: its flags, its JSON lines, and a run that goes on from another."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import resource
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from bart_onnx import bulk, generate, option_flags
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.errors import DecodingError
from bart_onnx.progress import progress
from bart_onnx.text_generator import TextGenerator

PRESET = ("--preset", "bart_tiny_en_g2p", "--offline", "--threads", "1")
WORDS = Path(__file__).resolve().parents[1] / "data" / "words.txt"


def run(*arguments):
    return generate.main([*PRESET, *map(str, arguments)])


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def write_words(path, count):
    words = [line.split("\t")[0] for line in WORDS.read_text(encoding="utf-8").splitlines()]
    objects = [{"id": f"word-{n}", "text": word} for n, word in enumerate(words[:count])]
    path.write_text("".join(json.dumps(each) + "\n" for each in objects))
    return path


@pytest.fixture
def words(tmp_path):
    return write_words(tmp_path / "words.jsonl", 40)


@pytest.fixture
def stdin(monkeypatch):
    def set_to(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return set_to


def test_every_option_that_is_no_function_has_a_flag_and_an_explanation(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    said = capsys.readouterr().out
    without = [
        field.name
        for field in dataclasses.fields(DecodingOptions)
        if f"{option_flags.flag(field.name)} " not in said.replace(",", " ").replace("\n", " ")
    ]
    assert without == ["prefix_allowed_tokens_fn", "logits_processor"]
    explained = option_flags._explained()
    assert {field.name for field in dataclasses.fields(DecodingOptions)} == set(explained)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--num-beams 3", {"num_beams": 3}),
        ("--length-penalty -0.5 --no-do-sample", {"length_penalty": -0.5, "do_sample": False}),
        ("--early-stopping never", {"early_stopping": "never"}),
        ("--early-stopping false", {"early_stopping": False}),
        (
            "--suppress-tokens 5,7 --eos-token-id 2",
            {"suppress_tokens": (5, 7), "eos_token_id": (2,)},
        ),
        ("--bad-words a --bad-words b", {"bad_words": ["a", "b"]}),
        ("--stop-strings . --seed 0", {"stop_strings": ["."], "seed": 0}),
        ("--bad-words-ids [[4],[5,6]]", {"bad_words_ids": [[4], [5, 6]]}),
        ("--sequence-bias [[[4],-1.5]]", {"sequence_bias": [[[4], -1.5]]}),
        (
            "--exponential-decay-length-penalty 8,1.5",
            {"exponential_decay_length_penalty": (8, 1.5)},
        ),
    ],
)
def test_flags_are_options(flags, options):
    values = generate._parser().parse_args([*PRESET, *flags.split(), "text"])
    assert option_flags.asked_options(values) == options


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--early-stopping maybe", "'maybe' is none of true, false, never"),
        ("--suppress-tokens a,b", "'a,b' is no list of ids such as 3,5"),
        ("--exponential-decay-length-penalty 3", "'3' is no pair such as 20,1.1"),
        ("--bad-words-ids [", "'[' is not JSON"),
        ("--num-beam 3", "unrecognized arguments: --num-beam"),
        ("--overwrite", "name it with --output"),
        ("--alignments", "add it"),
        ("--stream --details", "not with --input, --output or --details"),
    ],
)
def test_wrong_usage(flags, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*flags.split(), "onnx")
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--num-beams 0", "num_beams must be from 1"),
        ("--temperature 2", "temperature=2.0 only has an effect on tokens that are drawn"),
        ("--num-return-sequences 2", "greedy decoding has one answer"),
        ("--max-length 5 --max-new-tokens 5", "say the same in two ways"),
        ("--chunk-tokens 0", "chunk_tokens is 0"),
        ("--seed 3", "seed=3 only has an effect on tokens that are drawn"),
        ("--overlap-sentences -1 --long-input split", "overlap_sentences is -1"),
        ("--top-log-probs 65 --details", "top_log_probs is 65"),
    ],
)
def test_options_that_cannot_be(flags, says, capsys):
    assert run(*flags.split(), "x" * 100) == 1
    found = capsys.readouterr()
    assert says in found.err
    assert found.err.startswith("error: ")
    assert found.out == ""


def test_it_decodes_as_the_model_does(capsys, shipped):
    assert run("onnx", "--num-beams", 3, "--num-return-sequences", 2) == 0
    expected = shipped.generate("onnx", num_beams=3, num_return_sequences=2)
    assert capsys.readouterr().out.splitlines() == expected
    assert run("onnx", "--do-sample", "--seed", 3, "--temperature", 2.0) == 0
    expected = shipped.generate("onnx", do_sample=True, seed=3, temperature=2.0)
    assert capsys.readouterr().out == f"{expected}\n"


def test_a_task_of_the_generation_config(capsys, shipped, monkeypatch):
    config = {
        **shipped.generation_config,
        "do_sample": True,
        "task_specific_params": {"summarization": {"max_length": 5}},
    }
    monkeypatch.setattr(TextGenerator, "generation_config", config)
    whole = shipped.generate("summarization", do_sample=False)
    short = shipped.generate("summarization", do_sample=False, max_length=5)
    assert run("summarization") == 0
    assert run("summarization", "--task", "summarization") == 0
    assert capsys.readouterr().out == f"{whole}\n{short}\n"


def test_the_prefix_of_a_checkpoint_is_for_its_task(words, tmp_path, capsys, shipped, monkeypatch):
    config = {**shipped.generation_config, "prefix": "un"}
    monkeypatch.setattr(TextGenerator, "generation_config", config)
    summary = shipped.summarize("kind")
    assert summary == shipped.generate("unkind", do_sample=False)
    task = ("--task", "summarization")
    for flags in (task, (*task, "--stream")):
        assert run("kind", *flags) == 0
        assert capsys.readouterr().out == f"{summary}\n"
    assert run("kind") == 0
    assert capsys.readouterr().out == f"{shipped.generate('kind', do_sample=False)}\n"
    assert run("x" * 61, *task) == 1  # 63 tokens alone, of 64
    assert "65 tokens; this model reads 64" in capsys.readouterr().err
    flags = ("--input", words, "--output", tmp_path / "out.jsonl", "--no-progress")
    assert (run(*flags, *task), run(*flags, *task)) == (0, 0)
    assert run(*flags) == 1
    assert "line 1 was written under other options" in capsys.readouterr().err


def test_a_negative_overlap_is_refused_whatever_becomes_of_long_texts(capsys):
    assert run("onnx", "--overlap-sentences", -1) == 1
    assert capsys.readouterr().err == "error: overlap_sentences is -1; pass 0 or more.\n"


@pytest.mark.parametrize(("flags", "speculates"), [((), True), (("--no-speculation",), False)])
def test_drafts_can_be_left_out(monkeypatch, flags, speculates):
    asked = []
    answer = TextGenerator.answer
    monkeypatch.setattr(
        TextGenerator, "answer", lambda *given: asked.append(given[-1]) or answer(*given)
    )
    assert run("onnx", *flags) == 0
    assert [each.speculate for each in asked] == [speculates]


def test_stream(capsys):
    assert run("summarization") == 0
    whole = capsys.readouterr().out
    assert run("summarization", "--stream", "--num-beams", 2) == 0
    assert capsys.readouterr().out == whole


def test_stream_takes_one_text(capsys, stdin):
    stdin(b"one\ntwo\n")
    assert run("-", "--stream") == 1
    assert "--stream takes one text; standard input has 2 lines" in capsys.readouterr().err


def test_json_lines(words, capsys, shipped):
    assert run("--input", words) == 0
    found = lines_of(capsys.readouterr().out)
    given = lines_of(words.read_text())
    assert [each["index"] for each in found] == list(range(40))
    assert [each["id"] for each in found] == [each["id"] for each in given]
    expected = shipped.generate([each["text"] for each in given], num_beams=1)
    assert [each["text"] for each in found] == expected


def test_json_lines_of_stdin_and_plain_lines(tmp_path, capsys, stdin):
    stdin(b'{"body": "onnx", "key": 7}\n\n{"body": "", "key": null}\n')
    assert run("--input", "-", "--text-field", "body", "--id-field", "key") == 0
    first, second = lines_of(capsys.readouterr().out)
    assert (first["id"], first["text"]) == (7, "ˈɑŋks")
    assert (second["index"], second["text"], "id" in second) == (1, "", False)
    stdin(b'\xef\xbb\xbfonnx\r\n\n{"text"}\n')
    assert run("--input", "-", "--input-format", "lines") == 0
    lines = lines_of(capsys.readouterr().out)
    assert [each["index"] for each in lines] == [0, 1, 2]
    assert [each["text"] for each in lines][:2] == ["ˈɑŋks", ""]
    (tmp_path / "words.txt").write_text("onnx\n")
    assert run("--file", tmp_path / "words.txt", "--output", tmp_path / "out.jsonl") == 0
    (found,) = lines_of((tmp_path / "out.jsonl").read_text())
    assert found["text"] == "ˈɑŋks"


def test_details_are_those_of_a_result(capsys, shipped):
    flags = ("--details", "--top-log-probs", 2, "--num-beams", 2, "--num-return-sequences", 2)
    assert run("onnx", *flags, "--alignments") == 0
    (found,) = lines_of(capsys.readouterr().out)
    (result,) = shipped.generate(
        "onnx",
        num_beams=2,
        num_return_sequences=2,
        return_dict=True,
        top_log_probs=2,
        alignments=True,
    )
    expected = json.loads(json.dumps(result.to_dict()))
    assert {name: found[name] for name in expected} == expected
    assert found["texts"] == [each.text for each in result.n_best]


def test_one_that_is_too_long_does_not_stop_the_others(tmp_path, capsys):
    texts = ["onnx", "x" * 80, "summarization"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert run("--input", source) == 1
    found = capsys.readouterr()
    first, second, third = lines_of(found.out)
    assert (first["text"], third["text"]) == ("ˈɑŋks", "sˌʌməɹəzˈAʃən")
    assert "82 tokens; this model reads 64" in second["error"]
    assert "text" not in second
    assert found.err == "error: 1 of 3 texts failed; see their lines.\n"
    assert run("--input", source, "--long-input", "truncate") == 0
    found = capsys.readouterr()
    assert lines_of(found.out)[1]["text"]
    assert found.err == "warning: 1 of 3 texts were cut to what the model reads.\n"
    assert run("--input", source, "--long-input", "split", "--details") == 0
    assert "2 parts" in lines_of(capsys.readouterr().out)[1]["long_input"]


def test_a_text_that_cannot_be_decoded_does_not_stop_the_others(words, capsys, monkeypatch):
    answer = TextGenerator.answer

    def failing(self, texts, asked):
        raise DecodingError("Row 1", {1: "no token is left"}, _without(answer(self, texts, asked)))

    monkeypatch.setattr(TextGenerator, "answer", failing)
    assert run("--input", words) == 1
    found = lines_of(capsys.readouterr().out)
    assert [each["index"] for each in found if "error" in each] == [1]
    assert found[1]["error"] == "no token is left"
    assert run("--file", words) == 1
    assert "error: line 2: no token is left" in capsys.readouterr().err


def _without(answers):
    return [None if row == 1 else each for row, each in enumerate(answers)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is no JSON object, but [1]"),
        ('{"article": "x"}', "line 2 has no field 'text'; its fields: 'article'"),
        ("{}", "its fields: none"),
        ('{"text": 3}', "line 2: 'text' must be a text, found 3"),
        ('{"text": "\\ud800"}', "line 2: 'text' is no Unicode text"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_lines_that_cannot_be_read_are_named_before_anything_runs(tmp_path, capsys, line, says):
    (tmp_path / "in.jsonl").write_text(f'{{"text": "onnx"}}\n{line}\n')
    output = tmp_path / "out.jsonl"
    assert run("--input", tmp_path / "in.jsonl", "--output", output) == 1
    assert says in capsys.readouterr().err
    assert not output.exists()


def test_places_that_cannot_be_used(words, tmp_path, capsys):
    for arguments, says in (
        (("--input", tmp_path / "absent.jsonl"), "absent.jsonl does not exist"),
        (("--input", tmp_path), "cannot be read"),
        (("--input", words, "--output", tmp_path / "no" / "out.jsonl"), "there is no directory"),
        (("--input", words, "--output", tmp_path), "cannot be written"),
        (("--input", words, "--output", words, "--overwrite"), "which is the input"),
        (("--input", words, "--output", "/dev/full"), "the output could not be written"),
    ):
        assert run(*arguments) == 1
        found = capsys.readouterr().err
        assert says in found
        assert found.startswith("error: ")
    assert len(words.read_text().splitlines()) == 40


SAMPLED = ("--do-sample", "--seed", 5, "--temperature", 1.5)


@pytest.mark.parametrize("flags", [(), SAMPLED, ("--details",)])
def test_a_run_goes_on_from_wherever_another_stopped(words, tmp_path, flags):
    flags = ("--input", words, "--chunk-tokens", 32, *flags)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert run(*flags, "--output", whole) == 0
    content = whole.read_bytes()
    assert content.count(b"\n") == 40
    for size in (0, 5, len(content) // 3, len(content) - 1, len(content)):
        output.write_bytes(content[:size])
        assert run(*flags, "--output", output) == 0
        assert output.read_bytes() == content


def test_what_is_done_is_not_done_again(words, tmp_path, monkeypatch):
    flags = ("--input", words, "--chunk-tokens", 32, "--output", tmp_path / "out.jsonl")
    assert run(*flags) == 0
    content = (tmp_path / "out.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(b"".join(lines[:20]))
    seen = []
    outcomes = bulk.Bulk.outcomes
    monkeypatch.setattr(
        bulk.Bulk, "outcomes", lambda self, chunk: seen.extend(chunk) or outcomes(self, chunk)
    )
    assert run(*flags) == 0
    assert 20 <= len(seen) < 40
    assert (tmp_path / "out.jsonl").read_bytes() == content


def test_errors_of_an_earlier_run_count(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("x" * 80, "onnx")))
    flags = ("--input", source, "--output", tmp_path / "out.jsonl")
    assert (run(*flags), run(*flags)) == (1, 1)
    assert capsys.readouterr().err == "error: 1 of 2 texts failed; see their lines.\n" * 2


def test_a_file_of_another_run_is_not_touched(words, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    flags = ("--input", words, "--output", output)
    assert run(*flags) == 0
    content = output.read_bytes()
    others = write_words(tmp_path / "others.jsonl", 39)
    changed = tmp_path / "changed.jsonl"
    changed.write_text(words.read_text().replace('"text": "', '"text": "x', 1))
    for arguments, says in (
        ((*flags, "--num-beams", 2), "line 1 was written under other options"),
        ((*flags, "--long-input", "split"), "line 1 was written under other options"),
        (("--input", others, "--output", output), "line 40 is one more than there are inputs"),
        (("--input", changed, "--output", output), "line 1 is not of"),
    ):
        assert run(*arguments) == 1
        assert says in capsys.readouterr().err
        assert output.read_bytes() == content
    assert run(*flags, "--num-beams", 2, "--overwrite") == 0
    assert output.read_bytes() != content


def test_a_file_of_another_model_is_not_touched(words, tmp_path, tiny_bundle, capsys):
    flags = ["--input", str(words), "--output", str(tmp_path / "out.jsonl")]
    assert run(*flags) == 0
    assert generate.main(["--preset", str(tiny_bundle), *flags]) == 1
    assert "line 1 was written by another model" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"notes", b'{"a": 1}\n', b"notes\n", b'{"index": 1'])
def test_a_file_that_is_no_output_is_not_touched(words, tmp_path, capsys, content):
    output = tmp_path / "notes.txt"
    output.write_bytes(content)
    assert run("--input", words, "--output", output) == 1
    assert "line 1 was not written by this command" in capsys.readouterr().err
    assert output.read_bytes() == content


def test_interrupted_it_keeps_what_is_done(words, tmp_path, capsys, monkeypatch):
    flags = ("--input", words, "--chunk-tokens", 32, "--output", tmp_path / "out.jsonl")
    outcomes = bulk.Bulk.outcomes

    def interrupted(self, chunk):
        if chunk[0].index:
            raise KeyboardInterrupt
        return outcomes(self, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(bulk.Bulk, "outcomes", interrupted)
        assert run(*flags) == 130
    assert "what was written is kept" in capsys.readouterr().err
    begun = (tmp_path / "out.jsonl").read_bytes()
    assert 0 < begun.count(b"\n") < 40
    assert run(*flags) == 0
    assert (tmp_path / "out.jsonl").read_bytes().startswith(begun)


@pytest.mark.parametrize("flags", [(), SAMPLED])
def test_killed_it_loses_at_most_a_chunk(tmp_path, flags):
    words = write_words(tmp_path / "words.jsonl", 1000)
    flags = ("--input", words, "--chunk-tokens", 64, *flags, "--no-progress")
    assert run(*flags, "--output", tmp_path / "whole.jsonl") == 0
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "bart_onnx.generate", *PRESET, *flags, "--output", output]
    child = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not output.exists() or output.stat().st_size < 2000:
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()
    whole = (tmp_path / "whole.jsonl").read_bytes()
    left = output.read_bytes()
    assert 2000 <= len(left) < len(whole)
    assert whole.startswith(left)
    assert run(*flags, "--output", output) == 0
    assert output.read_bytes() == whole


def test_a_full_disk_is_said_and_the_run_goes_on_later(words, tmp_path):
    flags = ("--input", words, "--chunk-tokens", 32, "--no-progress")
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "bart_onnx.generate", *PRESET, *flags, "--output", output]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        list(map(str, command)), preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output could not be written")
    assert "Traceback" not in done.stderr
    assert output.stat().st_size <= 2000
    assert run(*flags, "--output", output) == 0
    assert run(*flags, "--output", tmp_path / "whole.jsonl") == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_counts_go_to_standard_error(words, capsys):
    assert run("--input", words, "--chunk-tokens", 64) == 0
    said = capsys.readouterr().err.splitlines()
    assert said
    assert all(line.endswith(" of 40 texts") for line in said)
    assert run("--input", words, "--chunk-tokens", 64, "--no-progress") == 0
    assert run("--input", words) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("has_tqdm", "size", "has_bar"),
    [(True, (24, 80), True), (False, (24, 80), False), (True, (0, 0), False)],
)
def test_progress_on_a_terminal(monkeypatch, has_tqdm, size, has_bar):
    master, terminal = os.openpty()
    termios.tcsetwinsize(terminal, size)
    with os.fdopen(terminal, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        if not has_tqdm:
            patch.setitem(sys.modules, "tqdm", None)
        with progress(10, 4, shown=True) as advance:
            advance(3)
            advance(3)
    with os.fdopen(master, "rb", buffering=0) as reader:
        said = "".join(_read_to_the_end(reader))
    assert ("10/10" if has_bar else "10 of 10 texts") in said


def _read_to_the_end(reader):
    while True:
        try:
            yield reader.read(10_000).decode()
        except OSError:  # a terminal that nobody holds any more has no other end
            return


@pytest.fixture(scope="module")
def shipped():
    from bart_onnx import OnnxBartSeq2SeqLM

    return OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True, threads=1)
