"""Decoding against transformers 5.23, token for token: a sample of scripts/decoding_grid.py."""

from __future__ import annotations

import warnings
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="transformers is the judge here")
pytest.importorskip("torch", reason="transformers runs on torch")

from decoding_judge import cases, models, ties  # noqa: E402
from decoding_judge.report import NEAR, Report  # noqa: E402
from decoding_judge.shares import Shares  # noqa: E402
from decoding_judge.sides import judged  # noqa: E402

# It tells of what the grid does on purpose: no max_length, a score of minus infinity.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


@pytest.fixture(scope="module", params=["golden", "g2p", "preset"])
def pair(request, tmp_path_factory):
    if why := models.missing(request.param):
        pytest.skip(why)
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = models.MODELS[request.param](tmp_path_factory.mktemp("decoding"))
        assert made.seen.tokens
    return made


def test_tokens_and_scores_are_equal(pair, record_property):
    single, mixed = list(cases.deterministic(pair))[::14], list(cases.mixed(pair, 6))
    report = Report().run(pair, [*single, *mixed, *cases.drawn(pair, 5)])
    record_property("decoding", report.line)
    print(pair.name, report.line)
    assert report.differences == []
    assert report.sequences > 100
    assert report.equal > 0.9 * (report.sequences - report.nothing)
    assert len(report.distinct) > 15


def test_distributions_that_are_drawn_from_are_equal(pair):
    shares = Shares().run(pair, cases.filtered(pair, 5))
    print(pair.name, shares)
    assert shares.is_alike, shares
    assert shares.steps > 100


def margins(pair, case, row, **changes):
    """The margin that is found where this package is given other options than transformers."""
    call = ties._call

    def changed(pair, case):
        return call(pair, replace(case, options={**case.options, **changes}))

    with patch.object(ties, "_call", changed):
        return ties.margin(pair, case, row)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_difference_counts_as_no_tie(pair, beams):
    sources = pair.sources(np.random.default_rng(0), 2)
    case = cases.Case({"num_beams": beams, "max_length": pair.most}, sources)
    banned = judged(pair, case)[1][0].ids[3]
    assert ties.margin(pair, case, 1) == float("inf")
    assert NEAR < margins(pair, case, 1, suppress_tokens=[banned]) < float("inf")


@pytest.mark.parametrize("beams", [1, 3])
def test_a_tie_is_told_from_a_difference(pair, beams):
    # Both ends are forced at score 0; which of them comes first is left open.
    ends = [*pair.ends, pair.seen.tokens[0]]
    options = {"num_beams": beams, "max_new_tokens": 2, "forced_eos_token_id": ends}
    case = cases.Case(options, pair.sources(np.random.default_rng(0), 1))

    def without(token):
        def lowered(said, scores):
            # Only what is forced; all else keeps its score.
            scores[token] -= np.float32(1e-6) * (scores[token] == 0)
            return scores

        return lowered

    gaps = [margins(pair, case, 0, logits_processor=without(token)) for token in ends]
    assert min(gaps) == 0
