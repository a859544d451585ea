"""OnnxBartSeq2SeqLM: text in, text out, as KerasHub's `BartSeq2SeqLM` does it.

It joins a runner, a preprocessor and the loop. It knows no tensor name and no file format.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bart_onnx import samplers
from bart_onnx.builder import export_bundle, export_command
from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.decoding.arrays import checked_prompts, merge_results
from bart_onnx.decoding.loop import generate
from bart_onnx.errors import InputError, InputTypeError, MissingFileError, PresetError
from bart_onnx.locate import find_bundle
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.samplers import Sampler
from bart_onnx.tokenizer import BartTokenizer

_UNSET: Any = object()


class OnnxBartSeq2SeqLM:
    """A BART that generates text. Make one with `from_preset`."""

    def __init__(
        self, runner: OrtRunner, preprocessor: BartSeq2SeqLMPreprocessor | None = None
    ) -> None:
        self.runner = runner
        self.preprocessor = preprocessor
        self.sampler: Sampler = samplers.get("greedy")

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

    def compile(self, *, sampler: str | Sampler = "greedy") -> None:
        """Choose the sampler that `generate` uses.

        Raises:
            InputError: no sampler has that name.
        """
        self.sampler = samplers.get(sampler)

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Collection[int] | Literal["auto"] | None = "auto",
        long_input: Literal["truncate", "error"] = "truncate",
    ) -> Any:
        """Generate for a text, a list of texts, or what the preprocessor would make of them.

        Args:
            inputs: a str; a list of str; {"encoder_text", "decoder_text"}; or, without
                preprocessor, {"encoder_token_ids", "encoder_padding_mask", "decoder_token_ids",
                "decoder_padding_mask"}, arrays [rows, length] padded on the right.
            max_length: width of the decoder's array, counting its start tokens and the prompt;
                None means the preprocessor's `decoder_sequence_length`.
            stop_token_ids: ids that end a row; "auto" means the tokenizer's end token, None to
                run to `max_length`.
            long_input: what becomes of a text longer than `encoder_sequence_length`: cut with a
                warning, as KerasHub cuts it, or refused.

        Returns:
            A str for a str, a list of str for a list; without preprocessor a dict of
            "decoder_token_ids" in the dtype given and "decoder_padding_mask", bool, True up to
            and including the first stop token.

        Raises:
            InputError, InputTypeError, InputTooLongError: as their messages say; nothing is
                generated.
        """
        stops = self._stop_token_ids(stop_token_ids)
        if self.preprocessor is None:
            prompts = checked_prompts(inputs, self.config)
            return merge_results(inputs, generate(self.runner, prompts, self.sampler, stops))
        self._check_lengths(max_length)
        arrays = self.preprocessor.generate_preprocess(
            inputs, sequence_length=max_length, long_input=long_input
        )
        scalar = np.ndim(arrays["decoder_token_ids"]) == 1
        batch = {name: np.atleast_2d(array) for name, array in arrays.items()}
        if not len(batch["decoder_token_ids"]):
            return []
        prompts = checked_prompts(batch, self.config)
        results = merge_results(batch, generate(self.runner, prompts, self.sampler, stops))
        texts: list[str] = self.preprocessor.generate_postprocess(results)
        return texts[0] if scalar else texts

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

    def _check_lengths(self, max_length: int | None) -> None:
        limit = self.config.max_sequence_length
        if max_length is not None and max_length > limit:
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
