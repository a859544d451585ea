"""The grid: options, alone and together, by kinds of search, over batches of unequal sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from decoding_judge.models import Pair

Options = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        options: under the names of `DecodingOptions`.
        prompts: of each row; None for the start token alone.
        by_row: transformers is asked a row at a time, because there a batch changes a row:
            prompts must be of one length, and padding counts among the source's tokens.
    """

    options: Mapping[str, Any]
    sources: Sequence[Sequence[int]]
    prompts: Sequence[Sequence[int]] | None = None
    by_row: bool = False

    @property
    def copies(self) -> int:
        """Sequences that are given for each row."""
        return int(self.options.get("num_return_sequences", 1))

    @property
    def text(self) -> str:
        """For a message: all that is needed to run it again."""
        prompts = "" if self.prompts is None else f" prompts={list(self.prompts)}"
        return f"{dict(self.options)} sources={list(self.sources)}{prompts}"


def deterministic(pair: Pair) -> Iterator[Case]:
    """Every search with no rule, and every rule with a greedy and two beam searches."""
    random = np.random.default_rng(1)
    for search in _searches():
        yield _case(pair, random, search)
    for rule in _rules(pair):
        for search in ({"num_beams": 1}, {"num_beams": 3}, {"num_beams": 4, "length_penalty": 0.0}):
            most = int(search["num_beams"])
            returned = int(random.integers(1, most + 1))
            yield _case(pair, random, {**search, "num_return_sequences": returned, **rule})


def mixed(pair: Pair, count: int, seed: int = 2) -> Iterator[Case]:
    """Random searches with two to five random rules, some with prompts."""
    random = np.random.default_rng(seed)
    searches, rules = list(_searches()), list(_rules(pair))
    for _ in range(count):
        options = dict(searches[random.integers(len(searches))])
        for place in random.permutation(len(rules))[: random.integers(2, 6)]:
            options |= {name: rules[place][name] for name in rules[place] if name not in options}
        yield _case(pair, random, _consistent(options), prompted=bool(random.random() < 0.4))


def drawn(pair: Pair, count: int, seed: int = 3) -> Iterator[Case]:
    """Random filters, rows and beams, some with a rule."""
    random = np.random.default_rng(seed)
    rules = list(_rules(pair))
    for _ in range(count):
        beams = int(random.choice([1, 1, 2, 4]))
        options: Options = {"num_beams": beams, "do_sample": True, **_filters(random)}
        options["seed"] = int(random.integers(1000))
        options["num_return_sequences"] = int(random.integers(1, beams + 1 if beams > 1 else 4))
        if random.random() < 0.5:
            options |= rules[random.integers(len(rules))]
        # With a function of the user's this package weighs all tokens in the order of their ids, as
        # transformers does; so equal random numbers draw equal tokens.
        options.setdefault("logits_processor", [_unchanged])
        yield _case(pair, random, _consistent(options), prompted=bool(random.random() < 0.2))


def filtered(pair: Pair, count: int, seed: int = 4) -> Iterator[Case]:
    """As `drawn`, for transformers to draw by itself: only the best tokens need be looked at."""
    for case in drawn(pair, count, seed):
        options = {**case.options}
        if options["logits_processor"] == [_unchanged]:
            del options["logits_processor"]
        # It looks at all beams of a source at once, and here sequences are followed one by one.
        options.pop("prefix_allowed_tokens_fn", None)
        yield Case(options, case.sources, case.prompts, case.by_row)


def _case(
    pair: Pair, random: np.random.Generator, options: Options, prompted: bool = False
) -> Case:
    rows = int(random.choice([1, 2, 3, 5]))
    options = dict(options)
    if not {"max_length", "max_new_tokens"} & {*options}:
        options["max_length"] = pair.most
    prompts = None
    if prompted:
        start = pair.ours.config.decoder_start_token_id
        lengths = random.integers(0, 4, rows)
        words = [random.choice(pair.seen.tokens, n).tolist() for n in lengths]
        prompts = [[start, *ids] for ids in words]
        if "max_length" in options:
            options["max_length"] = max(options["max_length"], 6)
    by_row = prompted or any(name.startswith("encoder_") for name in options)
    return Case(options, pair.sources(random, rows), prompts, by_row)


def _searches() -> Iterator[Options]:
    yield {"num_beams": 1}
    for beams in range(2, 9):
        for early in (True, False, "never"):
            for penalty in (0.0, -1.0, 1.0, 2.0):
                yield {
                    "num_beams": beams,
                    "early_stopping": early,
                    "length_penalty": penalty,
                    "num_return_sequences": 1 + (beams + int(penalty)) % beams,
                }


