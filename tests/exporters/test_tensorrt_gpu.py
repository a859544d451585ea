"""Engines built and run on the GPU that is here: `pytest -m gpu`. Without one, the fake engines of
tests/bart_onnx/test_tensorrt_runner.py are all there is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bart_onnx.bundle import Bundle
from bart_onnx.decoding.arrays import checked_prompts
from bart_onnx.decoding.loop import generate
from bart_onnx.errors import DeviceError, MissingPackageError
from bart_onnx.graphs import LOGITS
from bart_onnx.runners.cuda_driver import compute_capability_here
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.runners.tensorrt import TensorRTRunner
from bart_onnx.runners.tensorrt_library import tensorrt_library
from bart_onnx.samplers import GreedySampler
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.store import shipped_path
from exporters.progress import Progress
from exporters.tensorrt import EngineRequest, build_engines

pytestmark = pytest.mark.gpu
WORDS = Path(__file__).resolve().parents[1] / "data" / "words.txt"


@pytest.fixture(scope="module")
def runners(tmp_path_factory):
    """The shipped preset on the CPU, and as engines on the GPU here."""
    try:
        card, library = compute_capability_here(), tensorrt_library()
    except (DeviceError, MissingPackageError) as error:
        pytest.skip(str(error))
    if library.compute_capabilities and card not in library.compute_capabilities:
        pytest.skip(f"{library.name} builds nothing for the {card} here")
    bundle = Bundle.open(shipped_path("bart_tiny_en_g2p"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BART_ONNX_HOME", str(tmp_path_factory.mktemp("home")))
        (directory,) = build_engines(bundle, EngineRequest(max_batch=16), Progress(shown=False))
    return OrtRunner(bundle), TensorRTRunner.open(bundle, directory)


def test_prompts_and_steps_give_the_cpus_logits(runners):
    """Whether lengths and the diagonal mean what the graph means: several tokens, ragged rows."""
    config = runners[0].config
    random = np.random.default_rng(0)
    lengths = np.array([20, 7, 1, 13])
    sources = random.integers(3, config.vocabulary_size, (4, 20))
    fed = random.integers(3, config.vocabulary_size, (4, 9))
    found = []
    for runner in runners:
        state = runner.encode(sources, lengths)
        runner.step(state.between(0, 2), fed[:2, :3], ())
        runner.step(state.between(2, 4), fed[2:, :1], ())
        pieces = (fed[:, 3:8], *[fed[:, 8:]] * 6)
        steps = [runner.step(state, piece, (LOGITS,))[LOGITS].copy() for piece in pieces]
        found.append(np.concatenate(steps, axis=1))
    np.testing.assert_allclose(found[1], found[0], atol=2e-3, rtol=0)


def test_words_are_pronounced_as_on_the_cpu(runners):
    lm = OnnxBartSeq2SeqLM.from_preset("bart_tiny_en_g2p", offline=True)
    words = [line.split("\t")[0] for line in WORDS.read_text(encoding="utf-8").splitlines()]
    prompts = checked_prompts(lm.preprocessor.generate_preprocess(words), lm.backbone.config)
    stops = [lm.backbone.config.end_token_id]
    cpu, gpu = (generate(runner, prompts, GreedySampler(), stops) for runner in runners)
    same = [
        cpu.lengths[row] == gpu.lengths[row]
        and (cpu.token_ids[row, :length] == gpu.token_ids[row, :length]).all()
        for row, length in enumerate(cpu.lengths)
    ]
    assert sum(same) >= 995, (
        f"other words: {[words[row] for row in np.flatnonzero(~np.array(same))]}"
    )
