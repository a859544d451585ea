"""Training is Keras': its loss and accuracy, its stopping, and the same end after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import VARIANTS, random_checkpoint
from training_child import CONFIG, options, reversals

from bart_onnx.errors import CheckpointError, InputError, TrainingError
from bart_onnx.graphs import LOGITS
from bart_onnx.initializer import initialize
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.training_options import (
    Checkpointing,
    EarlyStopping,
    FitOptions,
    OptimizerOptions,
    WarmUp,
)
from exporters.bart import Bart
from exporters.model_weights import weights_of
from exporters.sources import read_directory
from exporters.training.checkpoint import STATE_FILE
from exporters.training.evaluation import evaluate, predict
from exporters.training.examples import Examples, Sequences
from exporters.training.optimizers import orthogonalised
from exporters.training.trainer import Callbacks, Trainer
from exporters.verify import full_pass

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "tests" / "training_child.py"
QUIET = FitOptions(show_progress=False)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small only wait for a second thread: minutes, where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer_of(optimizer: OptimizerOptions | None = None, config=CONFIG, **others) -> Trainer:
    bart = Bart.from_weights(config, initialize(config, 1))
    return Trainer(bart, optimizer, device="cpu", **others)


def values(bart: Bart) -> dict[str, np.ndarray]:
    return {name: read() for name, read in weights_of(bart).items()}


@pytest.fixture(scope="module")
def keras_golden(golden):
    """KerasHub's model, its evaluation and the examples it evaluated."""
    checkpoint = read_directory(golden / "hf_checkpoint", "golden", allow_pickle=False)
    said = json.loads((golden / "evaluate.json").read_text())
    tokenizer = BartTokenizer.from_files(golden / "hf_checkpoint")
    x, y, sample_weight = BartSeq2SeqLMPreprocessor(tokenizer, 24, 20)(said["data"])
    examples = Examples.checked(x, y, sample_weight, config=checkpoint.config)
    return Bart.from_weights(checkpoint.config, checkpoint.weights), examples, said


def test_evaluate_is_keras(keras_golden):
    bart, examples, said = keras_golden
    assert evaluate(bart, examples) == pytest.approx(said["evaluate"], abs=1e-5)
    assert evaluate(bart, examples, batch_size=1) == pytest.approx(said["evaluate"], abs=1e-5)


def test_predict_is_keras(keras_golden):
    bart, examples, said = keras_golden
    logits = predict(bart, examples.sequences)
    assert logits.shape == tuple(said["predict_shape"])
    assert logits.dtype == said["predict_dtype"]
    # Padding is predicted too, so the sum and every argmax hold its masks to Keras'.
    assert logits.sum(dtype=np.float64) == pytest.approx(said["predict_sum"], abs=0.05)
    np.testing.assert_array_equal(logits.argmax(-1), said["predict_argmax"])


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"few_tokens"}))
def test_predict_equals_the_pass_of_the_graphs(variant):
    config = replace(VARIANTS[variant], max_sequence_length=12)
    bart = Bart.from_weights(config, random_checkpoint(config).weights)
    sequences = reversals(5, config=config).sequences
    whole = full_pass(
        bart,
        sequences.encoder_token_ids,
        sequences.encoder_lengths,
        sequences.decoder_token_ids,
    )[LOGITS]
    logits = predict(bart, sequences, batch_size=2)
    for row, length in enumerate(sequences.decoder_lengths):
        np.testing.assert_allclose(logits[row, :length], whole[row, :length], atol=1e-4)


def test_trimming_changes_no_loss():
    bart = Bart.from_weights(CONFIG, random_checkpoint(CONFIG).weights)
    examples = reversals(20)
    one_by_one = evaluate(bart, examples, batch_size=1)
    assert one_by_one == pytest.approx(evaluate(bart, examples, batch_size=20), rel=1e-5)


