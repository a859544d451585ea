"""What a call by the generation config answers: texts, arrays or Results; whole, or as they grow.

It joins inputs, options and decoding, and knows no preset and no file.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from bart_onnx.config import BartConfig
from bart_onnx.configured import Asked, ConfiguredCall
from bart_onnx.decoding.generation_config import OPTION_NAMES, decoding_options
from bart_onnx.decoding.protocols import Runner
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.documents import SplitTexts, joined_texts
from bart_onnx.errors import DecodingError, InputError, InputTypeError
from bart_onnx.generation import as_batches, checked_stops
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.reporting import joined
from bart_onnx.streaming import NO_TEXT, ONE_TEXT, Pieces, decoder

#: What a call may name besides the options of DecodingOptions.
EXTRA_NAMES = ("bad_words", "decoder_input_ids")


@dataclass(frozen=True)
class Model:
    """What answers are made with."""

    runner: Runner[Any]
    preprocessor: BartSeq2SeqLMPreprocessor | None

    @property
    def config(self) -> BartConfig:
        """The model's numbers."""
        return self.runner.config


def asked_of(
    model: Model,
    generation_config: Mapping[str, Any],
    options: Mapping[str, Any],
    stop_token_ids: Collection[int] | str | None = "auto",
    unasked: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Asked:
    """A call's arguments as `Asked`.

    Args:
        options: what was asked for by name; `EXTRA_NAMES` among them.
        stop_token_ids: "auto" for the generation config's `eos_token_id`.
        unasked: see `decoding_options`.
        rest: the other fields of `Asked`.

    Raises:
        InputError, InputTypeError: as `decoding_options`.
    """
    unknown = sorted(set(options) - {*OPTION_NAMES, *EXTRA_NAMES})
    if unknown:
        known = ", ".join(sorted((*OPTION_NAMES, *EXTRA_NAMES)))
        raise InputTypeError(f"There is no option {', '.join(unknown)}; options: {known}.")
    named = {name: value for name, value in options.items() if name not in EXTRA_NAMES}
    if stop_token_ids != "auto":
        if "eos_token_id" in named:
            raise InputError("stop_token_ids and eos_token_id say the same; give one of them.")
        vocabulary_size = model.config.vocabulary_size
        named["eos_token_id"] = checked_stops(stop_token_ids, None, vocabulary_size)
        unasked = {**(unasked or {}), "eos_token_id": ()}
    words = options.get("bad_words")
    if words is not None:
        if named.get("bad_words_ids") is not None:
            raise InputError("bad_words and bad_words_ids say the same; give one of them.")
        named["bad_words_ids"] = _word_ids(words, model.preprocessor)
    _check_length(named, model.config)
    chosen = decoding_options(generation_config, model.config, named, unasked)
    return Asked(chosen, prompts=_prompt_rows(options.get("decoder_input_ids")), **rest)


def answer(model: Model, inputs: Any, asked: Asked) -> Any:
    """Texts, arrays or Results, as `OnnxBartSeq2SeqLM.generate` says.

    Raises:
        DecodingError: rows that could not be decoded; it holds the answer for the others.
    """
    call = ConfiguredCall(model.runner, model.preprocessor, asked)
    batches = as_batches(inputs)
    if batches is None:
        answers, failed, batched = _of_batch(model, call, inputs, asked)
        return _given(_formed(model, answers, asked, inputs, batched), failed)
    answers, failed = [], {}
    for batch in batches:
        found, wrong, _ = _of_batch(model, call, batch, asked)
        failed |= {len(answers) + row: message for row, message in wrong.items()}
        answers += found
    return _given(_formed(model, answers, asked, None, True), failed)


def answer_batches(model: Model, batches: Iterable[Any], asked: Asked) -> Iterator[list[Any]]:
    """The answers for each batch of texts; rows are counted on, so that its size changes nothing.

    Raises:
        DecodingError: rows of a batch that could not be decoded; it holds that batch's others.
    """
    call = ConfiguredCall(model.runner, model.preprocessor, asked)
    for batch in batches:
        answers, failed, _ = _of_batch(model, call, batch, asked)
        yield _given(_formed(model, answers, asked, None, True), failed)


def stream(model: Model, inputs: Any, asked: Asked) -> Generator[str, None, None]:
    """Pieces of the text of one input; under beams, of what all that may win agree on.

    Raises:
        InputError, InputTypeError: several inputs or outputs, or no preprocessor.
        DecodingError: the row could not be decoded.
    """
    preprocessor = model.preprocessor
    if preprocessor is None:
        raise InputError(NO_TEXT)
    if asked.options.num_return_sequences > 1:
        raise InputError("stream gives one sequence; leave num_return_sequences at 1.")
    call = ConfiguredCall(model.runner, preprocessor, asked)
    batch = call.from_texts(inputs)
    if batch.texts is None or batch.texts.batched:
        raise InputTypeError(ONE_TEXT)
    tokenizer = preprocessor.tokenizer
    decoded = decoder(tokenizer.decode_batch, tokenizer.special_token_ids)
    pieces = Pieces(decoded, len(batch.sources))
    starts = [len(ids) if asked.strip_prompt else 0 for ids in batch.prompts]
    searches, refused = call.searches(batch)
    if refused:
        raise DecodingError(_failure(refused, of=""), refused, [])
    for search in searches:
        if search.failed:
            raise DecodingError(_failure(search.failed, of=""), search.failed, [])
        for line, number in enumerate(search.rows.numbers.tolist()):
            if number in search.finished:
                ids, complete = search.finished[number][0].token_ids, True
            else:
                ids, complete = search.stable(line), False
            pieces.grow(number, ids[starts[number] :], complete)
        if piece := pieces.next_piece():
            yield piece


def _of_batch(
    model: Model, call: ConfiguredCall, inputs: Any, asked: Asked
) -> tuple[list[Any], dict[int, str], bool]:
    """The answer for each input, None for those that failed; why; whether they were a batch."""
    batch = call.from_arrays(inputs) if model.preprocessor is None else call.from_texts(inputs)
    found, wrong = call.run(batch)
    rows = [row for row, each in enumerate(found) if each]
    of_rows: list[Any] = [None] * len(found)
    if asked.report is not None:
        sources = [batch.sources[row] for row in rows]
        results = call.reporter.results(sources, [found[row] for row in rows])
        for row, result in zip(rows, results, strict=True):
            of_rows[row] = result
    elif batch.texts is not None:
        for row in rows:
            of_rows[row] = call.reporter.texts(found[row])
    else:
        for row in rows:
            of_rows[row] = found[row]
    if batch.texts is None:
        return of_rows, wrong, True
    failed: dict[int, str] = {}
    for row, message in sorted(wrong.items()):
        failed.setdefault(batch.texts.owners[row], message)
    return _of_texts(batch.texts, of_rows, asked), failed, batch.texts.batched


def _of_texts(texts: SplitTexts, of_rows: list[Any], asked: Asked) -> list[Any]:
    """Answers for texts, of those for their parts: Results, or texts of all sequences of each."""
    answers: list[Any] = []
    for own, parts, note in texts.by_text(of_rows):
        if any(each is None for each in own):
            answers.append(None)
        elif asked.report is not None:
            answers.append(joined(own, parts, note))
        elif len(own) == 1:
            answers.append(own[0])
        else:
            answers.append([joined_texts([each[0] for each in own])])
    return answers


def _formed(model: Model, answers: list[Any], asked: Asked, inputs: Any, batched: bool) -> Any:
    """Answers in the documented forms."""
    if asked.report is not None:
        return answers
    if model.preprocessor is None:
        return _arrays(model, answers, asked, inputs)
    if asked.options.num_return_sequences == 1:
        answers = [None if each is None else each[0] for each in answers]
    return answers if batched else answers[0]


def _arrays(
    model: Model, answers: list[tuple[Hypothesis, ...] | None], asked: Asked, inputs: Any
) -> dict[str, Any]:
    """Ids and mask, [rows, width], or [rows, num_return_sequences, width] where it is above 1."""
    count = asked.options.num_return_sequences
    rows = [
        [
            each.token_ids[each.prompt_length if asked.strip_prompt else 0 :]
            for each in several or ()
        ]
        for several in answers
    ]
    width = max((len(ids) for several in rows for ids in several), default=0)
    dtype = (
        np.asarray(inputs["encoder_token_ids"]).dtype if isinstance(inputs, Mapping) else np.int32
    )
    token_ids = np.full((len(rows), count, width), model.config.pad_token_id, dtype)
    mask = np.zeros(token_ids.shape, bool)
    for row, several in enumerate(rows):
        for place, ids in enumerate(several):
            token_ids[row, place, : len(ids)] = ids
            mask[row, place, : len(ids)] = True
    if count == 1:
        token_ids, mask = token_ids[:, 0], mask[:, 0]
    return {"decoder_token_ids": token_ids, "decoder_padding_mask": mask}


def _given(answers: Any, failed: Mapping[int, str]) -> Any:
    if failed:
        raise DecodingError(_failure(failed), failed, answers)
    return answers


def _failure(
    failed: Mapping[int, str], of: str = " `results` of this error has the others."
) -> str:
    row, message = min(failed.items())
    more = f" So it is with {len(failed)} rows in all." if len(failed) > 1 else ""
    return f"Row {row} could not be decoded: {message.rstrip('.')}.{more}{of}"


def _word_ids(words: Any, preprocessor: BartSeq2SeqLMPreprocessor | None) -> list[list[int]]:
    """Ids of each word, as it stands in a text and at its beginning; lists of ids as they are."""
    words = [words] if isinstance(words, str) else words
    if isinstance(words, bytes | Mapping) or not isinstance(words, Iterable):
        raise InputTypeError(f"bad_words must be words or lists of ids, found {words!r:.80}.")
    found = []
    for word in words:
        if isinstance(word, list | tuple) or hasattr(word, "__array__"):
            found.append(np.asarray(word).tolist())
            continue
        if not isinstance(word, str):
            raise InputTypeError(f"bad_words must be words or lists of ids, found {word!r:.80}.")
        if not word.strip():
            raise InputError("bad_words holds a blank word; leave it out.")
        if preprocessor is None:
            raise InputError(f"bad_words holds {word!r}; without a preprocessor, give token ids.")
        encode = preprocessor.tokenizer.encode_batch
        bare = word.strip()
        found += [ids for ids in encode([bare, f" {bare}"]) if ids]
    return found


def _prompt_rows(prompts: Any) -> Sequence[Sequence[int]] | None:
    if prompts is None:
        return None
    wanted = f"decoder_input_ids must be a list of ids for each row, found {prompts!r:.80}."
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise InputTypeError(wanted)
    rows = []
    for ids in prompts:
        row = ids.tolist() if hasattr(ids, "tolist") else ids
        if not isinstance(row, list | tuple) or not all(isinstance(each, Integral) for each in row):
            raise InputTypeError(wanted)
        rows.append([int(each) for each in row])
    return rows


def _check_length(named: Mapping[str, Any], config: BartConfig) -> None:
    positions = config.max_sequence_length
    for name, most in (("max_length", positions), ("max_new_tokens", positions - 1)):
        longest = named.get(name)
        if isinstance(longest, Integral) and int(longest) > most:
            raise InputError(
                f"{name} is {longest}, but this model has {positions} positions. Give at most "
                f"{most}."
            )
