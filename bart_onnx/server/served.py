"""Served models: each preset opened, with a scheduler of its own. It knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bart_onnx.answers import Model
from bart_onnx.configured import ConfiguredCall
from bart_onnx.errors import BartOnnxError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.server.engine import Limits
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.requests import Request
from bart_onnx.server.scheduler import Scheduler
from bart_onnx.text_generator import TextGenerator

_WARM_UP = "warm up"


@dataclass(frozen=True)
class ServedModel:
    """A model and who decodes with it.

    Attributes:
        name: what clients call it.
    """

    name: str
    lm: TextGenerator
    scheduler: Scheduler

    @property
    def preprocessor(self) -> BartSeq2SeqLMPreprocessor:
        """From text to ids and back."""
        assert self.lm.preprocessor is not None
        return self.lm.preprocessor

    def warm_up(self) -> None:
        """Decode one text, so that the first caller does not wait for what is made once.

        Raises:
            BartOnnxError: as decoding does.
        """
        model = Model(self.lm.runner, self.lm.preprocessor)
        call = ConfiguredCall(model.runner, model.preprocessor, self.lm.by_config())
        plan = call.plan(call.from_texts([_WARM_UP]))
        self.scheduler.submit(Request(plan)).result()


def opened(options: ServerOptions) -> dict[str, ServedModel]:
    """The models to serve, by name, warmed up.

    Raises:
        BartOnnxError: as `OnnxBartSeq2SeqLM.from_preset`.
    """
    models: dict[str, ServedModel] = {}
    limits = Limits(cache_tokens=options.cache_tokens, rows=options.rows, waiting=options.waiting)
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
            models[name] = ServedModel(name, lm, Scheduler(runner, limits))
            models[name].warm_up()
    except BartOnnxError:
        close(models)
        raise
    return models


def close(models: Mapping[str, ServedModel]) -> None:
    """End their schedulers; what is under way is cancelled."""
    for model in models.values():
        model.scheduler.close()
