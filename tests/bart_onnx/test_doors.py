"""The command lines, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Each with what its help must say.
DOORS = {
    "bench": "--preset",
    "doctor": "--json",
    "export": "bart_large_en_cnn",
    "generate": "bart_large_en_cnn",
    "serve": "bart_large_en_cnn",
}

WITHOUT_BUILDERS = """
import runpy, sys
BLOCKED = {"torch", "transformers", "onnx", "onnxscript", "keras", "h5py"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name in BLOCKED else found(name, package)
)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(*arguments, text_in=None, without_builders=False):
    start = ["-c", WITHOUT_BUILDERS] if without_builders else ["-m"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        input=text_in,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("door", "says"), DOORS.items())
def test_help_works_without_builders(door, says):
    done = run(f"bart_onnx.{door}", "--help", without_builders=True)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert ("--preset" in done.stdout) == (door != "doctor")


@pytest.mark.parametrize("door", DOORS)
def test_wrong_usage_exits_with_2(door):
    assert run(f"bart_onnx.{door}", "--no-such-flag").returncode == 2


def test_generate_from_text_file_and_stdin(tiny_bundle, tmp_path):
    preset = ("--preset", tiny_bundle)
    assert run("bart_onnx.generate", *preset, "the fox").stdout == "fox the\n"
    (tmp_path / "texts.txt").write_text("the fox\n\ntwo cat sat on the box\n")
    expected = "fox the\n\nbox box one cat two.\n"
    assert run("bart_onnx.generate", *preset, "--file", tmp_path / "texts.txt").stdout == expected
    piped = run("bart_onnx.generate", *preset, "-", text_in="the fox\n\ntwo cat sat on the box")
    assert piped.stdout == expected
    assert piped.stderr == ""


def test_max_length(tiny_bundle):
    done = run(
        "bart_onnx.generate", "--preset", tiny_bundle, "--max-length", 3, "the quick red dog"
    )
    assert done.returncode == 0
    assert len(done.stdout.split()) <= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["the fox", "--preset", "bart_larg"], "Preset 'bart_larg' is unknown"),
        (["the fox", "--preset", "facebook/bart-base"], "did you mean 'hf://facebook/bart-base'"),
        (["the fox", "--preset", "bart_base_en", "--offline"], "python -m bart_onnx.export"),
        (["the fox", "--preset", "{bundle}", "--max-length", "4096"], "48 positions"),
        (["the fox " * 60, "--preset", "{bundle}"], "tokens"),
        (["   ", "--preset", "{bundle}"], "all of the text is blank"),
        (["the fox", "--preset", "{bundle}", "--max-length", "0"], "max_length"),
        (["the fox", "--preset", "x" * 5000], "is unknown"),
        (["the fox", "--preset", "~nobody_of_that_name/x"], "is unknown"),
        (["the fox", "--preset", ""], "is unknown"),
        (["--file", "absent.txt", "--preset", "{bundle}"], "absent.txt does not exist"),
        (["--file", "{bundle}", "--preset", "{bundle}"], "cannot be read"),
        (["the fox", "--preset", "{bundle}", "--threads", "0"], "threads must be at least 1"),
    ],
)
def test_errors_are_one_message_and_no_trace(tiny_bundle, arguments, says, tmp_path):
    done = run("bart_onnx.generate", *(word.format(bundle=tiny_bundle) for word in arguments))
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.startswith("error: ")


def test_blank_input_is_refused(tiny_bundle):
    done = run("bart_onnx.generate", "--preset", tiny_bundle, "-", text_in="\n \n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "all of standard input is blank" in done.stderr


def test_what_is_no_text_is_refused(tiny_bundle, tmp_path):
    (tmp_path / "bytes").write_bytes(b"the \xff fox")
    done = run("bart_onnx.generate", "--preset", tiny_bundle, "--file", tmp_path / "bytes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be read as UTF-8" in done.stderr


@pytest.mark.parametrize("sink", ["/dev/full", "closed"])
def test_output_that_cannot_be_written(tiny_bundle, sink):
    command = [sys.executable, "-m", "bart_onnx.generate", "--preset", tiny_bundle, "the fox"]
    if sink == "closed":
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(), said) == (0, "")
        process.stderr.close()
        return
    with open(sink, "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_export_without_torch_prints_the_command(golden, tmp_path):
    done = run(
        "bart_onnx.export",
        "--preset",
        golden / "hf_checkpoint",
        "--output",
        tmp_path / "b",
        without_builders=True,
    )
    assert done.returncode == 1
    assert 'pip install "bart_onnx[cpu,export,hub]"' in done.stderr
    assert f"python -m bart_onnx.export --preset {golden / 'hf_checkpoint'}" in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_bundle_is_verified_without_builders():
    done = run("bart_onnx.verify", "bart_tiny_en_g2p", "--run", without_builders=True)
    assert done.returncode == 0, done.stderr
    assert "alone and together the same to the last bit" in done.stdout


def test_export_prints_the_directory(golden, tmp_path):
    done = run("bart_onnx.export", "--preset", golden / "hf_checkpoint", "--output", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'b'}\n"
    assert "Writing weights" in done.stderr
    quiet = run(
        "bart_onnx.export", "--preset", tmp_path / "b", "--output", tmp_path / "c", "--quiet"
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")


@pytest.mark.parametrize("output", ["{file}/sub/out", "~nobody_of_that_name/x"])
def test_export_to_no_place(golden, tmp_path, output):
    (tmp_path / "file").write_text("x")
    place = output.format(file=tmp_path / "file")
    done = run("bart_onnx.export", "--preset", golden / "hf_checkpoint", "--output", place)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_export_refuses_damage(golden, tmp_path):
    (tmp_path / "config.json").write_text("{")
    done = run("bart_onnx.export", "--preset", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "config.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
