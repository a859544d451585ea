"""scripts/make_random_checkpoint.py writes what transformers and safetensors read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_random_checkpoint.py"

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")


def make(output: Path, *options: str, shape: str = "tiny") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), shape, str(output), *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def read(directory: Path) -> dict[str, NDArray[np.generic]]:
    tensors: dict[str, NDArray[np.generic]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= safetensors_numpy.load_file(path)
    return tensors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("random") / "tiny"
    made = make(output)
    assert made.returncode == 0, made.stderr
    return output


def test_values_are_what_the_name_says(checkpoint: Path) -> None:
    tensors = read(checkpoint)
    embedding = tensors["model.shared.weight"]
    assert embedding.dtype == np.float32
    assert embedding.std() == pytest.approx(0.02, rel=0.02)
    for name, values in tensors.items():
        if "norm" in name and name.endswith(".weight"):
            assert np.all(values == 1), name
        elif name.endswith("bias"):
            assert np.all(values == 0), name
        else:
            assert values.std() == pytest.approx(0.02, rel=0.1), name


def test_shards_hold_the_same_values(checkpoint: Path, tmp_path: Path) -> None:
    made = make(tmp_path / "sharded", "--shards", "3")
    assert made.returncode == 0, made.stderr
    whole, sharded = read(checkpoint), read(tmp_path / "sharded")
    assert whole.keys() == sharded.keys()
    assert all(np.array_equal(whole[name], sharded[name]) for name in whole)
    index = json.loads((tmp_path / "sharded/model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "sharded").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files
    assert len(files) == 3
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in whole.values())


def test_float16_rounds_the_same_values(checkpoint: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "half", "--dtype", "float16").returncode == 0
    whole, half = read(checkpoint), read(tmp_path / "half")
    assert all(np.array_equal(whole[name].astype(np.float16), half[name]) for name in whole)


def test_the_seed_decides(checkpoint: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again").returncode == 0
    assert make(tmp_path / "other", "--seed", "1").returncode == 0
    first = (checkpoint / "model.safetensors").read_bytes()
    assert (tmp_path / "again/model.safetensors").read_bytes() == first
    assert (tmp_path / "other/model.safetensors").read_bytes() != first


def test_tokenizer_is_copied(checkpoint: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "copy", "--tokenizer", str(checkpoint), "--seed", "1").returncode == 0
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "copy" / name).read_bytes() == (checkpoint / name).read_bytes()
    refused = make(tmp_path / "none", "--tokenizer", str(tmp_path))
    assert refused.returncode == 1
    assert "holds no vocab.json" in refused.stderr
    assert not (tmp_path / "none").exists()


def test_a_directory_with_files_is_refused(checkpoint: Path) -> None:
    before = (checkpoint / "model.safetensors").stat().st_mtime_ns
    refused = make(checkpoint)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == before


def test_the_large_vocabulary_has_its_size(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import make_random_checkpoint as script
    finally:
        sys.path.remove(str(SCRIPT.parent))
    script.write_tokenizer(tmp_path, script.SHAPES["large"].tokenizer_size, None)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(50265))
    assert [vocabulary[token] for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert vocabulary["<mask>"] == 50264
    bpe = tokenizers.models.BPE.from_file(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    text = "naïve café, 日本語 🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_transformers_loads_and_generates(checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model, report = transformers.BartForConditionalGeneration.from_pretrained(
        checkpoint, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.BartTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer("Hello world", return_tensors="pt")
    assert tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True) == "Hello world"
    with torch.no_grad():
        ids = model.generate(**inputs)
    assert ids.shape[1] <= 24
