"""What is interrupted in tests/crash_child.py: a model saved as a checkpoint of another package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crash_exports import GOLDEN
from crash_scenario import Scenario

# In GB: the tiny model's weights take three files.
_SHARD = 1e-4


class SavePreset(Scenario):
    """Weights, written one by one, and the files beside them."""

    format: str

    def __init__(self, graphs: Path | None) -> None:
        super().__init__(graphs)
        from bart_onnx.errors import ExportError
        from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor

        self.errors = (ExportError,)
        self._checkpoint = self._opened(GOLDEN / "hf_checkpoint")
        self._preprocessor = BartSeq2SeqLMPreprocessor.from_files(
            GOLDEN / "hf_checkpoint", self._checkpoint.config.max_sequence_length
        )

    def act(self, root: Path) -> None:
        from bart_onnx.builder import save_preset

        if (root / "preset").exists():
            return  # another save to this place is refused
        save_preset(
            self.format,
            root / "preset",
            self._checkpoint.config,
            self._checkpoint.weights,
            self._preprocessor,
            self._checkpoint.generation_config,
            None,
            _SHARD,
        )

    def state(self, root: Path) -> str:
        import numpy as np

        from bart_onnx.weights import weight_shapes

        if not (root / "preset").exists():
            return "old"
        saved = self._opened(root / "preset")
        assert saved.tokenizer_files, "there is no tokenizer"
        for name in weight_shapes(self._checkpoint.config):
            read = self._checkpoint.weights[name]
            np.testing.assert_array_equal(saved.weights[name](), read(), name)
        return "new"

    def leftovers(self, root: Path) -> list[str]:
        return [str(path) for path in root.iterdir() if path.name != "preset"]

    @staticmethod
    def _opened(directory: Path) -> Any:
        from exporters.progress import Progress
        from exporters.sources import open_checkpoint

        return open_checkpoint(str(directory), False, True, Progress(shown=False))


class SaveHuggingFace(SavePreset):
    """For transformers: safetensors, which Python writes."""

    format = "huggingface"


class SaveKeras(SavePreset):
    """For KerasHub: HDF5, which its own library writes."""

    format = "keras"

    @staticmethod
    def _opened(directory: Path) -> Any:
        from keras_files import without_child

        with without_child():
            return SavePreset._opened(directory)
