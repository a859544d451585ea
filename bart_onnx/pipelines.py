"""`pipeline`: transformers 4's summarization and text2text-generation pipelines, without torch.

Arguments and results are transformers'; how text is generated is `text_generator`'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bart_onnx.answers import Model, answer_batches
from bart_onnx.configured import Asked
from bart_onnx.decoding.generation_config import for_summarization
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.errors import InputError, InputTooLongError, InputTypeError
from bart_onnx.pipeline_arguments import (
    CALLING,
    OPENING,
    TASKS,
    checked_batch_size,
    checked_task,
    device_of,
    long_input_of,
    preset_of,
    without,
)
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.results import Report, Result
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.text_inputs import as_texts, describe
from bart_onnx.tokenizer import BartTokenizer

_OPENING = ("precision", "threads", "offline", "verify")

# What transformers cleans up: blanks before these go.
_CLEANED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


def pipeline(
    task: str = "summarization",
    model: str | OnnxBartSeq2SeqLM | None = None,
    config: None = None,
    tokenizer: str | BartTokenizer | BartSeq2SeqLMPreprocessor | None = None,
    *,
    device: Any = None,
    revision: str | None = None,
    **arguments: Any,
) -> Pipeline:
    """A callable that summarises or rewrites texts, as transformers 4's `pipeline` made it.

    Args:
        task: "summarization" or "text2text-generation".
        model: a name on the hub such as "facebook/bart-large-cnn", any other preset, or a model;
            None means the one that transformers 4 took for summarization.
        config: None; it is the bundle's.
        tokenizer: one in place of the model's; a name as `model` takes it.
        device: None, "cpu" or -1.
        revision: a branch, tag or commit on the hub.
        arguments: precision, threads, offline and verify, as `from_preset` takes them; those of a
            call, which hold until a call says otherwise; and those of transformers that mean
            nothing here.

    Raises:
        InputError, InputTypeError: an argument that cannot be used; the message names it.
        DeviceError: this version does not drive the device.
        PresetError, BundleError, DownloadError, MissingPackageError: as `from_preset`.
    """
    checked = checked_task(task)
    given = without({"config": config, **arguments}, OPENING)
    opening = {name: given.pop(name) for name in _OPENING if name in given}
    if isinstance(model, OnnxBartSeq2SeqLM):
        _check_open(model, device, {**opening, "revision": revision})
        return Pipeline(checked, _with_tokenizer(model, tokenizer, None), given)
    if model is None:
        warnings.warn(
            f"No model was named; as in transformers 4 it is {preset_of(None, checked, revision)}.",
            stacklevel=2,
        )
    preset = preset_of(model, checked, revision)
    lm = OnnxBartSeq2SeqLM.from_preset(preset, device=device_of(device), **opening)
    same = isinstance(tokenizer, str) and tokenizer == model
    return Pipeline(checked, _with_tokenizer(lm, None if same else tokenizer, revision), given)


class Pipeline:
    """A task with a model; made by `pipeline`.

    Attributes:
        task: its name.
        model: what generates.
        tokenizer: the model's.
        device: where it runs.
    """

    def __init__(self, task: str, model: OnnxBartSeq2SeqLM, defaults: Mapping[str, Any]) -> None:
        if model.preprocessor is None:
            raise InputError("A pipeline needs a model with a preprocessor; this one has none.")
        self.task, self.model = task, model
        self.tokenizer, self.device = model.preprocessor.tokenizer, model.runner.device
        self._defaults = dict(defaults)
        _call_of(task, model, self._defaults)

    def __call__(self, inputs: Any, /, **arguments: Any) -> Any:
        """Generate for a text, for texts, or for what an iterable gives.

        Args:
            inputs: a text; a list, tuple or array of texts; or another iterable of texts, such as
                a generator or a dataset's column.
            arguments: truncation, return_tensors, clean_up_tokenization_spaces, batch_size (how
                many texts of an iterable are read ahead), stop_sequence, prefix (what is put
                before every text), long_input ("error", "truncate", "split") and
                overlap_sentences, and the options of `DecodingOptions`.

        Returns:
            A list of a dict for a text, of one for each text for a list; for an iterable an
            iterator of lists of a dict. A dict has "summary_text" ("generated_text"), or with
            return_tensors "summary_token_ids", int64 [length]. With num_return_sequences above 1
            each text has a list of dicts.

        Raises:
            InputTooLongError: a text is longer than the model reads, and neither truncation=True
                nor long_input says what to do.
            InputError, InputTypeError, DecodingError: as `OnnxBartSeq2SeqLM.generate`.
        """
        call = _call_of(self.task, self.model, {**self._defaults, **arguments})
        _warn_of_lengths(call.asked.options)
        if isinstance(inputs, str | bytes):
            return next(self._records([[inputs]], call))[0]
        if isinstance(inputs, Mapping):
            raise InputTypeError("A pipeline takes texts, found a mapping; give its texts.")
        if not isinstance(inputs, list | tuple) and not hasattr(inputs, "__array__"):
            return self._iterated(_iterator(inputs), call)
        texts, _ = as_texts(inputs, "inputs")
        found = next(self._records([texts], call)) if texts else []
        several = call.asked.options.num_return_sequences > 1
        return found if several else [each[0] for each in found]

    def _iterated(self, texts: Iterator[Any], call: _Call) -> Iterator[list[dict[str, Any]]]:
        batches = iter(lambda: list(islice(texts, call.batch_size)), [])
        for records in self._records(batches, call):
            yield from records

    def _records(
        self, batches: Iterable[Sequence[Any]], call: _Call
    ) -> Iterator[list[list[dict[str, Any]]]]:
        """The dicts of each text of each batch; all are of one call, whose draws go on."""
        known = ([call.prefix + text for text in as_texts(each, "inputs")[0]] for each in batches)
        model = Model(self.model.runner, self.model.preprocessor)
        try:
            for found in answer_batches(model, known, call.asked):
                yield [self._of_text(answer, call) for answer in found]
        except InputTooLongError as error:
            raise InputTooLongError(
                f'{error} In a pipeline, truncation=True cuts it, and long_input="split" reads it '
                "in parts."
            ) from error

    def _of_text(self, answer: Any, call: _Call) -> list[dict[str, Any]]:
        name = TASKS[self.task]
        if isinstance(answer, Result):
            return [{f"{name}_token_ids": each.ids} for each in answer.n_best or (answer,)]
        texts = [answer] if isinstance(answer, str) else answer
        cleaned = [clean_up(text) if call.cleans_up else text for text in texts]
        return [{f"{name}_text": text} for text in cleaned]


@dataclass(frozen=True)
class _Call:
    """The arguments of one call: what is asked of the model, and what becomes of its answers."""

    asked: Asked
    prefix: str
    cleans_up: bool
    batch_size: int


def _call_of(task: str, lm: OnnxBartSeq2SeqLM, arguments: Mapping[str, Any]) -> _Call:
    given = without(arguments, CALLING)
    config: Mapping[str, Any] = lm.generation_config
    if task == "summarization":
        config = for_summarization(config)
    prefix = given.pop("prefix", None)
    if prefix is None:
        prefix = config.get("prefix") or ""
    if not isinstance(prefix, str):
        raise InputTypeError(f"prefix must be a text, found {prefix!r:.60}.")
    cleans_up = bool(given.pop("clean_up_tokenization_spaces", None))
    batch_size = checked_batch_size(given.pop("batch_size", None))
    returns_ids = bool(given.pop("return_tensors", None))
    long_input = long_input_of(given.pop("truncation", None), given.pop("long_input", None))
    overlap_sentences = given.pop("overlap_sentences", 1)
    stop_sequence = given.pop("stop_sequence", None)
    if stop_sequence is not None:
        given["eos_token_id"] = _stop_id(lm, stop_sequence)
    asked = lm.by_config(
        options=given,
        generation_config=config,
        long_input=long_input,
        overlap_sentences=overlap_sentences,
        report=Report() if returns_ids else None,
    )
    return _Call(asked, prefix, cleans_up, batch_size)


def _stop_id(lm: OnnxBartSeq2SeqLM, stop_sequence: object) -> int:
    """transformers' stop_sequence: the token that ends a text."""
    if not isinstance(stop_sequence, str):
        raise InputTypeError(f"stop_sequence must be a text, found {describe(stop_sequence)}.")
    assert lm.preprocessor is not None
    ids: list[int] = lm.preprocessor.tokenizer.encode_batch([stop_sequence])[0]
    if len(ids) != 1:
        raise InputError(
            f"stop_sequence={stop_sequence!r} has {len(ids)} tokens, of which transformers takes "
            f"the first; give stop_strings=[{stop_sequence!r}]."
        )
    return ids[0]