def test_without_sample_weight_padding_counts():
    bart = Bart.from_weights(CONFIG, random_checkpoint(CONFIG).weights)
    weighted = reversals(4)
    everywhere = replace(weighted, weights=np.ones_like(weighted.weights))
    assert evaluate(bart, everywhere)["loss"] > evaluate(bart, weighted)["loss"]
    logits = torch.from_numpy(predict(bart, everywhere.sequences))
    targets = torch.from_numpy(everywhere.targets)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert evaluate(bart, everywhere)["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("name", "rate"), [("adam", 1e-2), ("adamw", 1e-2), ("muon", 6e-3)])
def test_overfits_one_batch(name, rate):
    trainer = trainer_of(OptimizerOptions(name, rate, weight_decay=0.0), replace(CONFIG, dropout=0))
    examples = reversals(8)
    history = trainer.fit(examples, replace(QUIET, epochs=120))
    assert history.epoch == list(range(120))
    assert history.history["loss"][-1] < 0.05 < history.history["loss"][0]
    assert evaluate(trainer.bart, examples)["sparse_categorical_accuracy"] == 1.0
    assert not trainer.bart.training


def test_adam_is_keras():
    # Two steps of the formula, by hand, on the first number of one weight.
    trainer = trainer_of(OptimizerOptions("adam", 0.1), replace(CONFIG, dropout=0.0))
    weight = trainer.bart.token_embedding
    mean = square = 0.0
    for count in (1, 2):
        before = weight[3, 0].item()
        trainer.train_on_batch(reversals(4))
        slope = weight.grad[3, 0].item()
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        rate = 0.1 * (1 - 0.999**count) ** 0.5 / (1 - 0.9**count)
        change = rate * mean / (square**0.5 + 1e-7)
        assert weight[3, 0].item() == pytest.approx(before - change, rel=1e-4)


def test_clipping_and_averaging():
    clipped = trainer_of(OptimizerOptions("adam", 1e-3, clip_norm=1e-3))
    clipped.train_on_batch(reversals(4))
    gradients = [weight.grad for weight in clipped.bart.parameters()]
    norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
    assert norm.item() == pytest.approx(1e-3, rel=1e-4)
    # With a momentum of 1 the average stays where the weights began.
    averaged = trainer_of(OptimizerOptions("adam", 1e-2, average_momentum=1.0))
    before = values(averaged.bart)
    averaged.fit(reversals(8), QUIET)
    for name, value in values(averaged.bart).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_run_is_a_function_of_its_seed():
    runs = {}
    for run, seed in (("one", 3), ("same", 3), ("other", 4)):
        trainer = trainer_of(OptimizerOptions("adam", 1e-3))
        torch.manual_seed(len(runs))
        state = torch.get_rng_state()
        trainer.fit(reversals(20), replace(QUIET, epochs=2, batch_size=4, seed=seed))
        assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers changed"
        runs[run] = values(trainer.bart)[("token_embedding")]
    np.testing.assert_array_equal(runs["one"], runs["same"])
    assert (runs["one"] != runs["other"]).any()


def test_early_stopping_restores_the_best():
    # Trained on noise, the validation loss rises again.
    trainer = trainer_of(OptimizerOptions("adam", 2e-2))
    seen = []

    def remember(epoch, logs):
        seen.append((logs["val_loss"], values(trainer.bart)))

    stopping = EarlyStopping(patience=3)
    fit_options = replace(QUIET, epochs=60, batch_size=8, early_stopping=stopping)
    history = trainer.fit(
        reversals(8), fit_options, reversals(30, seed=1), Callbacks(on_epoch_end=remember)
    )
    losses = history.history["val_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 4 < 60
    for name, value in values(trainer.bart).items():
        np.testing.assert_array_equal(value, seen[best][1][name])
    found = evaluate(trainer.bart, reversals(30, seed=1), batch_size=8)
    assert found["loss"] == losses[best]


def run_child(directory: Path, *last: int) -> int:
    command = [sys.executable, str(CHILD), str(directory), *map(str, last)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, timeout=300).returncode


def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    assert run_child(tmp_path / "whole") == 0
    # Within the second epoch and between two checkpoints; then in the third, right after one.
    for last in (11, 21):
        assert run_child(tmp_path / "killed", last) == -signal.SIGKILL
    (tmp_path / "killed" / f".{STATE_FILE}.unfinished").write_bytes(b"half a file")
    assert run_child(tmp_path / "killed") == 0
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert (whole / "history.json").read_text() == (killed / "history.json").read_text()
    with np.load(whole / "weights.npz") as expected, np.load(killed / "weights.npz") as found:
        assert sorted(expected) == sorted(found)
        for name in expected:
            np.testing.assert_array_equal(expected[name], found[name])


def test_a_finished_run_is_read_back(tmp_path):
    examples, checkpointing = reversals(12), Checkpointing(tmp_path)
    fit_options = replace(QUIET, epochs=2, checkpointing=checkpointing)
    first, again = (trainer_of(OptimizerOptions("adam", 1e-3)) for _ in range(2))
    history = first.fit(examples, fit_options)
    assert again.fit(examples, fit_options) == history
    for name, value in values(first.bart).items():
        np.testing.assert_array_equal(value, values(again.bart)[name])
    more = again.fit(examples, replace(fit_options, epochs=3))
    assert more.history["loss"][:2] == history.history["loss"]
    assert more.epoch == [0, 1, 2]


def test_another_run_is_not_continued(tmp_path):
    fit_options = replace(QUIET, checkpointing=Checkpointing(tmp_path))
    trainer_of().fit(reversals(12), fit_options)
    with pytest.raises(InputError, match="examples was"):
        trainer_of().fit(reversals(12, seed=9), fit_options)
    with pytest.raises(InputError, match="optimizer was"):
        trainer_of(OptimizerOptions("adamw")).fit(reversals(12), fit_options)
    with pytest.raises(InputError, match="batch_size was 32 and is 6"):
        trainer_of().fit(reversals(12), replace(fit_options, batch_size=6))
    anew = replace(fit_options, checkpointing=Checkpointing(tmp_path, resume=False))
    with pytest.raises(InputError, match="already holds a run"):
        trainer_of().fit(reversals(12), anew)


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / STATE_FILE).write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="no training state that can be read"):
        trainer_of().fit(reversals(12), replace(QUIET, checkpointing=Checkpointing(tmp_path)))


