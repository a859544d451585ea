"""What is interrupted in tests/crash_child.py: downloads, into the hubs' own caches."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from crash_scenario import Scenario

URI = "hf://someone/tiny-bart"
KAGGLE_URI = "kaggle://keras/bart/keras/tiny"

# Taken before anything takes its place.
_open = open


class _Download(Scenario):
    """Files from a hub that listens here; kagglehub goes by when they were written."""

    timeless = False
    kept = False  # a listing that could not be written is asked for again, and missing offline
    synced = False  # which is the hubs' own packages' business
    files: dict[str, bytes]

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        from bart_onnx.errors import BartOnnxError

        self.errors = (BartOnnxError,)
        stack = ExitStack()
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.serve(place, stack.enter_context(pytest.MonkeyPatch.context()), stack)
        self.close = stack.close

    def warm_up(self, root: Path) -> None:
        """Nothing: a connection that was open at the fork would be everybody's."""

    def serve(self, place: Path, patch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        """Have the hub offer the files, until the stack is closed."""
        raise NotImplementedError

    def check(self, directory: Path) -> None:
        """Compare what was downloaded; that is no operation of the download's."""
        for name, content in self.files.items():
            with _open(directory / name, "rb") as file:
                assert file.read() == content, f"{name} is damaged"


class Download(_Download):
    """A checkpoint from a hub, into huggingface_hub's cache."""

    def serve(self, place: Path, patch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        from loopback_hub import CHECKPOINT, NEEDED, directory, hub_for_tests

        self.files = {name: CHECKPOINT[name] for name in NEEDED}
        hub = stack.enter_context(hub_for_tests(patch, place))
        hub.add("someone/tiny-bart", directory(place / "repository", CHECKPOINT))

    def act(self, root: Path) -> None:
        from bart_onnx import hub

        os.environ["HF_HUB_CACHE"] = str(root / "hub")
        snapshot = hub.download_checkpoint(URI)
        self.check(snapshot.directory)

    def state(self, root: Path) -> str:
        from bart_onnx import hub
        from bart_onnx.errors import BartOnnxError

        os.environ["HF_HUB_CACHE"] = str(root / "hub")
        try:
            snapshot = hub.download_checkpoint(URI, offline=True)
        except BartOnnxError:
            return "old"
        for name, content in self.files.items():
            path = snapshot.directory / name
            if path.exists() or name in snapshot.files:
                assert path.read_bytes() == content, f"{name} is damaged"
        return "new" if set(snapshot.files) == set(self.files) else "old"

    def leftovers(self, root: Path) -> list[str]:
        return [str(path) for path in root.rglob("*.incomplete")]


class KaggleDownload(_Download):
    """A Keras preset from Kaggle, into kagglehub's cache."""

    def serve(self, place: Path, patch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        from loopback_hub import directory
        from loopback_kaggle import kaggle_for_tests

        self.files = {
            "config.json": b'{"registered_name": "keras_hub>BartBackbone"}',
            "tokenizer.json": b"{}",
            "assets/tokenizer/vocabulary.json": b'{"<s>": 0}',
            "assets/tokenizer/merges.txt": b"#version: 0.2\n",
            "model.weights.h5": bytes(range(256)) * 300,
        }
        kaggle = stack.enter_context(kaggle_for_tests(patch, place / "cache"))
        version = directory(place / "version", self.files)
        kaggle.variants["keras/bart/tiny"] = {1: version}

    def act(self, root: Path) -> None:
        from bart_onnx import kaggle

        os.environ["KAGGLEHUB_CACHE"] = str(root / "cache")
        found = kaggle.download(KAGGLE_URI)
        self.check(found.directory)

    def state(self, root: Path) -> str:
        from bart_onnx import kaggle
        from bart_onnx.errors import BartOnnxError

        os.environ["KAGGLEHUB_CACHE"] = str(root / "cache")
        try:
            found = kaggle.download(KAGGLE_URI, offline=True)
        except BartOnnxError:
            return "old"
        for name in ("config.json", "model.weights.h5"):
            content = (found.directory / name).read_bytes()
            assert content == self.files[name], f"{name} is damaged"
        for name, content in self.files.items():
            path = found.directory / name
            # Offline, a file that is not marked as whole is not taken.
            marker = found.directory.parent / ".complete" / "1" / f"{name}.complete"
            assert not marker.exists() or path.read_bytes() == content, f"{name} is damaged"
        return "new"

    def leftovers(self, root: Path) -> list[str]:
        """Archives, parts, and whatever else kagglehub would not have left."""
        variant = root / "cache" / "models" / "keras" / "bart" / "keras" / "tiny"
        expected = {variant / "1" / name for name in self.files}
        expected |= {variant / ".complete" / "1" / f"{name}.complete" for name in self.files}
        found = (path for path in root.rglob("*") if path.is_file())
        return [str(path) for path in found if path not in expected]
