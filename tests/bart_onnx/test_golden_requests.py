"""Golden requests: written once a bundle is judged, replayed here, and every difference named."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from bart_onnx import OnnxBartSeq2SeqLM, verify
from bart_onnx.answers import Model
from bart_onnx.bundle import GOLDEN, Bundle
from bart_onnx.errors import BundleError, ExportError, GoldenError
from bart_onnx.golden import Golden
from bart_onnx.golden_replay import decoder, replay, replay_texts
from bart_onnx.publish import seal
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.server import served
from bart_onnx.server.options import ServerOptions
from bart_onnx.store import shipped_path

PRESET = "bart_tiny_en_g2p"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(shipped_path(PRESET), tmp_path / "bundle")


@pytest.fixture(scope="module")
def model():
    lm = OnnxBartSeq2SeqLM.from_preset(PRESET, offline=True)
    return Model(lm.runner, lm.preprocessor)


@pytest.fixture(scope="module")
def golden():
    return Golden.of(Bundle.open(shipped_path(PRESET), verify=False))


def resealed(directory, change=None):
    """Change golden.json, and seal as the exporter does."""
    path = directory / GOLDEN
    content = json.loads(path.read_text())
    if change is not None:
        path.write_text(json.dumps(change(content) or content))
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest.pop("files")
    seal(directory, manifest, {})


def test_the_shipped_preset_answers_as_it_did(model, golden):
    assert len(golden.requests) >= 5
    assert {request.options["num_beams"] for request in golden.requests} == {1, 4}
    found = replay(golden, decoder(model))
    assert found.differences == ()
    assert found.largest < golden.tolerance / 10
    assert found.same_bits
    assert list(replay_texts(golden, model)) == []
    assert (shipped_path(PRESET) / GOLDEN).stat().st_size < 8000


def test_they_are_what_the_script_writes(bundle, monkeypatch):
    from exporters.golden import add_golden

    written = (bundle / GOLDEN).read_bytes()
    text = (SCRIPTS / "ship_g2p.py").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("GOLDEN_WORDS"))
    words = ast.literal_eval(line.split("=")[1].strip())
    assert add_golden(bundle, words) == len(json.loads(written)["requests"])
    again = Golden.of(Bundle.open(bundle))
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
def test_whatever_the_generation_config_asks(bundle, model, generation_config, least):
    from exporters.golden import add_golden

    (bundle / "generation_config.json").write_text(json.dumps(generation_config))
    resealed(bundle)
    count = add_golden(bundle, ("banana", "onnx", "throughput"))
    assert count >= least if least else count == 0
    opened = Bundle.open(bundle)
    golden = Golden.of(opened)
    assert (golden is None) == (least == 0)
    if golden is not None:
        own = Model(OrtRunner(opened), model.preprocessor)
        assert replay(golden, decoder(own)).differences == ()


def another_token(content):
    content["requests"][2]["ids"][3] += 1


def another_log_prob(content):
    content["requests"][0]["log_probs"][1] -= 0.01


def another_length(content):
    content["requests"][0]["ids"].append(2)


def other_source(content):
    content["requests"][0]["source_ids"][1] += 1


def other_text(content):
    content["requests"][1]["text"] += "s"


def other_output(content):
    content["requests"][1]["output"] = "nonsense"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (another_token, r"request 3 .*alone: token 3 is \d+, not \d+, (by a margin|which is none)"),
        (another_token, r"request 3 .*together: token 3 is"),
        (another_log_prob, r"request 1 .*the log-probability of token 2 is off by 0\.01, allowed"),
        (another_length, r"request 1 .*tokens came, not"),
        (other_source, r"request 1 \('onnx'.*the tokenizer makes ids"),
        (other_text, r"request 2 .*the tokenizer makes ids"),
        (other_output, r"request 2 .*the answer's ids are .*, not 'nonsense'"),
    ],
)
def test_a_difference_is_named(bundle, capsys, change, says):
    import re

    resealed(bundle, change)
    assert verify.main([str(bundle)]) == 0
    assert verify.main([str(bundle), "--run", "--threads", "1"]) == 1
    said = capsys.readouterr().err
    assert re.search(says, said), said
    assert f"python -m bart_onnx.export --preset {PRESET} --precision fp32" in said


def test_a_machine_that_computes_otherwise_is_found(golden, model):
    """One logit in a thousand is off by a hundredth, as by a kernel that cuts sums off."""

    def sick(requests):
        for best in decoder(model)(requests):
            log_probs = best.log_probs.copy()
            log_probs[-1] += 0.002
            yield dataclasses.replace(best, log_probs=log_probs)

    found = replay(golden, lambda requests: list(sick(requests)))
    assert len(found.differences) == 2 * len(golden.requests)
    assert all("off by 0.002, allowed are 0.001" in line for line in found.differences)


def test_answers_that_change_in_company_are_told_by_their_bits(golden, model):
    def in_company(requests):
        for best in decoder(model)(requests):
            nudge = np.float32(1e-6 if len(requests) > 1 else 0)
            yield dataclasses.replace(best, log_probs=best.log_probs + nudge)

    found = replay(golden, lambda requests: list(in_company(requests)))
    assert found.differences == ()
    assert not found.same_bits


def test_logits_that_are_not_finite_are_told_with_the_weight(bundle, capsys):
    opened = Bundle.open(bundle)
    entry = opened.manifest["tensors"]["decoder.layers.1.feedforward_output.bias"]
    with (bundle / "weights.bin").open("r+b") as file:
        file.seek(entry["offset"])
        file.write(np.float32(np.nan).tobytes())
    resealed(bundle)
    with pytest.raises(GoldenError) as told:
        served.opened(ServerOptions(preset=(str(bundle),), threads=1))
    assert "logits are not finite" in str(told.value)
    assert "'decoder.layers.1.feedforward_output.bias' are not finite" in str(told.value)


def without_golden(bundle):
    (bundle / GOLDEN).unlink()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest.pop("files")
    seal(bundle, manifest, {})


def test_a_bundle_of_before_opens_and_says_that_it_has_none(bundle, capsys):
    without_golden(bundle)
    assert OnnxBartSeq2SeqLM.from_preset(bundle).summarize("onnx")
    assert verify.main([str(bundle)]) == 0
    assert verify.main([str(bundle), "--run"]) == 1
    assert "has no golden requests" in capsys.readouterr().err
    served.close(served.opened(ServerOptions(preset=(str(bundle),), threads=1)))


def test_the_server_refuses_to_be_ready(bundle):
    resealed(bundle, another_token)
    with pytest.raises(GoldenError, match=r"(?s)token 3 is.*export it here, from the checkpoint"):
        served.opened(ServerOptions(preset=(str(bundle),), threads=1))


@pytest.mark.parametrize("limits", [{"waiting": 1}, {"rows": 1}, {"cache_tokens": 64}])
def test_the_server_rehearses_within_its_limits(bundle, limits):
    options = ServerOptions(preset=(str(bundle),), threads=1, **limits)
    models = served.opened(options)
    served.close(models)
    assert list(models) == ["bundle"]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {"requests": content["requests"]},
        lambda content: {**content, "tolerance": -1},
        lambda content: {**content, "tolerance": float("nan")},
        lambda content: {**content, "requests": []},
        lambda content: {**content, "requests": content["requests"] * 9},
        lambda content: {**content, "requests": {"a": 1}},
        lambda content: content["requests"][0].update(options={"trust": True}),
        lambda content: content["requests"][0].update(ids=["x"]),
        lambda content: content["requests"][0].update(source_ids=list(range(5000))),
        lambda content: content["requests"][0].update(text=3),
        lambda content: content["requests"][0].update(log_probs=[0.0] * 99),
    ],
)
def test_what_is_no_golden_json_is_refused(bundle, change):
    resealed(bundle, change)
    with pytest.raises(BundleError, match="golden"):
        Golden.of(Bundle.open(bundle))


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


SAME = """
import sys
from bart_onnx import OnnxBartSeq2SeqLM
for threads in (1, 2):
    lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", threads=threads, offline=True)
    for options in ({"num_beams": 1}, {"num_beams": 4}, {"do_sample": True, "seed": 3}):
        found = lm.generate(["banana", "onnx", "continuous"], return_dict=True, **options)
        print([[*each.ids.tolist(), each.log_probs.tobytes().hex()] for each in found])
"""


def test_the_same_bundle_gives_the_same_tokens_in_every_process():
    def run():
        command = [sys.executable, "-c", SAME]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    first, *others = (run() for _ in range(3))
    assert len(first) == 6
    assert first[:3] == first[3:], "threads 1 and 2 differ"
    assert all(other == first for other in others)


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