def _rules(pair: Pair) -> Iterator[Options]:
    """Each rule at values that matter; ids are such as the model says of its own accord."""
    words, pairs, ends = pair.seen.tokens, pair.seen.pairs, pair.ends
    several_ends = [*ends, words[3], words[5]]
    yield from _lengths(pair)
    for size in (1, 2, 3):
        yield {"no_repeat_ngram_size": size}
        yield {"encoder_no_repeat_ngram_size": size}
    for penalty in (0.7, 1.2, 2.5):
        yield {"repetition_penalty": penalty}
        yield {"encoder_repetition_penalty": penalty}
    yield {"bad_words_ids": [[words[0]], [words[4]], list(pairs[0]), list(pairs[1])]}
    yield {"bad_words_ids": [ends[:1], list(pairs[0]), [*pairs[2], words[1]]]}
    yield {"sequence_bias": [[[words[0]], -2.0], [list(pairs[0]), -5.0], [list(pairs[1]), 1.5]]}
    yield {"sequence_bias": [[list(pairs[2]), -50.0], [[words[2]], -1.25], [ends[:1], -3.0]]}
    yield {"suppress_tokens": [words[1], words[6]]}
    yield {"begin_suppress_tokens": [words[0], words[1], 0, *ends]}
    yield {"begin_suppress_tokens": [words[2]], "forced_bos_token_id": words[0]}
    yield {"forced_bos_token_id": words[1]}
    yield {"forced_eos_token_id": ends[:1]}
    yield {"forced_eos_token_id": [*ends, words[3]]}
    yield {"eos_token_id": several_ends}
    yield {"eos_token_id": several_ends, "min_length": 6}
    yield {"exponential_decay_length_penalty": (2, 1.3)}
    yield {"exponential_decay_length_penalty": (4, 0.8)}
    yield {"renormalize_logits": True, "no_repeat_ngram_size": 2}
    yield {"remove_invalid_values": True, "suppress_tokens": [words[0]]}
    yield {"prefix_allowed_tokens_fn": _half(pair.vocabulary_size, ends)}
    yield {"prefix_allowed_tokens_fn": _few([*words[:6], *ends])}
    yield {"logits_processor": [_lowered]}


def _lengths(pair: Pair) -> Iterator[Options]:
    for length in (4, 9, pair.most + 3):
        yield {"max_length": length}
        yield {"max_new_tokens": length - 3}
        yield {"min_length": length - 1, "max_length": pair.most + 3}
        yield {"min_new_tokens": length - 3, "max_new_tokens": pair.most}
    yield {"max_new_tokens": 5, "forced_eos_token_id": ()}


def _filters(random: np.random.Generator) -> Options:
    every: Options = {
        "temperature": float(random.choice([0.4, 1.5, 3.0])),
        "top_k": int(random.choice([0, 2, 5, 40, 64, 100])),
        "top_p": float(random.uniform(0.3, 0.99)),
        "min_p": float(random.uniform(0, 0.3)),
        "typical_p": float(random.uniform(0.2, 0.95)),
        "epsilon_cutoff": float(random.uniform(0.001, 0.05)),
        "eta_cutoff": float(random.uniform(0.001, 0.1)),
        "renormalize_logits": True,
    }
    return {name: value for name, value in every.items() if random.random() < 0.35}


def _consistent(options: Options) -> Options:
    """Without what says the same in two ways, or contradicts."""
    if "max_new_tokens" in options:
        options.pop("max_length", None)
    if "min_new_tokens" in options:
        options.pop("min_length", None)
    most = options.get("max_length", options.get("max_new_tokens", 99))
    for name in ("min_length", "min_new_tokens"):
        if name in options:
            options[name] = min(options[name], most)
    if options.get("forced_bos_token_id") in options.get("suppress_tokens", ()):
        del options["forced_bos_token_id"]
    return options


def _half(vocabulary_size: int, ends: list[int]) -> Callable[[int, Any], list[int]]:
    """Allows half of the vocabulary, another half after each token and in each row."""

    def allowed(row: int, said: Any) -> list[int]:
        odd = (row + len(said) + int(said[-1])) % 2
        return [*range(odd, vocabulary_size, 2), *ends]

    return allowed


def _few(tokens: list[int]) -> Callable[[int, Any], list[int]]:
    """Allows fewer tokens than beams look at."""
    return lambda row, said: tokens[(row + len(said)) % 2 :]


def _lowered(said: Any, scores: Any) -> Any:
    changed = scores.copy()
    changed[int(said[-1])] -= np.float32(1.5)
    return changed


def _unchanged(said: Any, scores: Any) -> Any:
    return scores