def clean_up(text: str) -> str:
    """A text without the blanks that transformers' clean_up_tokenization_spaces takes out."""
    for mark in _CLEANED[:4]:
        text = text.replace(mark, mark[1:])
    text = text.replace(" ' ", "'")
    for mark in _CLEANED[4:]:
        text = text.replace(mark, mark[1:])
    return text


def _check_open(lm: OnnxBartSeq2SeqLM, device: Any, opening: Mapping[str, Any]) -> None:
    """Refuse what would have to open a model that is open in another way."""
    asked = [name for name, value in opening.items() if value is not None]
    if asked:
        raise InputError(f"The model is open already; {', '.join(asked)} cannot be changed.")
    if device is not None and device_of(device) != lm.runner.device:
        raise InputError(f"device={device!r}, but the model runs on {lm.runner.device!r}.")


def _with_tokenizer(
    lm: OnnxBartSeq2SeqLM, tokenizer: Any, revision: str | None
) -> OnnxBartSeq2SeqLM:
    """The model with another tokenizer, at the lengths it had; the one given is left as it was."""
    if tokenizer is None:
        return lm
    if isinstance(tokenizer, str):
        tokenizer = BartTokenizer.from_preset(preset_of(tokenizer, "summarization", revision))
    if isinstance(tokenizer, BartTokenizer):
        longest = min(1024, lm.config.max_sequence_length)
        tokenizer = BartSeq2SeqLMPreprocessor(tokenizer, longest, longest)
    if not isinstance(tokenizer, BartSeq2SeqLMPreprocessor):
        raise InputTypeError(
            "tokenizer must be a name, a BartTokenizer or a BartSeq2SeqLMPreprocessor, found "
            f"{type(tokenizer).__name__}. Leave it out: the model has its own."
        )
    return OnnxBartSeq2SeqLM(lm.backbone, tokenizer)


def _iterator(inputs: Any) -> Iterator[Any]:
    """Any iterable's; of a dataset that is only indexed too, as torch's are."""
    if isinstance(inputs, Iterable):
        return iter(inputs)
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
        return (inputs[index] for index in range(len(inputs)))
    raise InputTypeError(
        f"A pipeline takes a text or texts, found {type(inputs).__name__}. Pass a str, a list or "
        "an iterable of str."
    )


def _warn_of_lengths(options: DecodingOptions) -> None:
    """Say, as transformers does, that what the checkpoint asks for cannot be kept."""
    least, most = options.min_length, options.max_length
    if most is not None and options.max_new_tokens is None and least > most:
        warnings.warn(
            f"min_length={least} of the generation config is more than max_length={most}; every "
            "text runs to max_length. Give a smaller min_length too.",
            stacklevel=3,
        )