def test_the_bar_tells_loss_and_speed(capsys, tmp_path):
    trainer_of().fit(reversals(12), replace(options(tmp_path), show_progress=True), reversals(4))
    shown = capsys.readouterr().err
    for word in ("Epoch 1/3", "loss=", "tokens/s=", "val_loss="):
        assert word in shown


def test_a_loss_that_is_no_number_is_named_with_its_step():
    trainer = trainer_of(OptimizerOptions("adam", lambda step: 1e-3 if step < 5 else 1e30))
    with pytest.raises(TrainingError, match=r"at step 7 \(batch 3 of epoch 2\)"):
        trainer.fit(reversals(16), replace(QUIET, epochs=9, batch_size=4))
    assert all(np.isfinite(value).all() for value in values(trainer.bart).values())


def test_orthogonalised():
    matrices = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(0))
    for given in (matrices, matrices.mT):
        found = orthogonalised(given)
        assert found.dtype == torch.float32
        u, _, v = torch.linalg.svd(given, full_matrices=False)
        singular = torch.linalg.svdvals(found)
        assert 0.6 < singular.min() < singular.max() < 1.25
        # The directions are those of the nearest orthogonal matrix.
        cosine = torch.nn.functional.cosine_similarity(found.flatten(1), (u @ v).flatten(1))
        assert cosine.min() > 0.95


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_weights_come_out_as_they_went_in(variant):
    config = VARIANTS[variant]
    checkpoint = random_checkpoint(config)
    trainer = Trainer(Bart.from_weights(config, checkpoint.weights), device="cpu")
    found = values(trainer.bart)
    assert list(found) == list(checkpoint.weights)
    for name, read in checkpoint.weights.items():
        np.testing.assert_array_equal(found[name], read())


def test_rates():
    rate = WarmUp(1.0, 2, 6, "linear")
    assert [rate(step) for step in range(8)] == [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    held = WarmUp(1.0, 1, 6, "cosine", end=0.5, hold_steps=3)
    assert [held(step) for step in range(7)] == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5])


