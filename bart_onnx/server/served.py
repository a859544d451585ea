"""Served models: each preset opened, with a scheduler of its own. It knows no HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bart_onnx.errors import BartOnnxError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.server.aligner import Aligner
from bart_onnx.server.asking import Asking
from bart_onnx.server.limits import Limits
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.rehearsal import rehearse
from bart_onnx.server.scheduler import Scheduler
from bart_onnx.server.stage import Stage
from bart_onnx.text_generator import TextGenerator

# Two, so that a text without blanks, which takes a second, does not stop the others.
_PREPARING = 2


def preparing() -> Stage:
    """Where texts that are not short are brought to ids."""
    return Stage("token ids", "send shorter texts", _PREPARING)


@dataclass(frozen=True)
class ServedModel:
    """A model and who decodes with it.

    Attributes:
        name: what clients call it.
        preparing: where its texts are prepared; models that are served together share it.
        asking: who knows what requests want of its decoding.
        aligner: who tells what its texts looked at.
    """

    name: str
    lm: TextGenerator
    scheduler: Scheduler
    preparing: Stage = field(default_factory=preparing)
    asking: Asking = field(init=False)
    aligner: Aligner = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asking", Asking(self.lm))
        object.__setattr__(self, "aligner", Aligner(self.lm))

    @property
    def preprocessor(self) -> BartSeq2SeqLMPreprocessor:
        """From text to ids and back."""
        assert self.lm.preprocessor is not None
        return self.lm.preprocessor


def opened(options: ServerOptions) -> dict[str, ServedModel]:
    """The models to serve, by name, rehearsed.

    Raises:
        GoldenError: one answers here otherwise than where it was made.
        BartOnnxError: as `OnnxBartSeq2SeqLM.from_preset`.
    """
    # A tokenizer that asks threads of its own waits for each of them while the engine computes: two
    # words then take 3.6 ms on one core, and 0.1 ms so.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    models: dict[str, ServedModel] = {}
    shared = preparing()
    limits = Limits(
        cache_tokens=options.cache_tokens,
        rows=options.rows,
        waiting=options.waiting,
        batching=options.batching,
    )
    try:
        for name, preset in options.names.items():
            lm = OnnxBartSeq2SeqLM.from_preset(
                preset,
                precision=options.precision,
                device=options.device,
                threads=options.threads,
                offline=options.offline,
            )
            runner: Any = lm.runner  # a scheduler says it where rows cannot join its states
            models[name] = ServedModel(name, lm, Scheduler(runner, limits), shared)
            rehearse(lm, models[name].scheduler, options.cache_tokens)
    except BartOnnxError:
        close(models)
        raise
    return models


def close(models: Mapping[str, ServedModel]) -> None:
    """End their schedulers; what is under way is cancelled."""
    for model in models.values():
        model.preparing.close()
        model.scheduler.close()
        model.aligner.close()
