"""DecodingOptions: everything that decides which tokens come out, under transformers' names.

It checks each value and those that contradict each other. It knows no checkpoint, no text and no
rule: what a value does is told where it is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bart_onnx.decoding.option_checks import CHECKS
from bart_onnx.errors import InputError

PrefixFunction = Callable[[int, NDArray[np.int64]], Collection[int]]
LogitsFunction = Callable[[NDArray[np.int64], NDArray[np.float32]], Any]

# What has no effect unless tokens are drawn, and the value that asks for nothing.
_FOR_SAMPLING = {
    "seed": None,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}

# Rows that differ in nothing else may be searched together.
_OF_EACH_ROW = ("seed", "max_length", "max_new_tokens")


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode; names, defaults and meanings are those of transformers 5's generation config.

    Attributes:
        max_length: longest sequence, counting its prompt; None is 20 more than the prompt.
        max_new_tokens: most tokens after the prompt; it counts where `max_length` is None.
        min_length, min_new_tokens: no end token before so many tokens, with and without prompt.
        num_beams: hypotheses kept of each row; 1 decodes greedily, or draws.
        num_return_sequences: how many are given for each row.
        do_sample: draw tokens; `seed` makes the draws repeatable.
        early_stopping: when beam search ends: with as many hypotheses as beams (True), when no
            better one is likely (False), or when none is possible ("never").
        length_penalty: a hypothesis scores its log-probability / length ** length_penalty.
        repetition_penalty, encoder_repetition_penalty: factors on the scores of tokens that
            stand in the output or the source.
        no_repeat_ngram_size, encoder_no_repeat_ngram_size: no n-gram of the output, or of the
            source, comes again.
        bad_words_ids: sequences of token ids that must not come.
        sequence_bias: pairs of a sequence and what is added to the score of its last token.
        suppress_tokens, begin_suppress_tokens: ids that never come, and not as the first token.
        forced_bos_token_id, forced_eos_token_id: what follows a prompt of one token, and what
            stands at `max_length`.
        exponential_decay_length_penalty: (start, factor): from there on the end grows likelier.
        renormalize_logits: scores are made log-probabilities again after the rules.
        remove_invalid_values: NaN and infinite scores are replaced and not refused.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: what is drawn from.
        eos_token_id: ids that end a row; none to run to the longest.
        decoder_start_token_id: the prompt of a row that has none.
        stop_strings: a row ends with the token that completes one.
        prefix_allowed_tokens_fn: (row, token ids [length]) to the ids that may follow.
        logits_processor: functions of (token ids [length], scores float32 [vocabulary]) to scores,
            called in turn after the rules, a row at a time.
        seed: an integer of at least 0; None draws others each time.

    Raises:
        InputError, InputTypeError: a value out of its range or type, or two that exclude each
            other; the message names them.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    do_sample: bool = False
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    renormalize_logits: bool = False
    remove_invalid_values: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    eos_token_id: tuple[int, ...] = ()
    decoder_start_token_id: int = 2
    stop_strings: tuple[str, ...] = ()
    prefix_allowed_tokens_fn: PrefixFunction | None = None
    logits_processor: tuple[LogitsFunction, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = CHECKS[field.name](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        _check_count(self)
        _check_forced(self)

    @cached_property
    def decisive(self) -> tuple[Any, ...]:
        """All that decides over a token, but for a row's own length and random numbers."""
        names = (each.name for each in dataclasses.fields(self))
        return tuple(getattr(self, name) for name in names if name not in _OF_EACH_ROW)

    @property
    def copies(self) -> int:
        """Rows that are decoded for each source."""
        if self.num_beams > 1:
            return self.num_beams
        return self.num_return_sequences

    def limit(self, prompt_length: int, positions: int) -> int:
        """The longest sequence that may follow a prompt, prompt included.

        As transformers counts: `max_new_tokens` from the prompt's end on; without either 20 more
        than the prompt. Never beyond the model's positions.
        """
        if self.max_new_tokens is not None:
            longest = prompt_length + self.max_new_tokens
        else:
            longest = prompt_length + 20 if self.max_length is None else self.max_length
        return min(longest, positions)


def check_asked(asked: Sequence[str], options: DecodingOptions) -> None:
    """Refuse what was asked for by name and can have no effect, or not together.

    Args:
        asked: the names of one call's options; what a checkpoint's config says is not asked.

    Raises:
        InputError: which options, and what to do.
    """
    for pair in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if all(name in asked and getattr(options, name) for name in pair):
            raise InputError(f"{pair[0]} and {pair[1]} say the same in two ways; give one of them.")
    for name, neutral in _FOR_SAMPLING.items():
        value = getattr(options, name)
        if name in asked and not options.do_sample and value != neutral:
            raise InputError(
                f"{name}={value!r} only has an effect on tokens that are drawn; add do_sample=True."
            )
    for least, most in (
        ("min_length", "max_length"),
        ("min_new_tokens", "max_new_tokens"),
        ("min_new_tokens", "max_length"),
        ("min_length", "max_new_tokens"),
    ):
        low, high = getattr(options, least), getattr(options, most)
        if least in asked and most in asked and high is not None and (low or 0) > high:
            raise InputError(f"{least}={low} is more than {most}={high}; change one of them.")


def _check_count(options: DecodingOptions) -> None:
    count, beams = options.num_return_sequences, options.num_beams
    if count > 1 and beams == 1 and not options.do_sample:
        raise InputError(
            f"num_return_sequences={count}, but greedy decoding has one answer; raise num_beams or "
            "add do_sample=True."
        )
    if 1 < beams < count:
        raise InputError(
            f"num_return_sequences={count} is more than num_beams={beams}; raise num_beams."
        )


def _check_forced(options: DecodingOptions) -> None:
    """A token that is forced and suppressed leaves nothing, as transformers says too.

    One that is suppressed at the beginning may be forced there: that rule then looks at the next.
    """
    bos = () if options.forced_bos_token_id is None else (options.forced_bos_token_id,)
    for name, forced in (
        ("forced_bos_token_id", bos),
        ("forced_eos_token_id", options.forced_eos_token_id),
    ):
        if forced and set(forced) <= set(options.suppress_tokens):
            raise InputError(
                f"{name} forces {sorted(forced)}, which suppress_tokens forbids; leave one of them "
                "out."
            )