def test_validation_is_split_from_the_end():
    examples = reversals(10)
    training, validation = examples.split(0.2)
    assert (len(training), len(validation)) == (8, 2)
    np.testing.assert_array_equal(validation.targets, examples.targets[8:])
    for share in (0, 1, 0.95, "half"):
        with pytest.raises(InputError, match="validation_split is"):
            examples.split(share)


def arrays(**changes):
    sequences = reversals(3).sequences
    places = np.arange(12)
    x = {
        "encoder_token_ids": sequences.encoder_token_ids,
        "encoder_padding_mask": places < sequences.encoder_lengths[:, None],
        "decoder_token_ids": sequences.decoder_token_ids,
        "decoder_padding_mask": places < sequences.decoder_lengths[:, None],
    }
    return {name: value for name, value in {**x, **changes}.items() if value is not None}


WIDE = np.full((3, 13), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_padding_mask": None}, "x lacks encoder_padding_mask"),
        ({"encoder_token_ids": np.zeros((0, 12), int)}, "shape"),
        ({"encoder_token_ids": [[1, 2], [3]]}, "encoder_token_ids has rows of unequal length"),
        ({"encoder_token_ids": np.zeros(12, int)}, "must have two axes"),
        ({"encoder_token_ids": np.zeros((3, 12))}, "must be integers, found an array of float64"),
        ({"decoder_token_ids": np.full((3, 12), 31)}, "holds the id 31 in row 0, place 0"),
        ({"decoder_token_ids": np.full((3, 12), -1)}, "vocabulary has ids 0 to 30"),
        ({"encoder_padding_mask": np.eye(12, dtype=int)[:3]}, "Row 1 of encoder_padding_mask"),
        ({"encoder_padding_mask": np.zeros((3, 12), int)}, "Row 0 .* at least one 1"),
        ({"encoder_token_ids": WIDE, "encoder_padding_mask": WIDE}, "this model has 12 positions"),
        (
            {name: arrays()[name][:2] for name in ("encoder_token_ids", "encoder_padding_mask")},
            "encoder_token_ids has 2 rows and decoder_token_ids has 3",
        ),
    ],
)
def test_bad_inputs_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Sequences.checked(arrays(**changes), CONFIG)


@pytest.mark.parametrize(
    ("y", "sample_weight", "message"),
    [
        (np.full((3, 11), 3), None, r"y has shape \(3, 11\)"),
        (np.full((3, 12), 31), None, "y holds the id 31"),
        (np.full((3, 12), 3), np.ones((3, 5)), "sample_weight has shape"),
        (np.full((3, 12), 3), np.full((3, 12), np.nan), "negative number or none"),
        (np.full((3, 12), 3), [["a"]], "must be numbers"),
    ],
)
def test_bad_targets_are_refused(y, sample_weight, message):
    with pytest.raises(InputError, match=message):
        Examples.checked(arrays(), y, sample_weight, config=CONFIG)


def test_nothing_to_train_on():
    empty = {name: array[:0] for name, array in arrays().items()}
    with pytest.raises(InputError, match="no tokens to train on"):
        Examples.checked(empty, np.zeros((0, 12), int), config=CONFIG)
    with pytest.raises(InputError, match="must be a dict of arrays, found list"):
        Sequences.checked([1], CONFIG)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerOptions("sgd"), "known are adam, adamw, muon"),
        (lambda: OptimizerOptions(learning_rate=float("nan")), "learning_rate is nan"),
        (lambda: OptimizerOptions(clip_norm=0), "clip_norm is 0"),
        (lambda: FitOptions(batch_size=0), "batch_size is 0"),
        (lambda: FitOptions(epochs=1.5), "epochs is 1.5"),
        (lambda: WarmUp(1.0, 5, 5), "total_steps is 5"),
        (lambda: WarmUp(1.0, 0, 5, "sudden"), "known are constant, linear, cosine"),
        (lambda: EarlyStopping(patience=-1), "patience is -1"),
        (lambda: trainer_of(label_smoothing=1.0), "label_smoothing is 1.0"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_an_unknown_figure_cannot_be_monitored():
    stopping = replace(QUIET, early_stopping=EarlyStopping("val_loss"))
    with pytest.raises(InputError, match="the figures are loss, sparse_categorical_accuracy"):
        trainer_of().fit(reversals(4), stopping)
