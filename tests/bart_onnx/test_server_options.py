"""The server's options: flags over environment over file, strictly read, and documented."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from bart_onnx import serve
from bart_onnx.errors import InputError, InputTypeError, MissingFileError
from bart_onnx.server.options import ServerOptions, option_parser, read_options, served_name

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


def read(*flags, **environment):
    return read_options(option_parser("serve", "").parse_args(flags), environment)


def test_the_defaults_listen_on_loopback_only():
    options = read("--preset", "a")
    assert options == ServerOptions(preset=("a",))
    assert (options.host, options.speculation, options.offline) == ("127.0.0.1", False, False)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path):
    pytest.importorskip("yaml", reason="the serve extra is not installed: no PyYAML")
    path = tmp_path / "serve.yaml"
    path.write_text(
        "preset: [a, b]\nport: 1\nrows: 2\nthreads: 3\ndeadline: 4\noffline: true\napi_key: k\n"
    )
    environment = {
        "BART_ONNX_CONFIG": str(path),
        "BART_ONNX_PORT": "10",
        "BART_ONNX_ROWS": "20",
        "BART_ONNX_METRICS": "false",
        "BART_ONNX_THREADS": "",
    }
    options = read("--port", "100", "--no-offline", **environment)
    assert options == ServerOptions(
        preset=("a", "b"),
        port=100,
        rows=20,
        threads=3,
        deadline=4.0,
        offline=False,
        metrics=False,
        api_key=("k",),
    )
    several = read("--preset", "c", "--preset", "d", **environment)
    assert several.preset == ("c", "d")


def test_every_option_may_come_from_anywhere_and_is_documented(tmp_path):
    pytest.importorskip("yaml", reason="the serve extra is not installed: no PyYAML")
    document = DOCUMENT.read_text(encoding="utf-8")
    path = tmp_path / "serve.yaml"
    values = {"str": "error", "int": "7", "int | None": "7", "float": "7.5", "bool": "true"}
    own = {"precision": "int8", "long_input": "truncate", "batching": "static"}
    for field in dataclasses.fields(ServerOptions):
        value = own.get(field.name, values.get(str(field.type), "x"))
        preset = () if field.name == "preset" else ("--preset", "p")
        flag = f"--{field.name.replace('_', '-')}"
        by_flag = read(*preset, flag, *([] if field.type == "bool" else [value]))
        by_environment = read(*preset, **{f"BART_ONNX_{field.name.upper()}": value})
        path.write_text(f"{field.name}: {value}\n")
        assert by_flag == by_environment == read(*preset, "--config", str(path))
        assert f"| `{flag}` |" in document, f"docs/serving.md does not explain {flag}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("port: '80'", "port in .* must be int"),
        ("port: true", "must be int"),
        ("deadline: .nan", "deadline must be above 0"),
        ("drain_delay: .inf", "drain_delay must be at least 0 and finite"),
        ("offline: 1", "must be bool"),
        ("preset: [1]", "must be tuple"),
        ("prot: 1", r"\['prot'\]"),
        ("- port", "must hold options by name"),
        ("a: [", "is not YAML"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, says):
    pytest.importorskip("yaml", reason="the serve extra is not installed: no PyYAML")
    path = tmp_path / "serve.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        read("--preset", "a", "--config", str(path))
    with pytest.raises(MissingFileError, match="cannot be read"):
        read("--preset", "a", "--config", str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "nothing to serve"),
        (("--preset", "a", "--preset", "/x/a"), "same name"),
        (("--preset", "a", "--port", "65536"), "at most 65535"),
        (("--preset", "a", "--rows", "0"), "rows must be at least 1"),
        (("--preset", "a", "--deadline", "0"), "deadline must be above 0"),
        (("--preset", "a", "--stall", "0"), "stall must be above 0"),
        (("--preset", "a", "--api-key", " "), "nobody could send it"),
        (("--preset", "a", "--long-input", "split"), "one of error, truncate"),
        (("--preset", "a", "--port", "x"), "--port must be int, found 'x'"),
    ],
)
def test_options_that_cannot_be(flags, says, capsys, monkeypatch):
    with pytest.raises(InputError, match=says):
        read(*flags)
    assert serve.main(flags) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_values_of_the_environment_are_read_strictly():
    with pytest.raises(InputTypeError, match="BART_ONNX_OFFLINE must be bool, found 'maybe'"):
        read("--preset", "a", BART_ONNX_OFFLINE="maybe")


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_keys_that_are_set_to_nothing_do_not_open_the_server(value, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("api_key: secret")
    with pytest.raises(InputTypeError, match="BART_ONNX_API_KEY must be"):
        read("--preset", "a", "--config", str(path), BART_ONNX_API_KEY=value)


def test_presets_are_served_by_the_last_part_of_their_place():
    kaggle = "kaggle://keras/bart/keras/bart_base_en/2"
    options = ServerOptions(preset=("bart_tiny_en_g2p", "hf://org/name@rev", "/a/bundle/", kaggle))
    assert list(options.names) == ["bart_tiny_en_g2p", "name", "bundle", "bart_base_en"]


def test_a_path_is_served_by_the_name_that_it_has(tmp_path, monkeypatch):
    (tmp_path / "model@2" / "inner").mkdir(parents=True)
    (tmp_path / "current").symlink_to("model@2")
    monkeypatch.chdir(tmp_path / "model@2")
    assert [served_name(path) for path in (".", "./", "inner/..", "inner")] == [
        *["model@2"] * 3,
        "inner",
    ]
    monkeypatch.chdir(tmp_path / "model@2" / "inner")
    assert served_name("..") == "model@2"
    assert served_name(str(tmp_path / "current")) == "current"


def test_help_works_without_the_extra_and_serving_says_what_to_install():
    program = (
        "import sys; sys.modules['fastapi'] = sys.modules['uvicorn'] = None\n"
        "from bart_onnx import serve; sys.exit(serve.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--drain-timeout" in done.stdout
    done = subprocess.run([*command, "--preset", "a"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "bart_onnx[cpu,serve]"' in done.stderr
    assert "Traceback" not in done.stderr
