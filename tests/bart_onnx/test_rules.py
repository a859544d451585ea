"""Rules over candidates and histories, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bart_onnx.decoding.candidates import Candidates
from bart_onnx.decoding.histories import Histories
from bart_onnx.decoding.options import DecodingOptions
from bart_onnx.decoding.rules import Rules
from bart_onnx.errors import InputError
from bart_onnx.graphs import LOG_SUM_EXP, LOGITS, TOP_LOGITS, TOP_TOKEN_IDS

VOCABULARY = 6
BANNED = -np.inf
PLAIN = [1.0, -1.0, 2.0, -2.0, 3.0, 0.5]


def rows(
    *said: list[int],
    prompts: list[int] | None = None,
    limits: list[int] | None = None,
    sources: list[list[int]] | None = None,
    source_of_row: list[int] | None = None,
) -> Histories:
    """Histories of these tokens; what does not count is 5, so that it shows where it is read."""
    count = len(said)
    sources = sources or [[0]] * count
    lengths = np.array([len(tokens) for tokens in said])
    return Histories(
        token_ids=padded(list(said)),
        lengths=lengths,
        prompt_lengths=np.array(prompts or [1] * count),
        limits=np.array(limits or [99] * count),
        numbers=np.arange(count) + 7,
        sources=np.array(source_of_row or range(count)),
        source_token_ids=padded(sources),
        source_lengths=np.array([len(tokens) for tokens in sources]),
    )


def padded(lines: list[list[int]]) -> np.ndarray:
    width = max(map(len, lines)) + 2
    return np.array([line + [5] * (width - len(line)) for line in lines])


def applied(histories: Histories, scores: Any = None, **options: Any) -> list[list[float]]:
    """Every token's score after the rules; all rows begin with `PLAIN`."""
    candidates = whole(histories, scores)
    assert Rules(DecodingOptions(**options), VOCABULARY).apply(candidates, histories) == {}
    return candidates.scores.tolist()


def whole(histories: Histories, scores: Any = None) -> Candidates:
    lines = np.tile(np.array(PLAIN, np.float32), (len(histories.lengths), 1))
    if scores is not None:
        lines[:] = scores
    return Candidates(lines, None, VOCABULARY)


def changed(**scores: float) -> list[float]:
    """`PLAIN` with some scores changed: t3=-1.0."""
    line = list(PLAIN)
    for name, score in scores.items():
        line[int(name[1:])] = float(np.float32(score))
    return line


def test_repetition_penalty_changes_each_token_of_a_history_once() -> None:
    found = applied(rows([0, 1, 1], [3]), repetition_penalty=2.0)
    assert found == [changed(t0=0.5, t1=-2.0), changed(t3=-4.0)]


def test_encoder_repetition_penalty_rewards_what_the_source_says() -> None:
    found = applied(rows([5], [5], sources=[[0, 1, 0], [4]]), encoder_repetition_penalty=2.0)
    assert found == [changed(t0=2.0, t1=-0.5), changed(t4=6.0)]


@pytest.mark.parametrize(
    ("size", "said", "banned"),
    [
        (1, [2, 3], {2, 3}),
        (2, [1, 2, 1], {2}),
        (2, [1, 1], {1}),
        (3, [1, 2, 4, 1, 2], {4}),
        (3, [1, 2, 4, 1, 2, 0, 1, 2], {0, 4}),
        (3, [1, 2], set()),
        (4, [1, 2], set()),
        (2_000_000, [1, 2], set()),
        (2, [1, 2, 3], set()),
    ],
)
def test_no_repeat_ngram(size: int, said: list[int], banned: set[int]) -> None:
    found = applied(rows(said, [0]), no_repeat_ngram_size=size)
    assert {token for token in range(VOCABULARY) if found[0][token] == BANNED} == banned
    assert found[1] == (changed(t0=BANNED) if size == 1 else PLAIN)


@pytest.mark.parametrize(
    ("size", "source", "said", "banned"),
    [
        (1, [2, 3], [0], {2, 3}),
        (2, [1, 2, 1, 4], [1], {2, 4}),
        (3, [1, 2, 4], [1, 2], {4}),
        (3, [1, 2, 4], [2], set()),
        (3, [1, 2], [1, 2], set()),
    ],
)
def test_encoder_no_repeat_ngram(
    size: int, source: list[int], said: list[int], banned: set[int]
) -> None:
    # The other source makes this one padded.
    histories = rows(said, [0], sources=[source, [0] * 5])
    found = applied(histories, encoder_no_repeat_ngram_size=size)
    assert {token for token in range(VOCABULARY) if found[0][token] == BANNED} == banned


