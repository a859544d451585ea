"""`python -m bart_onnx.verify`: whatever is not as it was sealed is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_engines import written

from bart_onnx import generate, verify
from bart_onnx.bundle import Bundle
from bart_onnx.errors import BundleError
from bart_onnx.publish import seal
from bart_onnx.sealed import MANIFEST, SEAL
from bart_onnx.store import bundle_path, shipped_path
from bart_onnx.verification import faults

PRESET = "bart_tiny_en_g2p"


@pytest.fixture
def bundle(home, shipped_copy):
    return shipped_copy


@pytest.fixture
def engine(bundle):
    """A directory of engines that are a few bytes, beside the bundle."""
    return written(Bundle.open(bundle))


def flipped(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_what_is_whole(bundle, engine, capsys):
    assert verify.main([str(bundle)]) == 0
    assert capsys.readouterr() == (f"{bundle}: whole\n", "")


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_flipped_bit_in_any_file_is_named(bundle, engine, capsys, place):
    looked_at = 0
    for path in sorted(path for path in (*bundle.rglob("*"), *engine.iterdir()) if path.is_file()):
        content = path.read_bytes()
        positions = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}
        flipped(path, positions[place])
        assert verify.main([str(bundle)]) == 1, path
        said = capsys.readouterr()
        assert str(path) in said.err or (path.name == SEAL and SEAL in said.err), said
        assert f"{bundle}: faults: 1" in said.out
        path.write_bytes(content)
        looked_at += 1
    assert looked_at > 15
    assert verify.main([str(bundle)]) == 0


@pytest.mark.parametrize("name", [MANIFEST, SEAL, "golden.json", "config.json"])
@settings(max_examples=25, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_of_the_files_that_protect_the_others(tmp_path_factory, name, place, bit):
    directory = tmp_path_factory.mktemp("flipped")
    for file in (MANIFEST, SEAL, "golden.json", "config.json"):
        shutil.copy(shipped_path(PRESET) / file, directory)
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest.pop("files")
    seal(directory, manifest, {})
    path = directory / name
    flipped(path, int(place * path.stat().st_size), bit)
    found = list(faults(directory))
    assert any(name in line for line in found), found


def test_everything_that_is_wrong_is_told_at_once(bundle, capsys):
    flipped(bundle / "weights.bin", 100)
    flipped(bundle / "encoder.onnx", 7)
    (bundle / "config.json").unlink()
    with (bundle / "tokenizer" / "vocab.json").open("ab") as file:
        file.write(b" ")
    assert verify.main([str(bundle)]) == 1
    said = capsys.readouterr()
    for name in ("weights.bin has sha256", "encoder.onnx has sha256", "config.json is missing"):
        assert name in said.err
    assert "vocab.json has" in said.err
    assert "faults: 4" in said.out


@pytest.mark.parametrize("name", [MANIFEST, SEAL, "weights.bin"])
def test_a_missing_file_is_named(bundle, capsys, name):
    (bundle / name).unlink()
    assert verify.main([str(bundle)]) == 1
    assert name in capsys.readouterr().err


def test_what_the_manifest_does_not_list_is_named(bundle, capsys):
    (bundle / "notes.txt").write_text("mine")
    (bundle / "empty").mkdir()
    os.mkfifo(bundle / "tokenizer" / "pipe")
    assert verify.main([str(bundle)]) == 1
    said = capsys.readouterr().err
    for name in ("notes.txt is not in", "empty is a directory", "pipe is not in"):
        assert name in said


def test_a_link_is_named_even_to_the_same_bytes(bundle, tmp_path, capsys):
    (bundle / "weights.bin").rename(tmp_path / "elsewhere")
    (bundle / "weights.bin").symlink_to(tmp_path / "elsewhere")
    assert verify.main([str(bundle)]) == 1
    assert f"weights.bin is a link, to {tmp_path / 'elsewhere'}" in capsys.readouterr().err


@pytest.fixture
def refused(monkeypatch):
    """A name whose files nobody may open: root, who runs tests, may open all."""
    names, opened = [], Path.open

    def refusing(path, *arguments, **options):
        if path.name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    return names


@pytest.mark.parametrize("name", [MANIFEST, SEAL, "config.json", "weights.bin", "vocab.json"])
def test_a_file_that_nobody_may_read(bundle, capsys, refused, name):
    refused.append(name)
    with pytest.raises(BundleError, match=rf"{name} cannot be read: Permission.*its permissions"):
        Bundle.open(bundle)
    assert generate.main(["onnx", "--preset", str(bundle)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert f"{name} cannot be read" in said
    assert verify.main([str(bundle)]) == 1
    said = capsys.readouterr()
    assert f"{name} cannot be read" in said.err
    assert "faults: 1" in said.out


def test_a_place_that_nobody_may_look_into(bundle, capsys, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    assert verify.main([str(bundle)]) == 1
    assert "cannot be read: Permission denied; check its permissions" in capsys.readouterr().err


def test_weights_that_cannot_be_read_are_one_fault(bundle, capsys, refused, monkeypatch):
    def memmap(*given, **options):
        raise PermissionError(13, "Permission denied")

    refused.append("weights.bin")
    monkeypatch.setattr(np, "memmap", memmap)
    assert verify.main([str(bundle)]) == 1
    assert "faults: 1" in capsys.readouterr().out


def test_a_directory_that_cannot_be_listed_hides_no_other_fault(bundle, capsys, monkeypatch):
    listed = os.scandir

    def refusing(path):
        if str(path).endswith("tokenizer"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    flipped(bundle / "weights.bin", 100)
    monkeypatch.setattr(os, "scandir", refusing)
    assert verify.main([str(bundle)]) == 1
    said = capsys.readouterr()
    assert "weights.bin has sha256" in said.err
    assert f"{bundle / 'tokenizer'} cannot be read: Permission denied" in said.err
    assert "faults: 2" in said.out


@pytest.mark.parametrize(
    "flags", [["--device", "cpu"], ["--threads", "1"], ["--precision", "fp32", "--run"]]
)
def test_flags_that_would_be_ignored_are_refused(bundle, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        verify.main([str(bundle), *flags])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_links_of_a_hub_cache_are_where_it_keeps_its_files(bundle, tmp_path, monkeypatch, capsys):
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "blobs").mkdir(parents=True)
    shared = tmp_path / "hub" / "blobs" / "00"
    shared.mkdir(parents=True)
    for number, path in enumerate(path for path in bundle.rglob("*") if path.is_file()):
        blob, link = repository / "blobs" / str(number), snapshot / path.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        # Some lie in the store that all repositories share, to which a blob is then a link.
        shutil.copy(path, shared / str(number) if number % 2 else blob)
        if number % 2:
            blob.symlink_to(shared / str(number))
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert verify.main(["hf://someone/tiny"]) == 0
    (snapshot / "stranger").symlink_to("../../blobs/0")
    assert verify.main(["hf://someone/tiny"]) == 1
    assert "stranger is a link" in capsys.readouterr().err


def test_names_are_found_without_network(bundle, capsys):
    assert verify.main([PRESET]) == 0
    assert str(shipped_path(PRESET)) in capsys.readouterr().out
    assert verify.main([PRESET, "--precision", "int8"]) == 1
    assert "no int8 bundle on this machine" in capsys.readouterr().err
    stored = bundle_path(PRESET, "int8")
    shutil.copytree(bundle, stored)
    assert verify.main([PRESET, "--precision", "int8"]) == 0
    assert str(stored) in capsys.readouterr().out
    for unknown in ("no_such_preset", "hf://someone/never-downloaded", "bart_base_en"):
        assert verify.main([unknown]) == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_an_engine_that_another_version_wrote_is_named(bundle, engine, capsys):
    manifest = json.loads((engine / MANIFEST).read_text())
    manifest["format_version"] = 99
    manifest.pop("files")
    seal(engine, manifest, {})
    assert verify.main([str(bundle)]) == 1
    assert "of format 99" in capsys.readouterr().err


def test_engines_that_are_being_built_are_no_engines(bundle, engine, capsys):
    engine.rename(engine.with_name(".sm89.unfinished"))
    assert verify.main([str(bundle)]) == 0


def test_weights_that_are_not_finite_are_named(bundle, capsys):
    opened = Bundle.open(bundle)
    for name, value in (("decoder.position_embedding", np.nan), ("token_embedding", np.inf)):
        entry = opened.manifest["tensors"][name]
        with (bundle / "weights.bin").open("r+b") as file:
            file.seek(entry["offset"])
            file.write(np.float32(value).tobytes())
    manifest = dict(opened.manifest)
    manifest.pop("files")
    seal(bundle, manifest, {})
    assert verify.main([str(bundle)]) == 1
    said = capsys.readouterr().err
    assert "1 values of weight 'decoder.position_embedding' are not finite" in said
    assert "1 values of weight 'token_embedding' are not finite" in said


def test_the_command_line(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "bart_onnx.verify", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run().returncode == 2
    assert run(PRESET, "--no-such-flag").returncode == 2
    helped = run("--help")
    assert (helped.returncode, "bart_large_en_cnn" in helped.stdout) == (0, True)
    empty = run(tmp_path)
    assert (empty.returncode, "Traceback" in empty.stderr) == (1, False)
    assert f"{tmp_path} is no bundle" in empty.stderr
