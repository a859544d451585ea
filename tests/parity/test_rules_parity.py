"""Rules and filters against transformers' own processors, in the order in which it lists them.

transformers 5.23 judges, a source at a time: its rows must be of one length and have no padding,
ours need not. Scores are equal bit for bit. Distributions are within 1e-6, because a softmax adds
its shares up in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bart_onnx.decoding.candidates import Candidates
from bart_onnx.decoding.filters import Filters, softmax
from bart_onnx.decoding.histories import Histories
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.rules import Rules
from bart_onnx.graphs import LOG_SUM_EXP, LOGITS, TOP_LOGITS, TOP_TOKEN_IDS

transformers = pytest.importorskip("transformers", reason="transformers is the judge here")
torch = pytest.importorskip("torch", reason="transformers runs on torch")

VOCABULARY = 40
SORTED_OUT = 16
WIDTH = 14

# What differs from the options: how transformers is told the same.
_SEQUENCES = ("bad_words_ids", "sequence_bias")
_IDS = ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "eos_token_id")
ALLOWED = "prefix_allowed_tokens_fn"
_GIVEN_APART = (ALLOWED, "logits_processor", "seed", "stop_strings")
_FILTERS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass
class Case:
    """Options, rows to continue and their logits, [rows, vocabulary]."""

    options: dict[str, Any]
    histories: Histories
    logits: np.ndarray


class Judge(transformers.GenerationMixin):
    """Just enough of a model to be asked for its processors."""

    config = SimpleNamespace(is_encoder_decoder=True)

    def __init__(self) -> None:
        pass


class OfRows(transformers.LogitsProcessor):
    """One of the user's functions, as transformers takes them: of all rows at once."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        rows = zip(input_ids.numpy(), scores.numpy(), strict=True)
        return torch.tensor(np.stack([self._function(*row) for row in rows]))


def judged(case: Case, options: dict[str, Any]) -> np.ndarray:
    """What transformers makes of the scores, [rows, vocabulary]."""
    scores = np.empty_like(case.logits)
    for source in range(len(case.histories.source_lengths)):
        rows = np.flatnonzero(case.histories.sources == source)
        length = case.histories.lengths[rows[0]]
        said = torch.tensor(case.histories.token_ids[rows, :length])
        processors = listed(case, options, rows)
        scores[rows] = processors(said, torch.tensor(case.logits[rows])).numpy()
    if "exponential_decay_length_penalty" in options:
        # It may grow to infinity there, of which no softmax can be made; here it stays finite.
        return np.minimum(scores, np.finfo(np.float32).max)
    return scores


def listed(case: Case, options: dict[str, Any], rows: np.ndarray) -> Any:
    """transformers' processors for the rows of one source."""
    histories, row = case.histories, rows[0]
    prompt, source = int(histories.prompt_lengths[row]), histories.sources[row]
    told = {name: value for name, value in options.items() if name not in _GIVEN_APART}
    told |= {name: list(told[name]) for name in _IDS if name in told}
    if "bad_words_ids" in told:
        told["bad_words_ids"] = [list(word) for word in told["bad_words_ids"]]
    if "sequence_bias" in told:
        told["sequence_bias"] = [[list(words), bias] for words, bias in told["sequence_bias"]]
    if "min_new_tokens" in told:
        told["min_length"] = prompt + told["min_new_tokens"]
    if "top_k" not in told:
        told["top_k"] = 0
    config = transformers.GenerationConfig(max_length=int(histories.limits[row]), **told)
    ends = options.get("eos_token_id")
    config._eos_token_tensor = torch.tensor(ends) if ends else None
    allowed = options.get(ALLOWED)
    number = int(histories.numbers[row])
    source_ids = histories.source_token_ids[source, : histories.source_lengths[source]]
    return Judge()._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=prompt,
        encoder_input_ids=torch.tensor(source_ids[None]),
        prefix_allowed_tokens_fn=allowed and (lambda _, said: allowed(number, said.numpy())),
        logits_processor=[OfRows(each) for each in options.get("logits_processor", ())],
        model_kwargs={},
    )


