"""TensorRT engines of the shipped preset, built without a GPU; and what is refused.

Nothing here is run on a GPU.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorrt_builds import builder_of, spec_of

from bart_onnx import export as door
from bart_onnx.bundle import Bundle
from bart_onnx.engines import GRAPHS, Engines, Limits, Platform, bundle_digest, engines_directory
from bart_onnx.errors import DeviceError, ExportError, InputError, MissingPackageError
from bart_onnx.graphs import DECODER_STEP, ENCODER
from bart_onnx.runners import tensorrt_library
from bart_onnx.sealed import file_sha256
from exporters import tensorrt
from exporters.engines import build
from exporters.engines.profiles import profiles
from exporters.progress import Progress
from exporters.tensorrt import EngineRequest, build_engines, parsed

PRESET = "bart_tiny_en_g2p"
QUIET = Progress(shown=False)


def test_profiles_are_the_limits(rtx, bundles):
    bundle = bundles("fp32")
    limits = Limits(max_batch=6, max_source=40, max_tokens=30)
    spec = spec_of(bundle, DECODER_STEP)
    made = builder_of(rtx)
    network = parsed(bundle, spec, limits, rtx, made.builder, made.said)
    wanted = profiles(spec, limits)
    config = build.configured(rtx, made.builder, network, wanted, "sm89")
    assert config.num_optimization_profiles == 2
    assert not config.get_flag(rtx.module.BuilderFlag.TF32)
    assert config.get_compute_capability(0) == rtx.module.ComputeCapability.SM89
    for shapes, tokens in zip(wanted, (1, 17), strict=True):
        profile = build.made_profile(made.builder, network, shapes)
        found = {
            name: [tuple(shape) for shape in profile.get_shape(name)] for name in network.inputs
        }
        assert found["decoder_token_ids"] == [(1, 1), (6, tokens), (6, tokens)]
        assert found["source_lengths"] == [(1,), (6,), (6,)]
        assert found["self_key_0"] == [(each, 4, 64, 32) for each in (1, 6, 6)]
        assert found["cross_key_1"] == [(1, 4, 1, 32), (6, 4, 40, 32), (6, 4, 40, 32)]
    (shapes,) = profiles(spec_of(bundle, ENCODER), Limits(1, 40, 30))
    assert shapes["encoder_token_ids"] == ((1, 1), (1, 40), (1, 40))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_built_for_three_cards(rtx, bundles, precision, home, capsys):
    """Of the shipped bundle; in fp32 through the door."""
    bundle, cards = bundles(precision), ["sm80", "SM89", "sm120"]
    if precision == "fp32":
        asked = ["--preset", PRESET, "--tensorrt", "--max-batch", "2", "--quiet"]
        assert door.main([*asked, "--compute-capability", *cards]) == 0
        place, *directories = capsys.readouterr().out.splitlines()
        assert place == str(bundle.path)
    else:
        directories = build_engines(bundle, EngineRequest(cards, max_batch=2), QUIET)
    found = [Engines.open(Path(directory)) for directory in directories]
    version = rtx.version
    expected = [Platform("tensorrt_rtx", version, card.lower()) for card in cards]
    assert [engines.platform for engines in found] == expected
    for engines in found:
        assert engines.path.parent == engines_directory(bundle)
        assert engines.limits == Limits(2, 64, 64)
        assert engines.manifest["precision"] == precision
        assert engines.manifest["bundle"]["digest"] == bundle_digest(bundle)
        assert engines.manifest["bundle"]["manifest_sha256"] == file_sha256(
            bundle.path / "manifest.json"
        )
        assert set(engines.manifest["profiles"]) == set(GRAPHS)
        for graph in GRAPHS:
            assert engines.engine(graph).stat().st_size > 1_000_000
        engines.check_fits(bundle, engines.platform)
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_engines_are_built_once(rtx, bundles, home, monkeypatch):
    bundle = bundles("fp32")
    built = []

    def instead(*arguments):
        built.append(arguments)
        return memoryview(b"an engine")

    monkeypatch.setattr(tensorrt, "serialized", instead)
    request = EngineRequest(["sm89"], max_batch=2)
    (first,) = build_engines(bundle, request, QUIET)
    assert build_engines(bundle, request, QUIET) == [first]
    assert len(built) == 2
    for other in (
        EngineRequest(["sm80"], max_batch=2),
        EngineRequest(["sm89"], max_batch=3),
        EngineRequest(["sm89"], max_batch=2, max_tokens=20),
        EngineRequest(["sm89"], max_batch=2, max_source=20),
    ):
        (directory,) = build_engines(bundle, other, QUIET)
        assert directory != first
    assert len(built) == 10
    (first / "encoder.engine").write_bytes(b"an engime")
    with pytest.raises(ValueError, match="has sha256"):
        build_engines(bundle, request, QUIET)


def test_a_build_that_fails_publishes_nothing(rtx, bundles, home, monkeypatch):
    def fail(*arguments):
        raise ExportError("no kernel")

    monkeypatch.setattr(tensorrt, "serialized", fail)
    with pytest.raises(ExportError, match="no kernel"):
        build_engines(bundles("fp32"), EngineRequest(["sm89"]), QUIET)
    assert list(engines_directory(bundles("fp32")).iterdir()) == []


def test_a_builder_that_gives_none_is_told(rtx, bundles):
    bundle = bundles("fp32")
    spec, limits = spec_of(bundle, ENCODER), Limits.of(bundle.config)
    made = builder_of(rtx)
    network = parsed(bundle, spec, limits, rtx, made.builder, made.said)
    config = build.configured(rtx, made.builder, network, [], "sm89")
    with pytest.raises(ExportError, match=r"tensorrt_rtx .* built no engine: .*profile"):
        build.serialized(rtx, made.builder, network, config, made.said, None)


class _Remembering:
    """What full TensorRT has besides: a cache of timings, here of what was given and built."""

    def __init__(self):
        self.known = None

    def create_timing_cache(self, known):
        return known

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.known = cache

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.known + b" and more")


def test_timings_are_kept_for_the_next_build_and_replaced_whole(tmp_path):
    builder = SimpleNamespace(build_serialized_network=lambda *_: b"an engine")
    network, path = SimpleNamespace(definition=None), tmp_path / "tensorrt" / "sm90.timing"
    for known in (b"", b" and more"):
        config = _Remembering()
        engine = build.serialized(None, builder, network, config, None, path)
        assert bytes(engine) == b"an engine"
        assert config.known == known
    assert path.read_bytes() == b" and more and more"
    assert list(path.parent.iterdir()) == [path]


def no_gpu():
    raise DeviceError("There is no NVIDIA driver here.")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--compute-capability", "sm90"], "An H100 or H200 .* needs full TensorRT"),
        (["--compute-capability", "sm99"], "it builds for sm75, sm80, sm86, sm89, sm120"),
        ([], "--compute-capability current .* no NVIDIA driver .* without one"),
        (["--compute-capability", "sm89", "--precision", "int8"], "int8 ones are for CPUs"),
        (["--compute-capability", "sm89", "--max-source", "65"], "--max-source 65 .* 64"),
        (["--compute-capability", "sm89", "--max-tokens", "0"], "--max-tokens 0 .* 1 to 64"),
        (["--compute-capability", "sm89", "--max-batch", "-1"], "--max-batch -1"),
    ],
)
def test_what_cannot_be_had_is_said(rtx, home, arguments, says, capsys, monkeypatch):
    monkeypatch.setattr(build, "compute_capability_here", no_gpu)
    assert door.main(["--preset", PRESET, "--tensorrt", *arguments]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert re.search(says, said.err), said.err


def test_limits_without_tensorrt_are_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        door.main(["--preset", PRESET, "--max-batch", "2"])
    assert stopped.value.code == 2
    assert "--max-batch is of --tensorrt" in capsys.readouterr().err


def test_the_command_is_said_where_no_tensorrt_is_installed(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt_library.importlib, "import_module", absent)
    tensorrt_library.tensorrt_library.cache_clear()
    with pytest.raises(MissingPackageError, match=r'pip install "bart_onnx\[tensorrt\]"'):
        tensorrt_library.tensorrt_library()


def test_full_tensorrt_is_taken_first(monkeypatch):
    full = SimpleNamespace(__version__="11.4.0")
    monkeypatch.setattr(
        tensorrt_library.importlib,
        "import_module",
        lambda name: {"tensorrt": full}.get(name) or pytest.fail(name),
    )
    tensorrt_library.tensorrt_library.cache_clear()
    found = tensorrt_library.tensorrt_library()
    tensorrt_library.tensorrt_library.cache_clear()
    assert (found.flavour, found.version, found.compute_capabilities) == ("tensorrt", "11.4.0", ())
    monkeypatch.setattr(build, "compute_capability_here", lambda: "sm90")
    assert build.checked_capability(found, "sm90") == "sm90"
    assert build.checked_capability(found, "current") == "sm90"
    with pytest.raises(InputError, match="builds only for the GPU that is here"):
        build.checked_capability(found, "sm89")


def test_the_manifest_names_its_files(rtx, bundles, home, monkeypatch):
    monkeypatch.setattr(tensorrt, "serialized", lambda *_: memoryview(b"an engine"))
    (directory,) = build_engines(bundles("fp32"), EngineRequest(["sm89"]), QUIET)
    manifest = json.loads((directory / "manifest.json").read_text())
    assert set(manifest["files"]) == {"encoder.engine", "decoder_step.engine"}
    assert manifest["files"]["encoder.engine"]["size"] == 9
    assert manifest["bundle"]["name"] == PRESET
