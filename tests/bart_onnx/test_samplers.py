"""Samplers by themselves: arguments, names, configs, exact distributions, draws."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pytest
from toy_runner import step_outputs

from bart_onnx import samplers
from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.graphs import LOGITS
from bart_onnx.samplers import (
    BeamSampler,
    ContrastiveSampler,
    GreedySampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
)
from bart_onnx.samplers.distributions import drawn
from bart_onnx.samplers.draws import Draws
from bart_onnx.samplers.likeliest import largest

DEFAULTS = {
    "greedy": (GreedySampler, {"temperature": 1.0}),
    "top_k": (TopKSampler, {"temperature": 1.0, "k": 5, "seed": None}),
    "top_p": (TopPSampler, {"temperature": 1.0, "p": 0.1, "k": None, "seed": None}),
    "random": (RandomSampler, {"temperature": 1.0, "seed": None}),
    "beam": (BeamSampler, {"temperature": 1.0, "num_beams": 5, "return_all_beams": False}),
    "contrastive": (ContrastiveSampler, {"temperature": 1.0, "k": 5, "alpha": 0.6}),
}
RANDOM = [
    lambda **seed: RandomSampler(**seed),
    lambda **seed: TopKSampler(4, **seed, temperature=1.5),
    lambda **seed: TopPSampler(0.8, **seed),
    lambda **seed: TopPSampler(0.8, k=3, **seed),
]

# 99.9 % points by degrees of freedom, from 0.
CHI_SQUARE = (0.0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88, 29.59, 31.26)
NUMBERS_OF_SEED_42 = [
    [0.08607763073528474, 0.14155732377913233, 0.27009303504774695],
    [0.41718561371214724, 0.4085263756019393, 0.07482496000494976],
]


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_keras_hub(name):
    made, config = DEFAULTS[name]
    sampler = samplers.get(name)
    assert type(sampler) is made
    assert sampler.get_config() == config == made.from_config(config).get_config()


@pytest.mark.parametrize("name", DEFAULTS)
def test_configs_go_round(name):
    made, _ = DEFAULTS[name]
    sampler = made(temperature=0.5)
    config = samplers.serialize(sampler)
    assert config["registered_name"] == f"keras_hub>{made.__name__}"
    assert config["module"] == f"keras_hub.src.samplers.{name}_sampler"
    json.dumps(config)
    for class_name in (made.__name__, f"keras_hub>{made.__name__}", f"keras_nlp>{made.__name__}"):
        again = samplers.get({**config, "class_name": class_name})
        assert type(again) is made
        assert again.get_config() == sampler.get_config()
    assert type(samplers.deserialize({"class_name": name})) is made


def test_positional_arguments_stand_in_keras_hubs_order():
    assert TopKSampler(3, 7).get_config() == {"temperature": 1.0, "k": 3, "seed": 7}
    assert TopPSampler(0.3, 4, 9).get_config() == {
        "temperature": 1.0,
        "p": 0.3,
        "k": 4,
        "seed": 9,
    }
    assert RandomSampler(5).seed == 5
    assert BeamSampler(2, True).return_all_beams
    assert ContrastiveSampler(3, 0.5).alpha == 0.5


def test_the_freeze_option_is_written_only_where_it_is_set():
    config = samplers.serialize(BeamSampler(3, freeze_ended_beams=True))
    assert config["config"]["freeze_ended_beams"] is True
    assert samplers.deserialize(config).freeze_ended_beams


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: GreedySampler(temperature=0), InputError, "temperature.*greedy"),
        (lambda: TopKSampler(temperature=-1), InputError, "-1"),
        (lambda: TopPSampler(temperature=float("nan")), InputError, "nan"),
        (lambda: RandomSampler(temperature=float("inf")), InputError, "inf"),
        (lambda: RandomSampler(temperature="hot"), InputTypeError, "'hot'"),
        (lambda: RandomSampler(temperature=True), InputTypeError, "True"),
        (lambda: TopKSampler(0), InputError, "k must be at least 1, found 0"),
        (lambda: TopKSampler(2.5), InputTypeError, "k must be an integer"),
        (lambda: TopPSampler(1.1), InputError, "p must lie between 0 and 1"),
        (lambda: TopPSampler(-0.1), InputError, "p must lie between 0 and 1"),
        (lambda: TopPSampler(float("nan")), InputError, "p must lie"),
        (lambda: TopPSampler(0.5, k=0), InputError, "k must be at least 1"),
        (lambda: TopKSampler(seed=-1), InputError, "seed must be at least 0"),
        (lambda: TopKSampler(seed="a"), InputTypeError, "seed"),
        (lambda: BeamSampler(0), InputError, "num_beams must be at least 1"),
        (lambda: BeamSampler(True), InputTypeError, "num_beams"),
        (lambda: BeamSampler(2, "yes"), InputTypeError, "return_all_beams"),
        (lambda: BeamSampler(2, freeze_ended_beams=1), InputTypeError, "freeze_ended_beams"),
        (lambda: ContrastiveSampler(0), InputError, "k must be at least 1"),
        (lambda: ContrastiveSampler(alpha=2), InputError, "alpha"),
        (lambda: TopKSampler(kk=3), TypeError, "kk"),
        (lambda: samplers.get("Greedy"), InputError, "'Greedy' is unknown; samplers: greedy, top"),
        (lambda: samplers.get("nucleus"), InputError, "'nucleus' is unknown.*contrastive"),
        (lambda: samplers.get("speculative"), InputError, "speculative.*second, smaller model"),
        (lambda: samplers.get(GreedySampler), InputTypeError, r"pass GreedySampler\(\)"),
        (lambda: samplers.get(3), InputTypeError, "3"),
        (lambda: samplers.get(len), InputTypeError, "len"),
        (lambda: samplers.get({"class_name": "os>system"}), InputError, "os>system"),
        (lambda: samplers.get({"class_name": "SpeculativeSampler"}), InputError, "speculative"),
        (lambda: samplers.get({"config": {}}), InputTypeError, "class_name"),
        (
            lambda: samplers.deserialize({"class_name": "greedy", "config": {"k": 3}}),
            InputError,
            "greedy cannot be made.*'k'",
        ),
        (lambda: samplers.serialize("greedy"), InputTypeError, "greedy"),
        (lambda: TopKSampler(13).get_next_token(np.ones((1, 12))), InputError, "12 tokens"),
        (lambda: Sampler().get_next_token(np.ones((1, 3))), NotImplementedError, "get_next_token"),
        (lambda: TopKSampler().get_next_token(np.full((1, 9), np.nan)), InputError, "NaN"),
        (lambda: RandomSampler().get_next_token(np.full((1, 9), np.nan)), InputError, "NaN"),
    ],
)
def test_refusals(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_none_is_none_and_a_sampler_is_itself():
    assert samplers.get(None) is None
    sampler = GreedySampler()
    assert samplers.get(sampler) is sampler


class Last(Sampler):
    def get_next_token(self, probabilities):
        return probabilities.argmin(axis=-1)


def test_custom_classes_are_found_only_where_they_are_given():
    config = samplers.serialize(Last())
    assert config["registered_name"] is None
    with pytest.raises(InputError, match="Last"):
        samplers.deserialize(config)
    assert isinstance(samplers.deserialize(config, {"Last": Last}), Last)


@pytest.fixture(scope="module")
def filters(golden):
    return json.loads((golden / "sampler_filters.json").read_text())


def filtered(filters):
    for case in filters["cases"]:
        yield samplers.deserialize({"class_name": case["class"], "config": case["config"]}), case


def test_distributions_are_keras_hubs(filters):
    cases = list(filtered(filters))
    assert len(cases) == 13
    for sampler, case in cases:
        found = sampler.distribution(sampler.compute_probabilities(filters["logits"]))
        np.testing.assert_allclose(found, case["distribution"], atol=2e-7, err_msg=str(case))


def test_a_steps_outputs_give_the_same_distributions(filters):
    """The next token of evenly spaced numbers falls on each token as often as it should."""
    count = 20_000
    uniforms = (np.arange(count) + 0.5) / count
    for sampler, case in filtered(filters):
        for row, logits in enumerate(filters["logits"]):
            outputs = step_outputs(np.tile(np.float32(logits), (count, 1, 1)))
            tokens = sampler.next_tokens({n: outputs[n] for n in sampler.wanted}, uniforms)
            shares = np.bincount(tokens, minlength=12) / count
            np.testing.assert_allclose(shares, case["distribution"][row], atol=1.01 / count)


def test_draws_follow_the_distributions(filters):
    """Chi-square of 4,000 draws a row below its 99.9 % point, for a fixed seed."""
    probabilities = np.float32(filters["logits"])
    for _, case in filtered(filters):
        config = {"class_name": case["class"], "config": {**case["config"], "seed": 3}}
        sampler = samplers.deserialize(config)
        shares = sampler.compute_probabilities(probabilities)
        for row in range(2):
            tokens = sampler.get_next_token(np.repeat(shares[row : row + 1], 4000, axis=0))
            counts = np.bincount(tokens, minlength=12)
            expected = 4000 * sampler.distribution(shares)[row]
            assert not counts[expected == 0].any()
            likely = expected > 20
            statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
            freedom = int(likely.sum()) - 1
            assert statistic <= CHI_SQUARE[freedom]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("k", [None, 1, 10, 64, 65, 200])
def test_top_p_of_a_large_vocabulary_is_the_same_with_and_without_the_graphs_best(
    temperature, p, k
):
    random = np.random.default_rng(7)
    # Rows from flat to peaked: of the first, 64 tokens hold little; of the last, all.
    logits = random.normal(0, 1, (6, 200)) * np.array([0.01, 0.3, 1, 2, 4, 8])[:, None]
    sampler = TopPSampler(p, k, seed=0, temperature=temperature)
    outputs = step_outputs(logits[:, None])
    uniforms = random.random(6)
    found = sampler.next_tokens({name: outputs[name] for name in sampler.wanted}, uniforms)
    weights, ids = sampler._sorted(sampler.compute_probabilities(np.float32(logits)))
    columns = drawn(sampler._kept(weights), uniforms)
    np.testing.assert_array_equal(found, ids[np.arange(6), columns])


@pytest.mark.parametrize("p", [0.2, 0.7, 0.99, 1.0])
@pytest.mark.parametrize("k", [None, 1500])
def test_top_p_finds_the_nucleus_of_a_very_flat_row(p, k):
    """More than are sorted at first."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (2, 3000)).astype(np.float32)
    logits[1, 7] = 30
    sampler = TopPSampler(p, k)
    probabilities = sampler.compute_probabilities(logits)
    found = sampler.distribution(probabilities)
    order = np.argsort(-probabilities[0], kind="stable")[:k]
    before = np.cumsum(probabilities[0, order], dtype=np.float64) - probabilities[0, order]
    kept = np.sort(order[(before <= p) | (p == 1)])
    np.testing.assert_array_equal(np.flatnonzero(found[0]), kept)
    assert found[1, 7] == pytest.approx(1)


