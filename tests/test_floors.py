"""Imports point downward, and the runtime stays free of torch: read from the source with `ast`.

Every import counts, wherever it stands: in a function, under TYPE_CHECKING, or as a literal name
given to `importlib.import_module`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bart_onnx", "exporters")
DOOR = 7
READERS = "exporters.checkpoints"

# A module may import from its own floor and from those below. An exact name wins over a pattern.
FLOORS = {
    "bart_onnx.errors": 0,
    "bart_onnx.version": 0,
    "bart_onnx.config": 1,
    "bart_onnx.presets": 1,
    "bart_onnx.weights": 1,
    "bart_onnx.file_places": 1,
    "bart_onnx.json_objects": 1,
    "bart_onnx.bpe": 2,
    "bart_onnx.devices": 2,
    "bart_onnx.durable": 2,
    "bart_onnx.exit_status": 2,
    "bart_onnx.graph_files": 2,
    "bart_onnx.graphs": 2,
    "bart_onnx.keras_objects": 2,
    "bart_onnx.locks": 2,
    "bart_onnx.long_inputs": 2,
    "bart_onnx.packing": 2,
    "bart_onnx.samplers*": 2,
    "bart_onnx.sentences": 2,
    "bart_onnx.text_inputs": 2,
    "bart_onnx.training_options": 2,
    "bart_onnx.triton_contract": 2,
    "bart_onnx.tokenizer": 3,
    "bart_onnx.tokenizer_files": 2,
    "bart_onnx.tokenizer_options": 2,
    "bart_onnx.bundle": 3,
    "bart_onnx.decoding*": 3,
    "bart_onnx.hub*": 3,
    "bart_onnx.initializer": 3,
    "bart_onnx.kaggle": 3,
    "bart_onnx.locate": 3,
    "bart_onnx.preprocessor": 3,
    "bart_onnx.preprocessor_files": 3,
    "bart_onnx.publish": 3,
    "bart_onnx.sealed": 3,
    "bart_onnx.store": 3,
    "bart_onnx.engines": 4,
    "bart_onnx.runners*": 4,
    "bart_onnx.documents": 3,
    "bart_onnx.results": 3,
    "bart_onnx.stop_strings": 3,
    "bart_onnx.streaming": 2,
    "bart_onnx.answers": 5,
    "bart_onnx.backbone": 5,
    "bart_onnx.configured": 5,
    "bart_onnx.reporting": 5,
    "bart_onnx.runnable_weights": 5,
    "bart_onnx.scoring_calls": 5,
    "bart_onnx.text_generator": 5,
    "bart_onnx.builder": 5,
    "bart_onnx.cached_calls": 5,
    "bart_onnx.fitting": 5,
    "bart_onnx.models": 6,
    "bart_onnx.generation": 5,
    "bart_onnx.golden": 3,
    "bart_onnx.golden_replay": 5,
    "bart_onnx.verification": 5,
    "bart_onnx.seq2seq_lm": 5,
    "exporters*": 5,
    # The front: it shows users what lies below, so nothing below may import from it.
    "bart_onnx": 6,
    "bart_onnx.bulk": 6,
    "bart_onnx.bulk_flags": 6,
    "bart_onnx.findings": 6,
    "bart_onnx.input_lines": 2,
    "bart_onnx.option_flags": 6,
    "bart_onnx.output_lines": 6,
    "bart_onnx.pipeline_arguments": 6,
    "bart_onnx.pipelines": 6,
    "bart_onnx.benchmarking*": 6,
    "bart_onnx.progress": 2,
    "bart_onnx.server*": 6,
    "bart_onnx.bench": DOOR,
    "bart_onnx.doctor": DOOR,
    "bart_onnx.export": DOOR,
    "bart_onnx.generate": DOOR,
    "bart_onnx.ray_data": DOOR,
    "bart_onnx.ray_serve": DOOR,
    "bart_onnx.serve": DOOR,
    "bart_onnx.verify": DOOR,
}

FRAMEWORKS = ("torch", "transformers", "keras", "keras_hub", "tensorflow", "jax", "onnx")
FRAMEWORKS += ("onnxscript", "onnx_ir")
NO_DRAWERS = ("utils", "common", "helpers", "base", "misc")


@dataclass(frozen=True)
class Ban:
    """What modules of a pattern may not import, and which of them may inside a function."""

    importers: str
    targets: tuple[str, ...]
    reason: str
    lazily: tuple[str, ...] = ()


BANS = (
    Ban("bart_onnx*", FRAMEWORKS, "the runtime works where it is not installed"),
    Ban(
        "bart_onnx*",
        ("exporters",),
        "only the export doors reach the builders, inside a function",
        lazily=("bart_onnx.builder", "bart_onnx.export"),
    ),
    Ban(
        "exporters.checkpoints*",
        FRAMEWORKS,
        "a hostile file is refused before torch is loaded",
        lazily=("exporters.checkpoints.pickle_file",),
    ),
    Ban("exporters", FRAMEWORKS, "exporters.checkpoints is imported through it without torch"),
    Ban("*", ("scripts", "tests"), "the packages do not know them"),
)

# What may stand at the top of a file of the runtime, the standard library apart; the first match.
TOP_LEVEL_PACKAGES = {
    "bart_onnx.server*": (
        "numpy",
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "prometheus_client",
    ),
    "bart_onnx*": ("numpy", "onnxruntime", "tokenizers"),
}


@dataclass(frozen=True)
class Import:
    """One imported module: where it is asked for, and whether only when a function is called."""

    line: int
    target: str
    lazy: bool
    relative: bool = False


def violations(sources: Mapping[str, str]) -> list[str]:
    """What is wrong with these files, path (from the root) to source; one line for each offence."""
    modules = {module_name(path): path for path in sources}
    found = []
    for module, path in sorted(modules.items()):
        for part in Path(path).parts:
            if part.removesuffix(".py") in NO_DRAWERS:
                found.append(f"{path}:1: a file named {part} is a drawer; name what is in it")
        if floor_of(module) is None:
            found.append(f"{path}:1: {module} stands on no floor; list it in FLOORS")
            continue
        for item in imports_of(ast.parse(sources[path], path), modules):
            found += (f"{path}:{item.line}: {offence}" for offence in _offences(module, item))
    return found


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def floor_of(module: str) -> int | None:
    """The floor that FLOORS gives a module, None where it is not listed."""
    if module in FLOORS:
        return FLOORS[module]
    return next((floor for name, floor in FLOORS.items() if fnmatchcase(module, name)), None)


def imports_of(tree: ast.AST, modules: Mapping[str, str], lazy: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            for alias in node.names:
                full = f"{source}.{alias.name}"
                is_module = full in modules or full in FLOORS
                target = full if is_module else source
                yield Import(node.lineno, target, lazy, relative=node.level > 0)
        elif isinstance(node, ast.Call) and (name := _dynamic_import(node)):
            yield Import(node.lineno, name, lazy)
        yield from imports_of(node, modules, inside)


def _dynamic_import(call: ast.Call) -> str | None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in ("import_module", "__import__") or not call.args:
        return None
    argument = call.args[0]
    is_name = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    return argument.value if is_name else None


def _offences(module: str, item: Import) -> Iterator[str]:
    if item.relative:
        yield f"{module} has a relative import; write the whole name"
        return
    if item.target.split(".")[0] in PACKAGES:
        yield from _upward(module, item.target)
    yield from _banned(module, item)
    yield from _not_installed(module, item)
    builder = item.target.startswith("exporters.") and not _within(item.target, READERS)
    if _within(module, READERS) and builder:
        yield f"{module} imports {item.target}; the readers know only each other"


def _upward(module: str, target: str) -> Iterator[str]:
    here, there = floor_of(module), floor_of(target)
    assert here is not None
    if there is None:
        yield f"{module} imports {target}, which stands on no floor; list it in FLOORS"
    elif there == DOOR:
        yield f"{module} imports {target}; nobody imports a door"
    elif there > here:
        yield f"{module} (floor {here}) imports {target} (floor {there}); import only downward"


def _banned(module: str, item: Import) -> Iterator[str]:
    for ban in BANS:
        allowed = item.lazy and module in ban.lazily
        banned = any(_within(item.target, target) for target in ban.targets)
        if banned and not allowed and fnmatchcase(module, ban.importers):
            yield f"{module} imports {item.target}; {ban.reason}"


def _not_installed(module: str, item: Import) -> Iterator[str]:
    package = item.target.split(".")[0]
    known = (*PACKAGES, *FRAMEWORKS, "scripts", "tests")
    if item.lazy or package in sys.stdlib_module_names or package in known:
        return
    for importers, allowed in TOP_LEVEL_PACKAGES.items():
        if fnmatchcase(module, importers):
            if package not in allowed:
                yield f"{module} imports {package} at its top; allowed there: {', '.join(allowed)}"
            return


def _within(target: str, package: str) -> bool:
    return target == package or target.startswith(f"{package}.")


def test_the_tree_keeps_its_floors() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert len(sources) > 10, f"the packages were not found under {ROOT}"
    found = violations(sources)
    assert not found, "\n" + "\n".join(found)


def test_made_up_tree_without_offence() -> None:
    sources = {
        "bart_onnx/__init__.py": "from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM",
        "bart_onnx/errors.py": "import json",
        "bart_onnx/graphs.py": "from bart_onnx import errors\nimport bart_onnx.config",
        "bart_onnx/builder.py": "def export():\n    from exporters.export import export",
        "bart_onnx/samplers/__init__.py": "from bart_onnx.samplers.top_k import TopK",
        "bart_onnx/export.py": "def main():\n    import bart_onnx.builder\n    import filelock",
        "exporters/bart.py": "import torch\nfrom bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM",
        "exporters/checkpoints/keras.py": "import h5py\nimport exporters.checkpoints.checkpoint",
        "exporters/checkpoints/pickle_file.py": "def child():\n    import torch",
    }
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("path", "source", "offender"),
    [
        ("bart_onnx/graphs.py", "import bart_onnx.bundle", "bart_onnx.bundle (floor 3)"),
        ("bart_onnx/graphs.py", "from bart_onnx.runners.ort import X", "bart_onnx.runners.ort (fl"),
        ("bart_onnx/graphs.py", "from bart_onnx import bundle", "bart_onnx.bundle (floor 3)"),
        ("bart_onnx/graphs.py", "from bart_onnx import Bundle", "bart_onnx (floor 6)"),
        ("bart_onnx/graphs.py", "def f():\n  import bart_onnx.bundle", "graphs.py:2: "),
        ("bart_onnx/samplers/a.py", "class A:\n  import bart_onnx.bundle", "samplers.a (floor 2)"),
        ("bart_onnx/config.py", "if TYPE_CHECKING:\n  import bart_onnx.graphs", "config.py:2: "),
        ("bart_onnx/graphs.py", "import bart_onnx.nowhere", "bart_onnx.nowhere, which stands"),
        ("bart_onnx/nowhere.py", "", "bart_onnx.nowhere stands on no floor"),
        ("bart_onnx/serve.py", "import bart_onnx.export", "nobody imports a door"),
        ("exporters/export.py", "import bart_onnx.verify", "nobody imports a door"),
        ("exporters/export.py", "import bart_onnx.server.app", "bart_onnx.server.app (floor 6)"),
        ("bart_onnx/bundle.py", "import onnx", "bart_onnx.bundle imports onnx;"),
        ("bart_onnx/bundle.py", "from torch.nn import Module", "imports torch.nn;"),
        ("bart_onnx/export.py", "def f():\n  import transformers", "imports transformers;"),
        ("bart_onnx/export.py", "f = lambda: __import__('keras')", "imports keras;"),
        ("bart_onnx/doctor.py", "import importlib as i\ni.import_module('torch')", "py:2: "),
        ("bart_onnx/builder.py", "import exporters.export", "only the export doors"),
        ("bart_onnx/builder.py", "if TYPE_CHECKING:\n  import exporters.bart", "builder.py:2: "),
        ("bart_onnx/generate.py", "def f():\n  import exporters.export", "only the export doors"),
        ("bart_onnx/store.py", "import filelock", "imports filelock at its top"),
        ("exporters/checkpoints/keras.py", "def f():\n  import torch", "checkpoints.keras imports"),
        ("exporters/checkpoints/pickle_file.py", "import torch", "checkpoints.pickle_file imports"),
        ("exporters/checkpoints/keras.py", "import exporters.bart", "readers know only each other"),
        ("exporters/__init__.py", "import torch", "exporters imports torch"),
        ("exporters/bart.py", "from tests import goldens", "exporters.bart imports tests"),
        ("exporters/bart.py", "from . import packing", "has a relative import"),
        ("bart_onnx/config.py", "from .errors import InputError", "has a relative import"),
        ("exporters/rewrite/utils.py", "", "a file named utils.py is a drawer"),
        ("exporters/common/fp16.py", "", "a file named common is a drawer"),
    ],
)
def test_made_up_offence_is_named(path: str, source: str, offender: str) -> None:
    found = violations({path: source})
    assert len(found) == 1, found
    assert found[0].startswith(f"{path}:")
    assert offender in found[0]
