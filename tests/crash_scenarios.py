"""What is interrupted in tests/crash_child.py, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crash_downloads import Download, KaggleDownload
from crash_engines import Engines
from crash_exports import Export, ExportHalf, TritonLayout
from crash_saves import SaveHuggingFace, SaveKeras
from crash_scenario import Scenario
from crash_training import Checkpoint, Fit

SCENARIOS: dict[str, Callable[[Path | None], Scenario]] = {
    "export": Export,
    "export-fp16": ExportHalf,
    "engines": Engines,
    "triton": TritonLayout,
    "save-huggingface": SaveHuggingFace,
    "save-keras": SaveKeras,
    "checkpoint": Checkpoint,
    "fit": Fit,
    "download": Download,
    "kaggle": KaggleDownload,
}
