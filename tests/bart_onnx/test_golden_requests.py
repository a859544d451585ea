"""Golden requests: written once a bundle is judged, replayed here, and every difference named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from resealing import reseal

from bart_onnx import OnnxBartSeq2SeqLM, verify
from bart_onnx.bundle import GOLDEN, Bundle
from bart_onnx.errors import BundleError, GoldenError
from bart_onnx.golden import Golden
from bart_onnx.golden_replay import decoder, replay, replay_texts
from bart_onnx.server import served
from bart_onnx.server.options import ServerOptions
from bart_onnx.store import shipped_path

PRESET = "bart_tiny_en_g2p"


@pytest.fixture(scope="module")
def golden():
    return Golden.of(Bundle.open(shipped_path(PRESET), verify=False))


def resealed(directory, change):
    """Change golden.json, and seal as the exporter does."""
    path = directory / GOLDEN
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))
    reseal(directory)


def test_the_shipped_preset_answers_as_it_did(shipped_model, golden):
    assert len(golden.requests) >= 5
    assert {request.options["num_beams"] for request in golden.requests} == {1, 4}
    found = replay(golden, decoder(shipped_model))
    assert found.differences == ()
    assert found.largest < golden.tolerance / 10
    assert found.same_bits
    assert list(replay_texts(golden, shipped_model)) == []
    assert (shipped_path(PRESET) / GOLDEN).stat().st_size < 8000


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
def test_a_difference_is_named(shipped_copy, capsys, change, says):
    import re

    resealed(shipped_copy, change)
    assert verify.main([str(shipped_copy)]) == 0
    assert verify.main([str(shipped_copy), "--run", "--threads", "1"]) == 1
    said = capsys.readouterr().err
    assert re.search(says, said), said
    assert f"python -m bart_onnx.export --preset {PRESET} --precision fp32" in said


def test_of_a_checkpoint_in_a_directory_the_command_says_what_it_lacks(shipped_copy, capsys):
    manifest = json.loads((shipped_copy / "manifest.json").read_text())
    manifest["source"]["name"] = "my model"
    (shipped_copy / "manifest.json").write_text(json.dumps(manifest))
    resealed(shipped_copy, another_token)
    assert verify.main([str(shipped_copy), "--run", "--threads", "1"]) == 1
    said = capsys.readouterr().err
    assert "--preset 'PATH/TO/my model' --precision fp32, with the path that it has here" in said


def test_a_machine_that_computes_otherwise_is_found(golden, shipped_model):
    """One logit in a thousand is off by a hundredth, as by a kernel that cuts sums off."""

    def sick(requests):
        for best in decoder(shipped_model)(requests):
            log_probs = best.log_probs.copy()
            log_probs[-1] += 0.002
            yield dataclasses.replace(best, log_probs=log_probs)

    found = replay(golden, lambda requests: list(sick(requests)))
    assert len(found.differences) == 2 * len(golden.requests)
    assert all("off by 0.002, allowed are 0.001" in line for line in found.differences)


def test_answers_that_change_in_company_are_told_by_their_bits(golden, shipped_model):
    def in_company(requests):
        for best in decoder(shipped_model)(requests):
            nudge = np.float32(1e-6 if len(requests) > 1 else 0)
            yield dataclasses.replace(best, log_probs=best.log_probs + nudge)

    found = replay(golden, lambda requests: list(in_company(requests)))
    assert found.differences == ()
    assert not found.same_bits


def test_logits_that_are_not_finite_are_told_with_the_weight(shipped_copy, capsys):
    opened = Bundle.open(shipped_copy)
    entry = opened.manifest["tensors"]["decoder.layers.1.feedforward_output.bias"]
    with (shipped_copy / "weights.bin").open("r+b") as file:
        file.seek(entry["offset"])
        file.write(np.float32(np.nan).tobytes())
    reseal(shipped_copy)
    with pytest.raises(GoldenError) as told:
        served.opened(ServerOptions(preset=(str(shipped_copy),), threads=1))
    assert "logits are not finite" in str(told.value)
    assert "'decoder.layers.1.feedforward_output.bias' are not finite" in str(told.value)


def without_golden(bundle):
    (bundle / GOLDEN).unlink()
    reseal(bundle)


def test_a_bundle_of_before_opens_and_says_that_it_has_none(shipped_copy, capsys):
    without_golden(shipped_copy)
    assert OnnxBartSeq2SeqLM.from_preset(shipped_copy).summarize("onnx")
    assert verify.main([str(shipped_copy)]) == 0
    assert verify.main([str(shipped_copy), "--run"]) == 1
    assert "has no golden requests" in capsys.readouterr().err
    served.close(served.opened(ServerOptions(preset=(str(shipped_copy),), threads=1)))


def test_the_server_refuses_to_be_ready(shipped_copy):
    resealed(shipped_copy, another_token)
    with pytest.raises(GoldenError, match=r"(?s)token 3 is.*export it here, from the checkpoint"):
        served.opened(ServerOptions(preset=(str(shipped_copy),), threads=1))


@pytest.mark.parametrize("limits", [{"waiting": 1}, {"rows": 1}, {"cache_tokens": 64}])
def test_the_server_rehearses_within_its_limits(shipped_copy, limits):
    options = ServerOptions(preset=(str(shipped_copy),), threads=1, **limits)
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
        lambda content: {**content, "tolerance": 1e9},
        lambda content: content["requests"][0].update(options={"trust": True}),
        lambda content: content["requests"][0].update(options={}),
        lambda content: content["requests"][0]["options"].update(min_new_tokens=1000),
        lambda content: content["requests"][0]["options"].update(num_beams=32),
        lambda content: content["requests"][0]["options"].update(max_new_tokens=1000),
        lambda content: content["requests"][0]["options"].update(min_length=1000),
        lambda content: content["requests"][0]["options"].update(num_beams=True),
        lambda content: content["requests"][0].update(ids=["x"]),
        lambda content: content["requests"][0].update(source_ids=list(range(5000))),
        lambda content: content["requests"][0].update(text=3),
        lambda content: content["requests"][0].update(log_probs=[0.0] * 99),
    ],
)
def test_what_is_no_golden_json_is_refused(shipped_copy, change):
    resealed(shipped_copy, change)
    with pytest.raises(BundleError, match="golden"):
        Golden.of(Bundle.open(shipped_copy))


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
