"""`export --layout triton`: what it writes; tests/scale_out starts a Triton on it."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from bart_onnx import export
from bart_onnx.bundle import Bundle
from bart_onnx.errors import ExportError
from bart_onnx.store import shipped_path
from exporters.triton_layout import write_models

NAME = "bart_tiny_en_g2p"
CONFIG = """\
backend: "python"
max_batch_size: 0
input [ { name: "text_input" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
model_transaction_policy { decoupled: %s }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


def run(*flags: object) -> int:
    return export.main(["--preset", NAME, "--offline", "--quiet", *map(str, flags)])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("triton") / "models"
    assert run("--layout", "triton", "--output", directory) == 0
    return directory


def test_two_models_over_one_bundle(repository: Path) -> None:
    assert {path.name for path in repository.iterdir()} == {NAME, f"{NAME}_stream"}
    assert len(list(repository.rglob("manifest.json"))) == 1
    bundle = Bundle.open(repository / f"{NAME}_stream" / "1" / "bundle")
    shipped = shipped_path(NAME)
    assert shipped is not None
    assert bundle.manifest == Bundle.open(shipped).manifest


def test_what_their_configurations_say(repository: Path) -> None:
    plain = (repository / NAME / "config.pbtxt").read_text()
    parameter = 'parameters { key: "model" value { string_value: "bart_tiny_en_g2p_stream" } }\n'
    assert plain == CONFIG % "false" + parameter
    decoupled = (repository / f"{NAME}_stream" / "config.pbtxt").read_text()
    parameter = 'parameters { key: "precision" value { string_value: "fp32" } }\n'
    assert decoupled == CONFIG % "true" + parameter


def test_their_code_imports_what_there_is(repository: Path) -> None:
    pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
    for path in repository.glob("*/1/model.py"):
        tree = ast.parse(path.read_text())
        (node,) = tree.body
        assert isinstance(node, ast.ImportFrom)
        namespace: dict[str, type] = {}
        exec(compile(tree, str(path), "exec"), namespace)
        found = namespace["TritonPythonModel"]
        assert {"initialize", "execute", "finalize"} <= set(vars(found))


def test_a_model_that_is_there_is_not_written_over(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    assert run("--layout", "triton", "--output", repository) == 1
    assert "already has something in it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_another_model_is_added_to_a_repository(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    shipped = shipped_path(NAME)
    assert shipped is not None
    assert write_models(Bundle.open(shipped), 'a "b"', copy)[0] == copy / 'a "b"'
    assert len(list(copy.iterdir())) == 4
    assert 'string_value: "a \\"b\\"_stream"' in (copy / 'a "b"' / "config.pbtxt").read_text()


def test_a_disk_that_fails_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    shipped = shipped_path(NAME)
    assert shipped is not None
    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(ExportError, match="The disk is full"):
        write_models(Bundle.open(shipped), NAME, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--layout", "triton"), "needs the model repository"),
        (("--layout", "triton", "--output", "x", "--tensorrt"), "not with --layout triton"),
        (("--layout", "hf"), "invalid choice"),
    ],
)
def test_usage(flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*flags)
    assert ended.value.code == 2
    assert re.search(says, capsys.readouterr().err)


def test_no_torch_is_needed_where_there_is_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bart_onnx.builder._NEEDED", ("a_package_that_nobody_has",))
    assert run("--layout", "triton", "--output", tmp_path / "models") == 0
    assert run("--layout", "triton", "--output", tmp_path / "other", "--precision", "int8") == 1
    assert not (tmp_path / "other").exists()