def random_case(random: np.random.Generator, share: float) -> Case:
    """Rows of up to three sources, and each rule in this share of all cases."""
    beams = int(random.integers(1, 4))
    options = {**random_rules(random, share), "num_beams": beams}
    sources = int(random.integers(1, 4))
    limit = int(random.integers(6, WIDTH + 1))
    lengths = np.repeat(random.integers(1, limit, sources), beams)
    prompts = np.repeat(random.integers(1, WIDTH, sources), beams)
    # Few different tokens, so that sequences come again.
    few = int(random.integers(2, VOCABULARY))
    histories = Histories(
        token_ids=random.integers(few, size=(sources * beams, WIDTH)),
        lengths=lengths,
        prompt_lengths=np.minimum(prompts, lengths),
        limits=np.full(sources * beams, limit),
        numbers=np.repeat(random.permutation(10)[:sources], beams),
        sources=np.repeat(np.arange(sources), beams),
        source_token_ids=random.integers(few, size=(sources, 9)),
        source_lengths=random.integers(1, 10, sources),
    )
    logits = random.normal(0, 3, (sources * beams, VOCABULARY)).astype(np.float32)
    # transformers adds minus infinity to NaN there, and so lets forbidden tokens come at score 0.
    if "remove_invalid_values" in options and not {*options} & {"bad_words_ids", ALLOWED}:
        logits[random.random(logits.shape) < 0.1] = np.nan
        logits[random.random(logits.shape) < 0.1] = np.inf
    if random.random() < 0.2:
        logits = np.round(logits)
    if random.random() < 0.1:
        logits[random.random(logits.shape) < 0.5] = -np.inf
    return Case(options, histories, logits)


def random_rules(random: np.random.Generator, share: float) -> dict[str, Any]:
    def ids(most: int) -> tuple[int, ...]:
        return tuple(random.integers(VOCABULARY, size=random.integers(1, most + 1)).tolist())

    def near() -> tuple[int, ...]:
        return tuple(random.integers(5, size=random.integers(1, 4)).tolist())

    def factor() -> float:
        return float(random.choice([0.7, 1.2, 2.5]))

    salt = int(random.integers(1000))
    ends = ids(3)
    every: dict[str, Any] = {
        "sequence_bias": tuple((near(), float(random.normal())) for _ in range(6)),
        "encoder_repetition_penalty": factor(),
        "repetition_penalty": factor(),
        "no_repeat_ngram_size": int(random.integers(1, 5)),
        "encoder_no_repeat_ngram_size": int(random.integers(1, 4)),
        "bad_words_ids": (*(near() for _ in range(4)), ends[:1], ids(1)),
        "min_length": int(random.integers(WIDTH)),
        "min_new_tokens": int(random.integers(WIDTH)),
        ALLOWED: lambda number, said: allowed_ids(salt, number, said),
        "forced_bos_token_id": int(random.integers(VOCABULARY)),
        "forced_eos_token_id": ids(2),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": (int(random.integers(4)), factor()),
        "suppress_tokens": tuple(sorted(set(range(5, 9)) - set(ends))),
        "begin_suppress_tokens": (9, 10, 11),
        "logits_processor": (lowered, mirrored),
    }
    options = {name: value for name, value in every.items() if random.random() < share}
    if options.get("forced_bos_token_id") in range(5, 12):
        del options["forced_bos_token_id"]
    if set(options.get("forced_eos_token_id", ())) & set(range(5, 12)):
        del options["forced_eos_token_id"]
    if "exponential_decay_length_penalty" in options or random.random() < 0.9:
        options["eos_token_id"] = ends
    return options


def allowed_ids(salt: int, number: int, said: np.ndarray) -> list[int]:
    random = np.random.default_rng([salt, number, *said])
    return random.integers(VOCABULARY, size=random.integers(1, 6)).tolist()


