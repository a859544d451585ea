#!/usr/bin/env python3
"""One engine in a process of its own, for scripts/benchmark.py, which starts it.

    python scripts/benchmark_worker.py ENGINE

It answers each JSON line on standard input with one on standard output:

    {"do": "prepare", "checkpoint": DIRECTORY, "model": DIRECTORY}   converts, where that is needed
    {"do": "load", "model": DIRECTORY, "threads": N}
    {"do": "generate", "ids": [[...], ...], "beams": N, "tokens": N}

It runs in each engine's own environment, so it knows no other module of this repository.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

# What CT2's converter reads from config.json and transformers 5 no longer writes there: the values
# of every BART that was published.
LEFT_OUT = {
    "normalize_before": False,
    "add_final_layer_norm": False,
    "normalize_embedding": True,
    "add_bias_logits": False,
    "static_position_embeddings": False,
    "extra_pos_embeddings": 2,
}

Ids = list[list[int]]


class Engine(Protocol):
    """A model, opened."""

    def generate(self, ids: Ids, beams: int, tokens: int) -> list[int]:
        """How many tokens each row was given; asked for are exactly `tokens`."""


class Ours:
    """bart_onnx."""

    def __init__(self, model: str, threads: int) -> None:
        from bart_onnx import OnnxBartSeq2SeqLM

        self._lm = OnnxBartSeq2SeqLM.from_preset(
            model, preprocessor=None, threads=threads, offline=True, precision=precision(model)
        )

    def generate(self, ids: Ids, beams: int, tokens: int) -> list[int]:
        found = self._lm.generate(
            {"encoder_token_ids": ids, "encoder_padding_mask": [[1] * len(row) for row in ids]},
            num_beams=beams,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            no_repeat_ngram_size=0,
            length_penalty=1.0,
            early_stopping=False,
            forced_bos_token_id=None,
            forced_eos_token_id=None,
        )
        return [int(count) - 1 for count in found["decoder_padding_mask"].sum(axis=1)]


class CTranslate2:
    """CTranslate2, which takes tokens by name."""

    def __init__(self, model: str, threads: int) -> None:
        import ctranslate2

        self._translator = ctranslate2.Translator(
            model, device="cpu", intra_threads=threads, inter_threads=1, compute_type="default"
        )
        self._names = json.loads((Path(model) / "shared_vocabulary.json").read_text())

    def generate(self, ids: Ids, beams: int, tokens: int) -> list[int]:
        results = self._translator.translate_batch(
            [[self._names[token] for token in row] for row in ids],
            beam_size=beams,
            max_decoding_length=tokens,
            min_decoding_length=tokens,
        )
        return [len(result.hypotheses[0]) for result in results]


class Torch:
    """A transformers model, or one that has its `generate`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def opened(cls, model: str, threads: int, compiled: bool) -> Torch:
        import torch
        from transformers import BartForConditionalGeneration

        torch.set_num_threads(threads)
        found = BartForConditionalGeneration.from_pretrained(model, attn_implementation="sdpa")
        found.eval()
        if compiled:
            found.forward = torch.compile(found.forward, dynamic=True)
        return cls(found)

    @classmethod
    def optimum(cls, model: str, threads: int) -> Torch:
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForSeq2SeqLM

        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return cls(ORTModelForSeq2SeqLM.from_pretrained(model, session_options=options))

    def generate(self, ids: Ids, beams: int, tokens: int) -> list[int]:
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            num_beams=beams,
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            decoder_start_token_id=2,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
        )
        # generate() fills what a config leaves open from the checkpoint's own.
        self._model.generation_config = config
        input_ids = torch.tensor(ids)
        with torch.inference_mode():
            found = self._model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=config,
            )
        return [int(found.shape[1]) - 1] * len(ids)


OPENERS: dict[str, Callable[[str, int], Engine]] = {
    "bart_onnx": Ours,
    "ctranslate2-fp32": CTranslate2,
    "ctranslate2-int8": CTranslate2,
    "transformers": lambda model, threads: Torch.opened(model, threads, compiled=False),
    "transformers-compiled": lambda model, threads: Torch.opened(model, threads, compiled=True),
    "optimum-onnx": Torch.optimum,
}


def precision(model: str) -> str:
    """What our bundle says it computes in."""
    found: str = json.loads((Path(model) / "manifest.json").read_text())["precision"]
    return found


def prepare(engine: str, checkpoint: str, model: str) -> None:
    """Convert a checkpoint into what the engine reads; nothing where it is there already."""
    target = Path(model)
    if target.exists():
        return
    unfinished = target.with_name(f"{target.name}.unfinished")
    if engine.startswith("ctranslate2"):
        from ctranslate2.converters import TransformersConverter

        quantization = None if engine.endswith("fp32") else "int8"
        with_config = as_version_4(Path(checkpoint), target.with_name(f"{target.name}.checkpoint"))
        converter = TransformersConverter(str(with_config))
        converter.convert(str(unfinished), quantization=quantization, force=True)
    elif engine == "optimum-onnx":
        from optimum.onnxruntime import ORTModelForSeq2SeqLM

        exported = ORTModelForSeq2SeqLM.from_pretrained(checkpoint, export=True)
        exported.save_pretrained(unfinished)
    else:
        target.symlink_to(Path(checkpoint).resolve())
        return
    unfinished.rename(target)


def as_version_4(checkpoint: Path, directory: Path) -> Path:
    """The checkpoint with a config.json as transformers 4 would have written it."""
    directory.mkdir(exist_ok=True)
    for path in checkpoint.resolve().iterdir():
        link = directory / path.name
        if path.name != "config.json" and not link.is_symlink():
            link.symlink_to(path)
    config = json.loads((checkpoint / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**LEFT_OUT, **config}))
    return directory


def generate(engine: Engine, ids: Ids, beams: int, tokens: int) -> dict[str, Any]:
    """One generation, timed; wall and, of all threads together, what the cores gave."""
    started, cpu_started = time.perf_counter(), time.process_time()
    counts = engine.generate(ids, beams, tokens)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    if set(counts) != {tokens}:
        raise RuntimeError(f"{tokens} tokens were asked for, and {counts} came")
    return {"wall": wall, "cpu": cpu, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory that this process has held at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def answers(name: str, answer: Callable[[dict[str, Any]], None]) -> None:
    engine: Engine | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        do = asked.pop("do")
        if do == "prepare":
            prepare(name, asked["checkpoint"], asked["model"])
            answer({})
        elif do == "load":
            started = time.perf_counter()
            engine = OPENERS[name](asked["model"], asked["threads"])
            answer({"wall": time.perf_counter() - started})
        else:
            assert engine is not None, "load first"
            answer(generate(engine, **asked))


def main() -> int:
    # Libraries print; what they print must not come between the answers.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=replies, flush=True)

    try:
        answers(sys.argv[1], answer)
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
