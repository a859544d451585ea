"""The wheel holds both packages whole, and nothing else; what it asks for is what is promised."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bart_onnx", "exporters")
SHIPPED = "bart_tiny_en_g2p"
EXTRAS = {"cpu", "gpu", "export", "tensorrt", "hub", "serve", "ray", "test"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools would take what an older build left in the tree."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed; it comes with the extra [test]")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in (*PACKAGES, "models", "tests", "scripts"):
        ignore = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(ROOT / package, source / package, ignore=ignore)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--quiet", "--wheel-dir", str(target), str(source)]
    built = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_every_module_and_both_markers_are_in_the_wheel(names: list[str]) -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    missing = (modules | {f"{package}/py.typed" for package in PACKAGES}) - set(names)
    assert not missing, f"not in the wheel (is the package listed in pyproject.toml?): {missing}"


def test_the_graphs_that_move_rows_are_in_the_wheel(names: list[str]) -> None:
    graphs = {"bart_onnx/runners/move_rows.onnx", "bart_onnx/runners/put_rows.onnx"}
    assert graphs <= set(names)


def test_the_page_of_the_server_is_in_the_wheel(names: list[str]) -> None:
    files = {path.name for path in (ROOT / "bart_onnx" / "server" / "page").iterdir()}
    assert {f"bart_onnx/server/page/{name}" for name in files} <= set(names)


def test_nothing_else_is_in_the_wheel(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    strangers = {top for top in tops if not top.endswith(".dist-info")} - set(PACKAGES)
    assert not strangers
    assert any(re.fullmatch(r"[^/]+\.dist-info/licenses/LICENSE", name) for name in names)


def test_the_shipped_preset_is_in_the_wheel(names: list[str]) -> None:
    directory = ROOT / "models" / SHIPPED
    files = {
        f"bart_onnx/shipped/{path.relative_to(directory.parent).as_posix()}"
        for path in directory.rglob("*")
        if path.is_file()
    }
    assert f"bart_onnx/shipped/{SHIPPED}/manifest.json" in files
    assert {name for name in names if name.startswith("bart_onnx/shipped/")} == files


def test_the_wheel_runs_the_first_block_of_the_readme_offline(wheel: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    constraints = ["-c", ROOT / "constraints.txt"]
    subprocess.run([*install, *constraints, f"{wheel}[cpu]"], check=True)
    environment = {"HOME": str(tmp_path), "http_proxy": "http://127.0.0.1:9", "PATH": ""}
    environment["https_proxy"] = environment["http_proxy"]
    done = subprocess.run(
        [python, "-c", block[1]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


def test_the_core_asks_for_numpy_and_tokenizers_only(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])
    core = {requirement for requirement in requirements if "extra ==" not in requirement}
    assert {re.split(r"[^\w-]", requirement)[0] for requirement in core} == {"numpy", "tokenizers"}


def test_the_extras_have_their_names(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert metadata["Requires-Python"] == ">=3.11"
