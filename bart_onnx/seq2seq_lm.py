"""OnnxBartSeq2SeqLM: text in, text out, as KerasHub's `BartSeq2SeqLM` does it.

It joins a runner, a preprocessor and the loop. It knows no tensor name and no file format.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bart_onnx import samplers
from bart_onnx.builder import export_bundle, export_command
from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.errors import InputError, InputTypeError, MissingFileError, PresetError
from bart_onnx.generation import Generation, Request
from bart_onnx.locate import find_bundle
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.samplers import Sampler
from bart_onnx.tokenizer import BartTokenizer

_UNSET: Any = object()

# What keras' compile takes besides, and what changes how it computes but not what.
_WITHOUT_MEANING = ("run_eagerly", "jit_compile", "steps_per_execution")


class OnnxBartSeq2SeqLM:
    """A BART that generates text. Make one with `from_preset`."""

    sampler: Sampler | None = None

    def __init__(
        self,
        runner: OrtRunner,
        preprocessor: BartSeq2SeqLMPreprocessor | None = None,
        *,
        compile: bool = True,
    ) -> None:
        self.runner = runner
        self.preprocessor = preprocessor
        if compile:
            self.compile()

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        *,
        precision: str = "fp32",
        device: str = "cpu",
        threads: int | None = None,
        preprocessor: BartSeq2SeqLMPreprocessor | None = _UNSET,
        offline: bool = False,
    ) -> OnnxBartSeq2SeqLM:
        """Open a preset's bundle; export it first if there is none and torch is installed.

        Args:
            preset: a bundle's or checkpoint's directory, `hf://org/name[@revision]`, or a
                built-in name.
            precision: the bundle's precision.
            device: where to run; "cpu".
            threads: threads within an operator; None takes what affinity and cgroup allow.
            preprocessor: one to use instead of the bundle's; with None no tokenizer file is read
                and `generate` takes arrays.
            offline: use no network and export nothing.

        Raises:
            PresetError: no preset answers to the name.
            BundleError, CheckpointError, DownloadError, ExportError, MissingPackageError,
            DeviceError: as their messages say.
        """
        name = str(preset) if isinstance(preset, Path) else preset
        bundle = find_bundle(name, precision, offline)
        if bundle is None:
            if offline:
                raise PresetError(
                    f"Preset {name!r} has no {precision} bundle here, and none is exported "
                    f"offline. Run first: {export_command(name, precision)}"
                )
            bundle = export_bundle(name, precision=precision)
        if preprocessor is _UNSET:
            preprocessor = _bundled_preprocessor(bundle)
        return cls(OrtRunner(bundle, device, threads), preprocessor)

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""
        return self.runner.config

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Any = "auto",
        *,
        weighted_metrics: Any = "auto",
        sampler: str | Mapping[str, Any] | Sampler = "top_k",
        **keras_options: Any,
    ) -> None:
        """Choose the sampler that `generate` uses, and what `fit` optimizes.

        Made by the constructor too, so that a new model draws from the 5 likeliest tokens, as
        KerasHub's does. For the likeliest token at every step: compile(sampler="greedy").

        Args:
            optimizer, loss, weighted_metrics: kept for `fit`.
            sampler: a name, a Sampler or its config; see `bart_onnx.samplers.get`. The object
                itself is used: its random numbers move on from call to call.
            keras_options: run_eagerly, jit_compile and steps_per_execution may be given; they
                change no result and mean nothing here.

        Raises:
            InputError: no sampler has that name.
            InputTypeError: no sampler at all, or another keyword.
        """
        unknown = sorted(set(keras_options) - set(_WITHOUT_MEANING))
        if unknown:
            raise InputTypeError(
                f"compile takes no {', '.join(unknown)}; it takes optimizer, loss, "
                f"weighted_metrics, sampler, and without effect {', '.join(_WITHOUT_MEANING)}."
            )
        chosen = samplers.get(sampler)
        if chosen is None:
            raise InputTypeError("sampler is None; give a name or a Sampler, for example 'greedy'.")
        self.optimizer, self.loss, self.weighted_metrics = optimizer, loss, weighted_metrics
        self.sampler = chosen

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Collection[int] | Literal["auto"] | None = "auto",
        strip_prompt: bool = False,
        *,
        long_input: Literal["truncate", "error"] | None = None,
    ) -> Any:
        """Generate for a text, for texts, or for what the preprocessor would make of them.

        Args:
            inputs: one text, as str or UTF-8 bytes; a list, tuple or array of texts;
                {"encoder_text", "decoder_text"} of either, with a prompt for each text; without
                preprocessor {"encoder_token_ids", "encoder_padding_mask", "decoder_token_ids",
                "decoder_padding_mask"}, arrays [rows, length] padded on the right; or an iterable
                of such batches (a list of lists, a generator, a dataset), each generated by
                itself.
            max_length: width of the decoder's array, counting its start tokens and the prompt;
                None means the preprocessor's `decoder_sequence_length`. Without preprocessor the
                width of `decoder_token_ids` counts alone.
            stop_token_ids: ids that end a row; "auto" means the tokenizer's end token, None to
                run to `max_length`.
            strip_prompt: leave the prompt's tokens out of what is returned.
            long_input: what becomes of a text longer than `encoder_sequence_length`: cut with a
                warning, as KerasHub cuts it, or refused; None means the preprocessor's own way.

        Returns:
            A str for a text; a list of str for a batch and for an iterable of batches. Without
            preprocessor a dict of "decoder_token_ids" in the dtype given and
            "decoder_padding_mask", bool, True up to and including the first stop token.
            With BeamSampler(return_all_beams=True) there is a list of str, best first, in place of
            each str, and beside the whole stand log-probabilities, float32 [rows, num_beams]
            ([num_beams] for one text): (texts, log_probs). Arrays become [rows, num_beams, width],
            and the dict has "log_probs".

        Raises:
            InputError, InputTypeError, InputKeyError, InputTooLongError: as their messages say;
                nothing is generated for the batch that they are about.
        """
        if self.sampler is None:
            raise InputError('There is no sampler; call compile(sampler="greedy") or another.')
        if self.preprocessor is not None:
            self._check_length(max_length)
        stops = tuple(self._stop_token_ids(stop_token_ids))
        request = Request(max_length, stops, strip_prompt, long_input)
        return Generation(self.runner, self.preprocessor, self.sampler, request).run(inputs)

    def _stop_token_ids(
        self, stop_token_ids: Collection[int] | Literal["auto"] | None
    ) -> list[int]:
        if stop_token_ids is None:
            return []
        if not isinstance(stop_token_ids, str):
            return _checked_ids(stop_token_ids)
        if stop_token_ids != "auto":
            raise InputError(
                f"stop_token_ids is {stop_token_ids!r}; give 'auto', None or a list of ids."
            )
        if self.preprocessor is None:
            raise InputError(
                'A `preprocessor` must be attached to the model if `stop_token_ids="auto"`. '
                "Attach one, or give the ids that end a row, for example stop_token_ids=(2,)."
            )
        return _checked_ids([self.preprocessor.tokenizer.end_token_id])

    def _check_length(self, max_length: int | None) -> None:
        limit = self.config.max_sequence_length
        # What is no integer the preprocessor refuses.
        if isinstance(max_length, Integral) and max_length > limit:
            raise InputError(
                f"max_length is {max_length}, but this model has {limit} positions. Give at most "
                f"{limit}."
            )


def _checked_ids(stop_token_ids: Any) -> list[int]:
    ids = np.asarray(stop_token_ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputTypeError(
            f"stop_token_ids must be 'auto', None or a list of ids, found {stop_token_ids!r}."
        )
    return [int(token_id) for token_id in ids]


def _bundled_preprocessor(bundle: Bundle) -> BartSeq2SeqLMPreprocessor:
    directory = bundle.tokenizer_directory
    if directory is None:
        raise MissingFileError(
            f"{bundle.path} has no tokenizer files. Pass preprocessor=None and generate from "
            "arrays, or pass a preprocessor of your own."
        )
    tokenizer = BartTokenizer.from_files(directory)
    longest = min(1024, bundle.config.max_sequence_length)
    return BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=longest, decoder_sequence_length=longest
    )
