"""Every shape of the vulnerabilities that Keras, torch and ONNX had: refused, and at what cost.

All are opened in one process as their users open them; it may neither grow much nor write anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hostile_archives import ARCHIVES
from hostile_bundles import BUNDLES
from hostile_checkpoints import CHECKPOINTS
from hostile_hdf5 import WEIGHT_FILES
from hostile_presets import PRESETS
from keras_files import PRESET, copy_preset

from bart_onnx.store import shipped_path
from exporters.checkpoints.hugging_face import read

TESTS = Path(__file__).resolve().parents[1]
MEGABYTES = 200

# What was done to others -> the shapes of it that are tried here.
VULNERABILITIES: Mapping[str, tuple[str, ...]] = {
    "CVE-2024-3660: Lambda in a Keras config": ("class", "class in a list", "preprocessor's class"),
    "CVE-2025-1550: modules and functions named by config.json": (
        "module",
        "module beside",
        "registered elsewhere",
        "other model",
        "other architecture",
    ),
    "CVE-2025-8747: functions of Keras itself, called by config.json": ("keras function",),
    "CVE-2025-9905: .h5 files, for which safe mode did not count": ("h5 with a lambda",),
    "CVE-2025-9906: a config that turns safe mode off": ("keras switch", "keras custom objects"),
    "CVE-2025-12058: vocabularies read from anywhere": (
        "vocabulary elsewhere",
        "vocabulary from afar",
    ),
    "CVE-2025-12060, CVE-2024-5187: archives that unpack above": (
        "tar slip",
        "zip slip",
        "zip of a root",
        "zip linked",
    ),
    "CVE-2026-0897: shapes of more than there is": (
        "shape without data",
        "shape without data, configured",
        "chunks without data",
        "no shape",
        "large number",
        "config of terabytes",
        "header of terabytes",
        "header of gigabytes",
        "onnx sparse bomb",
    ),
    "CVE-2026-1669: HDF5 data of other files": (
        "external link",
        "external group",
        "external storage",
        "virtual dataset",
        "soft link",
    ),
    "what inflates": ("compressed", "compressed, configured", "zip deflated"),
    "CVE-2025-32434, CVE-2026-24747: pickles": (
        "pickle",
        "pickle as safetensors",
        "pickle in npz",
    ),
    "CVE-2022-25882, CVE-2024-27318, CVE-2025-51480: ONNX data outside the folder": (
        "onnx data above",
        "onnx data anywhere",
        "onnx data below",
        "onnx data by backslash",
        "onnx data hidden by dots",
        "onnx data is the folder",
        "onnx data in a branch",
        "onnx data in a constant",
        "manifest above",
    ),
    "CVE-2026-27489, CVE-2026-28500, CVE-2026-34445: ONNX data by links, keys and places": (
        "onnx data by symlink",
        "onnx data by hard link",
        "onnx data linked whole",
        "onnx data nowhere",
        "onnx data in a folder",
        "onnx offset outside",
        "onnx length outside",
        "onnx offset negative",
        "onnx offset overflowing",
        "onnx unknown key",
    ),
    "ONNX operators of others": (
        "onnx unknown domain",
        "onnx unknown import",
        "onnx opset",
        "onnx functions",
        "onnx is none",
    ),
    "links out of a checkpoint": ("linked config", "linked weights", "linked directory"),
    "code of a checkpoint's author": ("auto_map", "trust_remote_code", "custom_pipelines"),
    "generation configs that name code": ("generation by code", "generation by a function"),
    "JSON bombs": (
        "large json",
        "deep json",
        "header deep",
        "tokenizer deep",
        "tokenizer nested",
        "tokenizer of lists",
        "tokenizer of merges",
        "tokenizer large",
        "merges large",
        "manifest large",
        "manifest deep",
        "manifest of objects",
    ),
    "texts that are none": ("tokenizer of half characters",),
    "tokenizers with a program": ("tokenizer with a program",),
}
OF_KERAS = {**WEIGHT_FILES, **PRESETS, **ARCHIVES}
SHAPES = {**OF_KERAS, **BUNDLES, **CHECKPOINTS}
TRIED = [(group, name) for group, names in VULNERABILITIES.items() for name in names]


def _place(name: str, directory: Path) -> Path:
    """What the shape's builder begins with."""
    if name in OF_KERAS:
        return copy_preset(directory)
    if name in BUNDLES:
        shipped = shipped_path("bart_tiny_en_g2p")
        assert shipped is not None
        return Path(shutil.copytree(shipped, directory))
    return directory


def _everything(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process said that opened them all, the honest ones first."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured through /proc, which is not there")
    root = tmp_path_factory.mktemp("hostile")
    temporary = tmp_path_factory.mktemp("temporary")
    paths = {"honest bundle": str(shipped_path("bart_tiny_en_g2p")), "honest": str(PRESET)}
    for number, (_, name) in enumerate(TRIED):
        build = SHAPES[name][0]
        paths[name] = str(build(_place(name, root / str(number))))
    before = _everything(root)
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, str(TESTS / "hostile_child.py")],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary), "HOME": str(temporary)},
        timeout=300,
        cwd=temporary,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert {found[name]["error"] for name in ("honest", "honest bundle")} == {"none"}
    assert found["control"]["megabytes"] > 0.9 * found["control"]["taken"]
    assert _everything(root) == before
    assert not list(temporary.iterdir())
    return found


@pytest.mark.parametrize(("group", "name"), TRIED)
def test_refused(outcomes: dict[str, dict[str, Any]], group: str, name: str) -> None:
    outcome = outcomes[name]
    assert outcome.get("ours"), outcome
    assert re.search(SHAPES[name][1], outcome["message"]), outcome["message"]
    assert len(outcome["message"]) < 2000
    assert outcome["megabytes"] < MEGABYTES


def test_every_shape_is_of_a_vulnerability() -> None:
    named = {name for _, name in TRIED}
    assert len(named) == len(TRIED)
    assert named <= set(SHAPES)
    assert {*BUNDLES, *CHECKPOINTS} <= named


def test_code_in_a_generation_config_is_left_behind(tmp_path: Path) -> None:
    directory = Path(
        shutil.copytree(TESTS / "data" / "keras_golden" / "hf_checkpoint", tmp_path / "checkpoint")
    )
    told = {
        "num_beams": 3,
        "custom_generate": "someone/evil",
        "trust_remote_code": True,
        "logits_processor": "os.system",
        "prefix_allowed_tokens_fn": "os.system",
        "compile_config": {"backend": "os.system"},
        "assistant_model": "someone/evil",
    }
    (directory / "generation_config.json").write_text(json.dumps(told))
    assert dict(read(directory, source="a test").generation_config) == {"num_beams": 3}


def test_a_half_character_is_no_name_of_a_token(tmp_path: Path) -> None:
    from bart_onnx.errors import InputError
    from bart_onnx.json_objects import parse_object

    with pytest.raises(InputError, match="surrogates not allowed"):
        parse_object(b'{"a": ["\\udc00"]}')
    assert parse_object(rb'{"\ud83d\ude00": "\\ud800"}') == {"\N{GRINNING FACE}": r"\ud800"}
