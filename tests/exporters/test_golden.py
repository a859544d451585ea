"""Golden requests as exporters write them: of what is clear, and of nothing that is not finite."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from resealing import reseal

from bart_onnx.answers import Model
from bart_onnx.bundle import GOLDEN, Bundle
from bart_onnx.errors import ExportError
from bart_onnx.golden import Golden
from bart_onnx.golden_replay import decoder, replay
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.store import shipped_path

PRESET = "bart_tiny_en_g2p"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_they_are_what_the_script_writes(shipped_copy, monkeypatch):
    from exporters.golden import add_golden

    written = (shipped_copy / GOLDEN).read_bytes()
    text = (SCRIPTS / "ship_g2p.py").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("GOLDEN_WORDS"))
    words = ast.literal_eval(line.split("=")[1].strip())
    assert add_golden(shipped_copy, words) == len(json.loads(written)["requests"])
    again = Golden.of(Bundle.open(shipped_copy))
    ours = Golden.of(Bundle.open(shipped_path(PRESET)))
    for one, other in zip(again.requests, ours.requests, strict=True):
        assert dataclasses.replace(one, log_probs=()) == dataclasses.replace(other, log_probs=())
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)


@pytest.mark.parametrize(
    ("generation_config", "least"),
    [
        ({"num_return_sequences": 3, "num_beams": 4, "min_length": 20, "do_sample": True}, 5),
        ({"forced_eos_token_id": 2, "no_repeat_ngram_size": 2, "length_penalty": 2.0}, 5),
        ({"num_beam_groups": 2}, 0),
    ],
)
def test_whatever_the_generation_config_asks(shipped_copy, shipped_model, generation_config, least):
    from exporters.golden import add_golden

    (shipped_copy / "generation_config.json").write_text(json.dumps(generation_config))
    reseal(shipped_copy)
    count = add_golden(shipped_copy, ("banana", "onnx", "throughput"))
    assert count >= least if least else count == 0
    opened = Bundle.open(shipped_copy)
    golden = Golden.of(opened)
    assert (golden is None) == (least == 0)
    if golden is not None:
        own = Model(OrtRunner(opened), shipped_model.preprocessor)
        assert replay(golden, decoder(own)).differences == ()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_rounded_bundles_have_their_own(variant_bundles, tmp_path, precision):
    from exporters.golden import TOLERANCES, add_golden
    from exporters.quality import judge

    directory = shutil.copytree(variant_bundles("plain", precision).path, tmp_path / precision)
    assert add_golden(directory)
    bundle = Bundle.open(directory)
    golden = Golden.of(bundle)
    assert golden.tolerance == TOLERANCES[precision] > TOLERANCES["fp32"]
    assert all(request.text is None for request in golden.requests)
    with judge(bundle) as runner:
        assert replay(golden, decoder(Model(runner, None))).differences == ()
    fp32 = OrtRunner(variant_bundles("plain"))
    found = replay(golden, decoder(Model(fp32, None)))
    assert found.largest > 1e-4


def test_what_is_nearly_another_token_is_not_written(variant_bundles, tmp_path):
    from exporters.golden import TOLERANCES, add_golden

    directory = shutil.copytree(variant_bundles("plain", "int8").path, tmp_path / "int8")
    add_golden(directory)
    bundle = Bundle.open(directory)
    golden = Golden.of(bundle)
    model = Model(OrtRunner(bundle), None)
    greedy = [request for request in golden.requests if request.options["num_beams"] == 1]
    assert greedy
    for best in decoder(model)(greedy):
        leads = best.top_log_probs[:, 0] - best.top_log_probs[:, 1]
        assert leads.min() >= 2 * TOLERANCES["int8"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_weights_that_are_not_finite_are_named_at_export(tmp_path, value, precision):
    from tiny_models import VARIANTS, export_checkpoint, random_checkpoint

    name = "decoder.layers.0.cross_attention.value.kernel"
    checkpoint = random_checkpoint(VARIANTS["few_tokens"])
    values = checkpoint.weights[name]()
    values[3, 5] = value
    checkpoint.weights[name] = lambda: values
    with pytest.raises(ExportError, match=rf"1 values of weight '{name}'.*{value} at \[3, 5\]"):
        export_checkpoint(checkpoint, tmp_path / "bundle", precision)


@pytest.fixture(scope="module")
def traced_once():
    """Graphs of a config are traced once, for whatever precision."""
    from exporters import trace

    traced = cache(trace.master_graph)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "master_graph", lambda *graph: traced(*graph).clone())
        yield


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_overflow_is_refused_even_where_loss_is_accepted(tmp_path, traced_once, precision):
    from tiny_models import VARIANTS, random_checkpoint

    from exporters.assembly import build
    from exporters.progress import Progress
    from exporters.quality import Terms

    checkpoint = random_checkpoint(VARIANTS["few_tokens"])
    large = 3e38 if precision == "int8" else 6e4

    def loud(read):
        return np.full_like(read(), large)

    for name in list(checkpoint.weights):
        if name.endswith("feedforward_intermediate.kernel"):
            checkpoint.weights[name] = partial(loud, checkpoint.weights[name])
    with pytest.raises(ExportError, match=r"not finite for sample 1, token \d+"):
        build(
            "loud",
            "loud",
            checkpoint,
            precision,
            tmp_path,
            Progress(shown=False),
            terms=Terms(accept_loss=True),
        )