def lowered(said: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return scores - np.float32(len(said))


def mirrored(said: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return scores[::-1]


def random_filters(random: np.random.Generator) -> dict[str, Any]:
    every = {
        "temperature": float(random.uniform(0.2, 3)),
        "top_k": int(random.choice([1, 4, 10, 14, VOCABULARY, VOCABULARY + 5])),
        "top_p": float(random.uniform(0, 1)),
        "min_p": float(random.uniform(0, 0.5)),
        "typical_p": float(random.uniform(0.05, 0.99)),
        "epsilon_cutoff": float(random.uniform(0.001, 0.2)),
        "eta_cutoff": float(random.uniform(0.001, 0.3)),
    }
    return {name: value for name, value in every.items() if random.random() < 0.3}


def step_outputs(logits: np.ndarray) -> dict[str, np.ndarray]:
    """What the step's graph gives for these logits."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :SORTED_OUT]
    return {
        LOGITS: logits[:, None],
        TOP_LOGITS: np.take_along_axis(logits, best, axis=1)[:, None],
        TOP_TOKEN_IDS: best[:, None],
        LOG_SUM_EXP: np.log(np.exp(logits).sum(axis=1, keepdims=True)),
    }


@pytest.mark.parametrize("seed", range(10))
def test_rules(seed: int) -> None:
    random = np.random.default_rng(seed)
    applied = 0
    for _ in range(200):
        case = random_case(random, share=0.2)
        with np.errstate(invalid="ignore", over="ignore"):
            wanted = judged(case, case.options)
        rules = Rules(DecodingOptions(**case.options), VOCABULARY)
        whole = Candidates.every(step_outputs(case.logits), log_softmax=False)
        assert rules.apply(whole, case.histories) == {}
        np.testing.assert_array_equal(whole.scores, wanted, err_msg=str(case.options))
        applied += not np.array_equal(wanted, case.logits)
        if not rules.needs_all:
            best = Candidates.sorted_out(step_outputs(case.logits), False, VOCABULARY)
            assert rules.apply(best, case.histories) == {}
            assert_best_are_right(best, wanted, case)
    assert applied > 150


def assert_best_are_right(candidates: Candidates, wanted: np.ndarray, case: Case) -> None:
    """Every column has the score of its token, and the best are those of all tokens."""
    rows, columns = np.nonzero(candidates.scores > -np.inf)
    found = candidates.scores[rows, columns]
    tokens = candidates.token_ids[rows, columns]
    np.testing.assert_array_equal(found, wanted[rows, tokens], err_msg=str(case.options))
    for count in (1, 5, SORTED_OUT):
        scores, _ = candidates.best(count)
        sure = np.setdiff1d(np.arange(len(wanted)), candidates.doubtful(count))
        best = -np.sort(-wanted, axis=1)[:, :count]
        np.testing.assert_array_equal(scores[sure], best[sure], err_msg=str(case.options))


@pytest.mark.parametrize("seed", range(10))
def test_filters_after_rules(seed: int) -> None:
    random = np.random.default_rng(1000 + seed)
    filtered = sorted_out = 0
    for _ in range(200):
        case = random_case(random, share=0.1)
        # A temperature below 1 makes infinite again, and so refused, what this made finite.
        case.options.pop("remove_invalid_values", None)
        case.logits = np.nan_to_num(case.logits, posinf=1, neginf=-np.inf)
        case.options |= random_filters(random)
        case.options |= {"do_sample": True, "renormalize_logits": bool(random.random() < 0.3)}
        case.options.setdefault("top_k", 0)
        whole = Candidates.every(step_outputs(case.logits), log_softmax=False)
        parts(case.options)[0].apply(whole, case.histories)
        if (whole.scores.max(axis=1) == -np.inf).any():
            # transformers cannot compute this of a row that has no token left.
            case.options.pop("eta_cutoff", None)
        rules, filters = parts(case.options)
        with np.errstate(invalid="ignore", over="ignore"):
            wanted = judged(case, case.options)
        tied = has_equals(whole.scores)
        found = rules.renormalized(filters.apply(whole.scores))
        assert_same_distribution(found, wanted, tied, case)
        filtered += (found == -np.inf).sum() > (whole.scores == -np.inf).sum()
        needed = filters.columns_needed(VOCABULARY)
        if not rules.needs_all and needed <= SORTED_OUT:
            best = Candidates.sorted_out(step_outputs(case.logits), False, VOCABULARY)
            rules.apply(best, case.histories)
            doubtful = best.doubtful(needed, filters.temperature)
            sure = np.setdiff1d(np.arange(len(wanted)), doubtful)
            found = np.full_like(wanted, -np.inf)
            left = filters.apply(best.scores)
            rows, columns = np.nonzero(left > -np.inf)
            found[rows, best.token_ids[rows, columns]] = left[rows, columns]
            assert_same_distribution(found[sure], wanted[sure], tied[sure], case)
            sorted_out += len(sure)
    assert filtered > 100
    assert sorted_out > 40


def has_equals(scores: np.ndarray) -> np.ndarray:
    """Rows with equal scores: which of them torch's sort puts first is its own affair."""
    ascending = np.sort(scores, axis=1)
    with np.errstate(invalid="ignore"):
        return ((np.diff(ascending) == 0) & (ascending[:, 1:] > -np.inf)).any(axis=1)


def parts(options: dict[str, Any]) -> tuple[Rules, Filters]:
    checked = DecodingOptions(**options)
    return Rules(checked, VOCABULARY), Filters(checked, beams=checked.num_beams > 1)


def assert_same_distribution(
    found: np.ndarray, wanted: np.ndarray, tied: np.ndarray, case: Case
) -> None:
    with np.errstate(invalid="ignore"):
        shares = torch.softmax(torch.tensor(wanted), dim=-1).numpy()
    # What has no distribution, because every token is banned, is NaN there and 0 here.
    shares, ours = np.nan_to_num(shares), softmax(found)
    shares[tied], ours[tied] = np.sort(shares[tied]), np.sort(ours[tied])
    np.testing.assert_allclose(ours, shares, rtol=0, atol=1e-6, err_msg=str(case.options))