def test_beams_of_one_source_share_its_ngrams() -> None:
    histories = rows([1], [2], sources=[[1, 4, 2, 3]], source_of_row=[0, 0])
    found = applied(histories, encoder_no_repeat_ngram_size=2)
    assert found == [changed(t4=BANNED), changed(t3=BANNED)]


def test_bad_words_are_banned_where_their_beginning_was_said() -> None:
    words = ([4], [1, 2], [3, 1, 0], [5])
    found = applied(rows([3, 1], [1], [2]), bad_words_ids=words, eos_token_id=5)
    assert found == [
        changed(t4=BANNED, t2=BANNED, t0=BANNED),
        changed(t4=BANNED, t2=BANNED),
        changed(t4=BANNED),
    ]


def test_biases_of_sequences_with_one_end_add_up() -> None:
    biases = (((2,), 0.5), ((1, 2), 1.0), ((0, 1, 2), 2.0), ((3, 2), 4.0), ((4,), -1.0))
    found = applied(rows([0, 1], [1], [4]), sequence_bias=biases)
    assert [line[2] for line in found] == [5.5, 3.5, 2.5]
    assert [line[4] for line in found] == [2.0, 2.0, 2.0]


def test_of_a_sequence_that_is_biased_twice_the_latter_counts() -> None:
    assert applied(rows([0]), sequence_bias=(((0,), 1.0), ((0,), 3.0))) == [changed(t0=4.0)]


def test_ends_are_banned_until_a_row_is_long_enough() -> None:
    histories = rows([0], [0, 1], [0, 1, 2], prompts=[1, 1, 2])
    ends = {"eos_token_id": (4, 5)}
    short = changed(t4=BANNED, t5=BANNED)
    assert applied(histories, min_length=2, **ends) == [short, PLAIN, PLAIN]
    assert applied(histories, min_new_tokens=1, **ends) == [short, PLAIN, PLAIN]
    assert applied(histories, min_new_tokens=2, **ends) == [short, short, short]
    # What is said of new tokens counts in place of what is said of all.
    assert applied(histories, min_length=9, min_new_tokens=1, **ends) == [short, PLAIN, PLAIN]
    assert applied(histories, min_length=9) == [PLAIN, PLAIN, PLAIN]


def test_forced_tokens_stand_alone_at_score_0() -> None:
    histories = rows([2], [2, 0], [2, 0, 1], limits=[9, 3, 9])
    found = applied(histories, forced_bos_token_id=3, forced_eos_token_id=(4, 1, 4))
    assert found[0] == [BANNED, BANNED, BANNED, 0, BANNED, BANNED]
    assert found[1] == [BANNED, 0, BANNED, BANNED, 0, BANNED]
    assert found[2] == PLAIN


def test_suppressed_tokens_never_come_and_begin_suppressed_ones_not_first() -> None:
    histories = rows([0], [0, 1], [0, 1, 2], prompts=[1, 1, 3])
    assert applied(histories, suppress_tokens=(1, 2)) == [changed(t1=BANNED, t2=BANNED)] * 3
    begin = {"begin_suppress_tokens": (1,)}
    assert applied(histories, **begin) == [changed(t1=BANNED), PLAIN, changed(t1=BANNED)]
    forced = applied(histories, forced_bos_token_id=0, **begin)
    assert forced[1:] == [changed(t1=BANNED), changed(t1=BANNED)]
    assert forced[0] == [0.0, *[BANNED] * 5]


def test_the_end_grows_likelier_after_its_start() -> None:
    histories = rows([0, 1], [0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], prompts=[1, 1, 1, 3])
    decay = {"exponential_decay_length_penalty": (1, 2.0), "eos_token_id": (1, 2)}
    found = applied(histories, **decay)
    assert found == [PLAIN, changed(t1=0.0, t2=4.0), changed(t1=2.0, t2=8.0), PLAIN]
    stays = applied(rows([0, 1, 1]), [BANNED, BANNED, np.nan, 0, 0, 0], **decay)
    assert stays[0][1] == BANNED
    assert np.isnan(stays[0][2])


def test_growth_beyond_float32_ends_at_its_largest_number() -> None:
    decay = {"exponential_decay_length_penalty": (0, 1e6), "eos_token_id": (0, 1, 2)}
    found = applied(rows([0] * 60), [0.0, -3.0, 5.0, 1, 1, 1], **decay)
    largest = float(np.finfo(np.float32).max)
    assert found[0][:3] == [0.0, largest, largest]


def test_invalid_values_are_replaced() -> None:
    line = [np.nan, np.inf, -np.inf, 1, 2, 3]
    largest = float(np.finfo(np.float32).max)
    assert applied(rows([0]), line, remove_invalid_values=True) == [[0, largest, -largest, 1, 2, 3]]


