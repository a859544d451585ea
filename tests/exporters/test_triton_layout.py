"""`export --layout triton`: what it writes; tests/scale_out starts a Triton on it."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import subprocess
import sys
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


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_model_that_is_there_is_not_written_over(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(repository, tmp_path / "models")
    (copy / NAME / "config.pbtxt").write_text("mine")
    shutil.rmtree(copy / f"{NAME}_stream")
    before = contents(copy)
    assert run("--layout", "triton", "--output", copy) == 1
    assert "already has something in it" in capsys.readouterr().err
    assert contents(copy) == before, "one of the two was published"
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize("lost", [[], [NAME], [f"{NAME}_stream"]])
def test_the_same_again_finishes_what_a_kill_left(
    repository: Path, tmp_path: Path, lost: list[str]
) -> None:
    copy = shutil.copytree(repository, tmp_path / "models")
    before = {path.relative_to(copy): data for path, data in contents(copy).items()}
    for name in lost:
        shutil.rmtree(copy / name)
    assert run("--layout", "triton", "--output", copy) == 0
    assert {path.relative_to(copy): data for path, data in contents(copy).items()} == before


def test_a_damaged_model_is_not_taken_for_done(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(repository, tmp_path / "models")
    with (copy / f"{NAME}_stream" / "1" / "bundle" / "weights.bin").open("r+b") as file:
        file.write(b"damaged")
    assert run("--layout", "triton", "--output", copy) == 1
    assert f"{NAME}_stream already has something in it" in capsys.readouterr().err


KILLED = """
import os, shutil, sys
shutil.copyfile = lambda *given: os.kill(os.getpid(), 9)
from bart_onnx import export
export.main(["--preset", "bart_tiny_en_g2p", "--layout", "triton", "--output", sys.argv[1]])
"""


def test_a_kill_leaves_nothing_in_the_repository(repository: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, str(models)], check=False)
    assert done.returncode == -9
    assert list(models.iterdir()) == [], "Triton takes what is hidden for models too"
    assert [path.name for path in tmp_path.iterdir() if path != models] == [".models.unfinished"]
    assert run("--layout", "triton", "--output", models) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_the_second_that_cannot_be_named_takes_the_first_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if target == tmp_path / "models" / NAME:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    shipped = shipped_path(NAME)
    assert shipped is not None
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(ExportError, match="Nothing was published"):
        write_models(Bundle.open(shipped), NAME, tmp_path / "models")
    assert [path.name for path in tmp_path.rglob("*")] == ["models"]


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
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(
        ExportError,
        match=r"The disk is full: [\d,]+ bytes are free, and room for [\d,]+ more files",
    ):
        write_models(Bundle.open(shipped), NAME, tmp_path / "models")
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