def test_top_p_fetches_all_logits_only_where_it_may_need_them():
    assert LOGITS not in TopPSampler(0.5, k=64).wanted
    assert LOGITS in TopPSampler(0.5).wanted
    assert LOGITS not in TopKSampler(64, temperature=3).wanted
    assert TopKSampler(65).wanted == (LOGITS,)


@pytest.mark.parametrize("k", [1, 5, 64, 65, 200])
def test_top_k_draws_the_same_from_the_graphs_best_and_from_probabilities(k):
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (8, 200)).astype(np.float32)
    sampler = TopKSampler(k, seed=0, temperature=0.7)
    outputs = step_outputs(logits[:, None])
    uniforms = random.random(8)
    found = sampler.next_tokens({name: outputs[name] for name in sampler.wanted}, uniforms)
    weights, ids = sampler._best(sampler.compute_probabilities(logits))
    np.testing.assert_array_equal(found, ids[np.arange(8), drawn(weights, uniforms)])


def test_the_rule_of_top_p_counts_what_stands_before():
    sampler = TopPSampler(0.5)
    probabilities = np.float32([[0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
    np.testing.assert_allclose(
        sampler.distribution(probabilities), [[0, 0.625, 0.375], [1 / 3, 0, 2 / 3]], atol=1e-7
    )


def test_weights_are_drawn_at_their_edges():
    weights = np.float32([[1, 0, 3, 0]] * 5)
    below_one = np.nextafter(1, 0)
    found = drawn(weights, np.array([0, np.nextafter(0.25, 0), 0.25, 0.9, below_one]))
    assert found.tolist() == [0, 0, 2, 2, 2]
    # The product with the total rounds up to the total here.
    assert drawn(np.float32([[0.75, 0.75, 0]]), np.array([below_one])).tolist() == [1]


def test_largest_takes_the_first_of_equals():
    values = np.array([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    assert largest(values, 3).tolist() == [[1, 2, 4], [0, 1, 2]]
    assert largest(-np.inf * np.ones((1, 4)), 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("make", RANDOM)
def test_a_fresh_sampler_with_the_same_seed_repeats_and_a_used_one_goes_on(make):
    probabilities = np.full((50, 20), 0.05, np.float32)
    first, second = make(seed=11), make(seed=11)
    drawn_first = [first.get_next_token(probabilities).tolist() for _ in range(3)]
    assert drawn_first == [second.get_next_token(probabilities).tolist() for _ in range(3)]
    assert drawn_first[0] != drawn_first[1]
    assert make(seed=12).get_next_token(probabilities).tolist() != drawn_first[0]
    assert make().get_next_token(probabilities).tolist() != drawn_first[0]


def test_numbers_have_addresses():
    draws = Draws(5)
    call = draws.next_call()
    whole = call.uniforms(range(10), 7)
    assert ((whole >= 0) & (whole < 1)).all()
    np.testing.assert_array_equal(call.uniforms([7, 2], 7), whole[[7, 2]])
    np.testing.assert_array_equal(call.uniforms([3], 4), whole[[3], :4])
    assert len(np.unique(whole)) == whole.size
    assert not (draws.next_call().uniforms(range(10), 7) == whole).any()
    np.testing.assert_array_equal(Draws(5).next_call().uniforms(range(10), 7), whole)


def test_numbers_do_not_change_between_versions():
    numbers = Draws(42).next_call().uniforms([0, 3], 3)
    np.testing.assert_array_equal(numbers, NUMBERS_OF_SEED_42)


def test_calls_in_threads_are_counted_once_each():
    draws, calls = Draws(0), []

    def work():
        calls.extend(draws.next_call().call for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == list(range(800))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_where_the_sampler_stood(again):
    sampler = RandomSampler(seed=1)
    probabilities = np.full((30, 20), 0.05, np.float32)
    sampler.get_next_token(probabilities)
    other = again(sampler)
    expected = sampler.get_next_token(probabilities).tolist()
    assert other.get_next_token(probabilities).tolist() == expected


class Unlikely(GreedySampler):
    def get_next_token(self, probabilities):
        return probabilities.argmin(axis=-1)


class Shuffled(TopKSampler):
    def compute_probabilities(self, logits):
        return super().compute_probabilities(-np.asarray(logits))


@pytest.mark.parametrize("sampler", [Unlikely(), Shuffled(1), Last()])
def test_a_changed_subclass_sees_all_probabilities(sampler):
    assert sampler.wanted == (LOGITS,)
    tokens = sampler.next_tokens({LOGITS: np.float32([[[3, 1, 2]], [[1, 2, 3]]])})
    assert tokens.tolist() == [1, 0]


class Temperate(GreedySampler):
    """Changes nothing that its parent's shortcut rests on."""


def test_an_unchanged_subclass_keeps_the_shortcut():
    assert Temperate().wanted == GreedySampler().wanted != (LOGITS,)