def test_only_allowed_tokens_may_come() -> None:
    asked = []

    def allowed(number: int, said: np.ndarray) -> list[int]:
        asked.append((number, said.tolist()))
        return [len(said), 4, 4]

    found = applied(rows([0], [0, 1]), prefix_allowed_tokens_fn=allowed)
    assert asked == [(7, [0]), (8, [0, 1])]
    assert found[0] == [BANNED, PLAIN[1], BANNED, BANNED, PLAIN[4], BANNED]
    assert found[1] == [BANNED, BANNED, PLAIN[2], BANNED, PLAIN[4], BANNED]


def test_what_is_allowed_but_banned_comes_where_no_beam_has_another() -> None:
    options: dict[str, Any] = {
        "bad_words_ids": ([2],),
        "prefix_allowed_tokens_fn": lambda number, said: [2, 3] if said[-1] == 1 else [2],
    }
    free = [BANNED, BANNED, BANNED, PLAIN[3], BANNED, BANNED]
    forced = [BANNED, BANNED, 0.0, BANNED, BANNED, BANNED]
    histories = rows([0], [1], [0], [0], source_of_row=[0, 0, 1, 1])
    found = applied(histories, num_beams=2, **options)
    assert found == [[BANNED] * 6, free, forced, forced]
    assert applied(histories, **options) == [forced, free, forced, forced]


@pytest.mark.parametrize(
    ("answer", "named"),
    [([], "none"), ([9], "9"), ([-1, 2], "-1"), (None, "None"), ([1.5], "1.5"), ([True], "True")],
)
def test_a_row_that_is_allowed_nothing_is_named_and_no_other_is_harmed(
    answer: Any, named: str
) -> None:
    histories = rows([0], [1])
    options = DecodingOptions(
        prefix_allowed_tokens_fn=lambda number, said: answer if number == 7 else {3},
        forced_eos_token_id=2,
        remove_invalid_values=True,
    )
    candidates = whole(histories)
    refused = Rules(options, VOCABULARY).apply(candidates, histories)
    assert list(refused) == [0]
    assert "prefix_allowed_tokens_fn left row 7 no token" in refused[0]
    assert named in refused[0]
    assert candidates.scores[0].tolist() == [BANNED] * 6
    assert candidates.scores[1].argmax() == 3


def test_functions_are_called_in_turn_with_a_row_of_their_own() -> None:
    def spoils(said: np.ndarray, scores: np.ndarray) -> np.ndarray:
        doubled = scores * 2
        said[:], scores[:] = 0, 0
        return doubled

    def adds(said: np.ndarray, scores: np.ndarray) -> list[float]:
        return (scores + len(said)).tolist()

    histories = rows([1], [1, 2])
    found = applied(histories, logits_processor=(spoils, adds))
    plain = np.array(PLAIN)
    assert found == [(plain * 2 + 1).tolist(), (plain * 2 + 2).tolist()]
    assert histories.token_ids[0, 0] == 1


@pytest.mark.parametrize("answer", [None, [1.0, 2.0], "scores", np.zeros((1, VOCABULARY))])
def test_a_function_that_gives_other_than_scores_is_named(answer: Any) -> None:
    histories = rows([0], [1])
    options = DecodingOptions(
        logits_processor=(
            lambda said, scores: answer if said[0] else scores,
            lambda _, scores: scores,
        )
    )
    candidates = whole(histories)
    refused = Rules(options, VOCABULARY).apply(candidates, histories)
    assert list(refused) == [1]
    assert "logits_processor left row 8 no token" in refused[1]
    assert candidates.scores.tolist() == [PLAIN, [BANNED] * 6]


@pytest.mark.parametrize(
    "options",
    [
        {"suppress_tokens": (1, 6)},
        {"begin_suppress_tokens": (6,)},
        {"forced_bos_token_id": 6},
        {"forced_eos_token_id": (6,)},
        {"eos_token_id": (6,)},
        {"bad_words_ids": ((1,), (6, 1))},
        {"sequence_bias": (((1, 6), 1.0),)},
    ],
)
def test_a_token_outside_the_vocabulary_is_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"{name} holds token id 6; this model's ids are 0 to 5"):
        Rules(DecodingOptions(**options), VOCABULARY)


