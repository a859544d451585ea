"""A directory of engines: for which bundle, card and TensorRT it is, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
from written_engines import HERE, LIMITS, written

from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.engines import (
    FORMAT_VERSION,
    Engines,
    Limits,
    engines_directory,
    find_engines,
    key,
)
from bart_onnx.errors import (
    BundleDamagedError,
    BundleFormatError,
    DeviceError,
    InputError,
    MissingFileError,
)
from bart_onnx.sealed import file_sha256
from bart_onnx.store import shipped_path


@pytest.fixture
def bundle(home):
    return Bundle.open(shipped_path("bart_tiny_en_g2p"))


def resealed(directory, change):
    """The manifest after `change`, sealed again, as a hand that meant to would."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    (directory / "manifest.sha256").write_text(f"{file_sha256(path)}  manifest.json\n")


def test_engines_are_found_and_opened(bundle):
    directory = written(bundle)
    found = find_engines(bundle, HERE)
    assert (found.path, found.limits, found.platform) == (directory, LIMITS, HERE)
    assert found.engine("encoder").read_bytes() == b"encoder"


def test_they_lie_beside_their_bundle_and_those_of_a_shipped_one_in_the_store(bundle, tmp_path):
    store = tmp_path / "home" / "bundles" / "bart_tiny_en_g2p"
    assert engines_directory(bundle) == store / "fp32.engines"
    moved = dataclasses.replace(bundle, path=tmp_path / "mine")
    assert engines_directory(moved) == tmp_path / "mine.engines"


def test_the_key_changes_with_each_of_its_parts(bundle):
    other = dict(bundle.manifest["files"])
    other["weights.bin"] = {**other["weights.bin"], "sha256": "0"}
    changed = dataclasses.replace(bundle, manifest={**bundle.manifest, "files": other})
    keys = [
        key(bundle, LIMITS, HERE),
        key(changed, LIMITS, HERE),
        *(
            key(bundle, dataclasses.replace(LIMITS, **{field: 7}), HERE)
            for field in ("max_batch", "max_source", "max_tokens")
        ),
        *(
            key(bundle, LIMITS, dataclasses.replace(HERE, **{field: "x"}))
            for field in ("library", "version", "compute_capability")
        ),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0].startswith("sm89-tensorrt_rtx-1.7.1-")
    assert key(bundle, LIMITS, HERE) == keys[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("compute_capability", "sm120"), ("version", "1.8"), ("library", "tensorrt")],
)
def test_engines_of_another_platform_are_not_loaded(bundle, field, value):
    directory = written(bundle, dataclasses.replace(HERE, **{field: value}))
    with pytest.raises(DeviceError, match=rf"for sm89 with tensorrt_rtx 1\.7\.1: .*{value}.*Build"):
        find_engines(bundle, HERE)
    with pytest.raises(DeviceError, match="only on what they were built for"):
        Engines.open(directory).check_fits(bundle, HERE)


def test_engines_of_other_weights_are_not_loaded(bundle):
    directory = written(bundle)
    resealed(directory, lambda manifest: manifest["bundle"].update(digest="0" * 64))
    with pytest.raises(DeviceError, match="other graphs or weights"):
        Engines.open(directory).check_fits(bundle, HERE)
    with pytest.raises(DeviceError, match="--preset bart_tiny_en_g2p --precision fp32 --tensorrt"):
        find_engines(bundle, HERE)


def test_engines_of_another_version_of_this_package_are_passed_over(bundle):
    written(bundle, limits=Limits(16, 64, 32), format_version=FORMAT_VERSION + 1)
    with pytest.raises(DeviceError, match=r"engines for another version of bart_onnx \(sm89"):
        find_engines(bundle, HERE)
    written(bundle)
    assert find_engines(bundle, HERE).limits == LIMITS


def test_the_command_names_the_bundle_where_it_is_no_preset(bundle, tmp_path):
    moved = dataclasses.replace(bundle, path=tmp_path / "my bundle")
    with pytest.raises(DeviceError, match=r"--preset '/.*/my bundle' --precision fp32 --tensorrt"):
        find_engines(moved, HERE)


def test_where_there_are_none_the_command_is_said(bundle):
    with pytest.raises(DeviceError, match=r"there are none\. Build them on this machine: python"):
        find_engines(bundle, HERE)


def test_of_several_the_largest_are_taken(bundle):
    for batch in (2, 16, 4):
        written(bundle, limits=Limits(batch, 64, 32))
    assert find_engines(bundle, HERE).limits.max_batch == 16


def test_damage_is_found(bundle):
    directory = written(bundle)
    (directory / "encoder.engine").write_bytes(b"encodes")
    with pytest.raises(BundleDamagedError, match=r"encoder\.engine has sha256"):
        find_engines(bundle, HERE)
    assert find_engines(bundle, HERE, verify=False).limits == LIMITS
    (directory / "encoder.engine").write_bytes(b"")
    with pytest.raises(BundleDamagedError, match="has 0 bytes"):
        Engines.open(directory)
    (directory / "encoder.engine").unlink()
    with pytest.raises(MissingFileError, match=r"encoder\.engine is missing"):
        Engines.open(directory)
    (directory / "manifest.json").write_text("{}")
    with pytest.raises(BundleDamagedError, match=r"but manifest\.sha256 says"):
        Engines.open(directory)
    (directory / "manifest.sha256").unlink()
    with pytest.raises(MissingFileError, match=r"no manifest\.sha256"):
        Engines.open(directory)


def without_seal(directory):
    (directory / "manifest.sha256").unlink()


def without_sense(directory):
    (directory / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "error"), [(without_seal, MissingFileError), (without_sense, BundleDamagedError)]
)
def test_damaged_engines_do_not_stand_in_the_way_of_those_that_fit(bundle, damage, error):
    damaged = written(bundle, limits=Limits(16, 64, 32))
    damage(damaged)
    with pytest.raises(error, match=damaged.name):
        find_engines(bundle, HERE)
    fitting = written(bundle)
    assert find_engines(bundle, HERE).path == fitting


def outside(manifest):
    manifest["files"]["../weights.bin"] = manifest["files"].pop("encoder.engine")


def without_engine(manifest):
    del manifest["files"]["encoder.engine"]


def odd_limits(manifest):
    manifest["limits"]["max_bath"] = 1


@pytest.mark.parametrize("change", [outside, without_engine, odd_limits])
def test_a_manifest_that_is_none_is_refused(bundle, change):
    directory = written(bundle)
    resealed(directory, change)
    with pytest.raises(BundleDamagedError, match="is no manifest"):
        Engines.open(directory)


def test_another_format_is_refused(bundle):
    directory = written(bundle, format_version=FORMAT_VERSION + 1)
    with pytest.raises(BundleFormatError, match="build the engines again"):
        Engines.open(directory)


def test_limits_are_the_models_where_none_are_asked():
    config = BartConfig(50, 1, 2, 8, 16, max_sequence_length=1024)
    assert Limits.of(config) == Limits(32, 1024, 1024)
    assert Limits.of(config, 4, 100, 65).capacity == 128
    assert Limits.of(config, max_tokens=3).query_lengths == (1, 17)
    for wrong in ({"max_batch": 0}, {"max_source": 1025}, {"max_tokens": 1025}):
        with pytest.raises(InputError, match=r"--max-\w+ \d+ must be from 1 to"):
            Limits.of(config, **wrong)
