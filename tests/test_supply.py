"""What the package takes from others and gives away: no network unasked, pins, licences."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bart_onnx.publish import staged

ROOT = Path(__file__).resolve().parents[1]
NAME = "bart_tiny_en_g2p"
# Status of tests/no_network where a process reached further than loopback.
REACHED_OUT = 97

# What may unpack, unpickle or run what it is given, and where it stands nevertheless, and why.
DANGEROUS = {
    "pickle": (),
    "marshal": (),
    "shelve": (),
    "tarfile": (),
    "shutil.unpack_archive": (),
    "eval": (),
    "exec": (),
    "os.system": (),
    # Members are read where they lie; nothing is extracted.
    "zipfile": ("exporters/checkpoints/keras_archive.py",),
    # With weights_only=True, in a process of its own, and only where it was asked for.
    "torch.load": ("exporters/checkpoints/pickle_file.py",),
}


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """A process that can reach nothing but loopback, and has an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    paths = [str(ROOT / "tests" / "no_network"), str(ROOT)]
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    variables = {"HOME": str(home), "PYTHONPATH": os.pathsep.join(paths)}
    return {**kept, **variables, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def run(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        env=dict(environment),
        timeout=120,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("bart_onnx.generate", "--preset", NAME, "onnx"),
        ("bart_onnx.verify", str(ROOT / "models" / NAME), "--run"),
        ("bart_onnx.doctor",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_doors_ask_nobody_and_leave_nothing(
    environment: Mapping[str, str], arguments: tuple[str, ...]
) -> None:
    done = run(environment, *arguments)
    assert done.returncode == 0, done.stderr
    # onnxruntime keeps an identifier and what it is to report under the home, unless told not to.
    assert not list(Path(environment["HOME"]).iterdir())


def test_a_server_asks_nobody_and_leaves_nothing(environment: Mapping[str, str]) -> None:
    pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")
    from server_process import Running

    server = Running(environment=environment)
    try:
        assert server.ask("onnx").status_code == 200
    finally:
        status = server.end()
    assert status == 0, server.log
    assert not list(Path(environment["HOME"]).iterdir())


def test_a_hub_is_asked_only_where_a_uri_is_and_not_offline(
    environment: Mapping[str, str],
) -> None:
    pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")
    asked = ("bart_onnx.generate", "--preset", "hf://someone/bart", "onnx")
    done = run(environment, *asked)
    assert done.returncode == REACHED_OUT, done.stderr
    assert "network: socket." in done.stderr
    for offline in ((*asked, "--offline"), asked):
        variables = {} if offline != asked else {"HF_HUB_OFFLINE": "1"}
        done = run({**environment, **variables}, *offline)
        assert done.returncode == 1, done.stderr
        assert "hf://someone/bart" in done.stderr


def _sources() -> Iterator[Path]:
    for package in ("bart_onnx", "exporters"):
        yield from sorted((ROOT / package).rglob("*.py"))


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "", *(f"{node.module}.{each.name}" for each in node.names))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def test_nothing_unpacks_unpickles_or_runs_what_it_is_given() -> None:
    found: dict[str, set[str]] = {name: set() for name in DANGEROUS}
    for path in _sources():
        for name in set(_used(ast.parse(path.read_text(encoding="utf-8")))) & set(DANGEROUS):
            found[name].add(path.relative_to(ROOT).as_posix())
    assert found == {name: set(places) for name, places in DANGEROUS.items()}


def test_pins_are_hashed() -> None:
    pins = dict(_pins((ROOT / "constraints.txt").read_text()))
    locked = dict(_pins((ROOT / "requirements.lock").read_text()))
    # The reasons stand in the lock file.
    left_out = set(pins) - set(locked)
    assert left_out == {"torch"}
    assert {name: pins[name] for name in locked} == locked
    lines = (ROOT / "requirements.lock").read_text().split("\n\n")[-1]
    for block in re.split(r"\n(?=\S)", lines.strip()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}$", block), block


def _pins(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+)", line)
        if match:
            yield re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]


def test_published_files_are_nobodys_to_change(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with staged(tmp_path / "bundle") as directory:
            (directory / "tokenizer").mkdir()
            (directory / "tokenizer" / "vocab.json").write_text("{}")
    finally:
        os.umask(before)
    for path in ((tmp_path / "bundle"), *(tmp_path / "bundle").rglob("*")):
        mode = path.stat().st_mode
        assert not mode & (stat.S_IWGRP | stat.S_IWOTH), oct(mode)
        assert path.is_dir() or not mode & 0o111, oct(mode)


def test_licences_of_shipped_data_are_stated() -> None:
    told = (ROOT / "models" / "README.md").read_text()
    assert "## Licences" in told
    for data in ("models/bart_tiny_en_g2p", "tests/data"):
        assert data in told
    assert "Apache License" in (ROOT / "LICENSE").read_text()