@pytest.mark.parametrize(
    ("options", "needs_all"),
    [
        ({"repetition_penalty": 0.9}, True),
        ({"repetition_penalty": 1.1}, False),
        ({"encoder_repetition_penalty": 1.1}, True),
        ({"encoder_repetition_penalty": 0.9}, False),
        ({"sequence_bias": (((1,), -1.0),)}, False),
        ({"sequence_bias": (((1,), -1.0), ((2,), 1.0))}, True),
        ({"exponential_decay_length_penalty": (1, 0.9)}, False),
        ({"exponential_decay_length_penalty": (1, 1.1)}, True),
        ({"renormalize_logits": True}, True),
        ({"remove_invalid_values": True}, True),
        ({"logits_processor": lambda said, scores: scores}, True),
        ({"prefix_allowed_tokens_fn": lambda number, said: [1]}, True),
        ({"no_repeat_ngram_size": 3, "min_length": 5, "forced_bos_token_id": 0}, False),
    ],
)
def test_what_needs_every_token(options: dict[str, Any], needs_all: bool) -> None:
    rules = Rules(DecodingOptions(**options), VOCABULARY)
    assert rules.needs_all is needs_all
    assert not rules.is_empty


def test_nothing_asked_is_no_rule() -> None:
    rules = Rules(DecodingOptions(num_beams=4, top_k=3, eos_token_id=2, do_sample=True), 6)
    assert rules.is_empty
    assert not rules.needs_all
    scores = np.zeros((1, 6), np.float32)
    assert rules.renormalized(scores) is scores


def test_renormalized_scores_are_log_probabilities() -> None:
    rules = Rules(DecodingOptions(renormalize_logits=True), 2)
    scores = np.array([[0, BANNED], [3, 3], [BANNED, BANNED]], np.float32)
    wanted = [[0, BANNED], [np.log(0.5)] * 2, [BANNED, BANNED]]
    np.testing.assert_allclose(rules.renormalized(scores), wanted, rtol=1e-6)


@st.composite
def lowering(draw: st.DrawFn) -> tuple[Histories, np.ndarray, dict[str, Any]]:
    """Rows, their logits and rules that lower scores."""
    tokens = st.integers(0, VOCABULARY - 1)
    said = draw(st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=12))
    sequences = st.lists(st.lists(tokens, min_size=1, max_size=3), max_size=4)
    options = {
        "repetition_penalty": draw(st.sampled_from([1.0, 1.5])),
        "no_repeat_ngram_size": draw(st.integers(0, 3)),
        "bad_words_ids": draw(sequences),
        "sequence_bias": [(sequence, -1.5) for sequence in draw(sequences)],
        "min_length": draw(st.integers(0, 8)),
        "forced_bos_token_id": draw(st.none() | tokens),
        "forced_eos_token_id": draw(st.lists(tokens, max_size=2)),
        "eos_token_id": draw(st.lists(tokens, max_size=2)),
    }
    scores = st.lists(st.sampled_from(np.linspace(-4, 4, 17)), min_size=6, max_size=6)
    logits = np.array([draw(scores) for _ in said], np.float32)
    limits = [draw(st.integers(len(tokens) + 1, 8)) for tokens in said]
    return rows(*said, limits=limits), logits, options


@given(lowering())
def test_the_best_are_those_of_all_where_no_doubt_is_said(case: Any) -> None:
    histories, logits, options = case
    best = np.argsort(-logits, axis=1, kind="stable")[:, :3]
    outputs = {
        LOGITS: logits[:, None],
        TOP_LOGITS: np.take_along_axis(logits, best, axis=1)[:, None],
        TOP_TOKEN_IDS: best[:, None],
        LOG_SUM_EXP: np.zeros((len(logits), 1), np.float32),
    }
    rules = Rules(DecodingOptions(**options), VOCABULARY)
    every = Candidates.every(outputs, log_softmax=False)
    some = Candidates.sorted_out(outputs, log_softmax=False, vocabulary_size=VOCABULARY)
    assert not rules.apply(every, histories)
    assert not rules.apply(some, histories)
    for count in (1, 2, 3):
        sure = np.setdiff1d(np.arange(len(logits)), some.doubtful(count))
        np.testing.assert_array_equal(some.best(count)[0][sure], every.best(count)[0][sure])
    # A row alone has the scores that it has beside others.
    for row in range(len(logits)):
        alone = Candidates.every(outputs, log_softmax=False, rows=slice(row, row + 1))
        rules.apply(alone, histories.take(np.array([row])))
        np.testing.assert_array_equal(alone.scores[0], every.scores[row])


def test_many_pairs_are_found_as_few_are() -> None:
    random = np.random.default_rng(0)
    token_ids = np.array([random.permutation(VOCABULARY)[:4] for _ in range(3)])
    candidates = Candidates(np.zeros((3, 4), np.float32), token_ids, VOCABULARY)
    pairs = random.integers(3, size=40), random.integers(VOCABULARY, size=40)
    together = set(zip(*(places.tolist() for places in candidates.places(*pairs)), strict=True))
    one_by_one = set()
    for row, token in zip(*pairs, strict=True):
        places = candidates.places(np.array([row]), np.array([token]))
        one_by_one |= set(zip(*(place.tolist() for place in places), strict=True))
    assert together == one_by_one
