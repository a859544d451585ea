"""The onnxruntime runner: steps equal one pass of torch, rows do not depend on their batch."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
from tiny_models import VARIANTS, random_checkpoint

from bart_onnx.errors import DeviceError, InputTooLongError
from bart_onnx.graphs import (
    CROSS_ATTENTION,
    DECODER_SEQUENCE_OUTPUT,
    LOG_SUM_EXP,
    LOGITS,
    NEXT_TOKEN_IDS,
    TOP_LOGITS,
    TOP_TOKEN_IDS,
)
from bart_onnx.runners.ort import OrtRunner
from bart_onnx.runners.providers import open_session
from exporters.bart import Bart
from exporters.verify import full_pass

EVERYTHING = (
    LOGITS,
    NEXT_TOKEN_IDS,
    TOP_LOGITS,
    TOP_TOKEN_IDS,
    LOG_SUM_EXP,
    DECODER_SEQUENCE_OUTPUT,
    CROSS_ATTENTION,
)
# The axis that counts the tokens fed.
QUERY_AXIS = dict.fromkeys(EVERYTHING, 1) | {CROSS_ATTENTION: 3}


@pytest.fixture(params=[1, 2])
def runner(request, variant_bundles):
    return OrtRunner(variant_bundles("plain"), threads=request.param)


def random_rows(config, rows, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 24, rows)
    sources = random.integers(config.vocabulary_size, size=(rows, int(lengths.max())))
    tokens = random.integers(config.vocabulary_size, size=(rows, 90))
    return sources, lengths, tokens


def decode(runner, sources, lengths, tokens, steps, wanted=(LOGITS,)):
    """Outputs of every token of `tokens` when fed in steps of these sizes."""
    state = runner.encode(sources, lengths)
    pieces, start = [], 0
    for count in steps:
        outputs = runner.step(state, tokens[:, start : start + count], wanted)
        pieces.append({name: array.copy() for name, array in outputs.items()})
        start += count
    return {
        name: np.concatenate([piece[name] for piece in pieces], axis=QUERY_AXIS[name])
        for name in wanted
    }


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_steps_equal_one_pass_of_torch(variant, variant_bundles):
    config = VARIANTS[variant]
    bart = Bart.from_weights(config, random_checkpoint(config).weights)
    random = np.random.default_rng(3)
    length = config.max_sequence_length
    lengths = np.array([length, 1, length // 2])
    sources = random.integers(config.vocabulary_size, size=(3, length))
    tokens = random.integers(config.vocabulary_size, size=(3, length))
    expected = full_pass(bart, sources, lengths, tokens)
    steps = [2, 3] + [1] * (length - 5)
    runner = OrtRunner(variant_bundles(variant))
    found = decode(runner, sources, lengths, tokens, steps, EVERYTHING)
    np.testing.assert_allclose(found[LOGITS], expected[LOGITS], atol=1e-4, rtol=0)
    weighed = found[CROSS_ATTENTION]
    np.testing.assert_allclose(weighed[..., :length], expected[CROSS_ATTENTION], atol=1e-5, rtol=0)
    assert not weighed[..., length:].any()
    np.testing.assert_array_equal(found[NEXT_TOKEN_IDS], found[LOGITS].argmax(-1))
    best = np.sort(found[LOGITS], axis=-1)[..., ::-1][..., : found[TOP_LOGITS].shape[-1]]
    np.testing.assert_array_equal(found[TOP_LOGITS], best)
    np.testing.assert_array_equal(
        np.take_along_axis(found[LOGITS], found[TOP_TOKEN_IDS], -1), found[TOP_LOGITS]
    )
    log_sum_exp = np.log(np.exp(found[LOGITS].astype(np.float64)).sum(-1))
    np.testing.assert_allclose(found[LOG_SUM_EXP], log_sum_exp, atol=1e-5, rtol=1e-6)


def test_a_row_alone_is_bit_equal_to_the_row_in_any_batch(runner):
    sources, lengths, tokens = random_rows(runner.config, 9)
    steps = [2] + [1] * 80  # past the first growth of the caches
    together = decode(runner, sources, lengths, tokens, steps, EVERYTHING)
    for row in range(9):
        one = slice(row, row + 1)
        trimmed = sources[one, : lengths[row]]
        alone = decode(runner, trimmed, lengths[one], tokens[one], steps, EVERYTHING)
        # Beside a longer source there is more padding.
        width = alone[CROSS_ATTENTION].shape[-1]
        wide = together | {CROSS_ATTENTION: together[CROSS_ATTENTION][..., :width]}
        for name in EVERYTHING:
            np.testing.assert_array_equal(alone[name][0], wide[name][row], err_msg=name)


@pytest.mark.parametrize("threads", [1, 2])
def test_wide_rows_are_bit_equal_too(variant_bundles, threads):
    runner = OrtRunner(variant_bundles("wide"), threads=threads)
    random = np.random.default_rng(threads)
    lengths = np.array([512, 3, 100, 257, 31])
    sources = random.integers(257, size=(5, 512))
    tokens = random.integers(257, size=(5, 80))
    steps = [66] + [1] * 4
    together = decode(runner, sources, lengths, tokens, steps)[LOGITS]
    encoded = runner.encoder_output(sources, lengths)
    for row in range(5):
        one = slice(row, row + 1)
        trimmed = sources[one, : lengths[row]]
        alone = decode(runner, trimmed, lengths[one], tokens[one], steps)[LOGITS]
        np.testing.assert_array_equal(alone[0], together[row])
        output = runner.encoder_output(trimmed, lengths[one])
        np.testing.assert_array_equal(output[0], encoded[row, : lengths[row]])


def test_padding_of_the_source_is_never_read(runner):
    sources, lengths, tokens = random_rows(runner.config, 4)
    other = sources.copy()
    other[np.arange(sources.shape[1]) >= lengths[:, None]] = 7
    steps = [2, 1, 1]
    np.testing.assert_array_equal(
        decode(runner, sources, lengths, tokens, steps)[LOGITS],
        decode(runner, other, lengths, tokens, steps)[LOGITS],
    )


def weighed_alone(runner, sources, lengths, source, fed):
    """Cross-attention [layers, heads, tokens, source_length] of one row of a source."""
    one = slice(source, source + 1)
    state = runner.encode(sources[one], lengths[one])
    return runner.step(state, fed[None], (CROSS_ATTENTION,))[CROSS_ATTENTION][0]


def test_cross_attention_is_zero_past_the_source_and_sums_to_one(runner):
    sources, lengths, tokens = random_rows(runner.config, 5)
    weighed = decode(runner, sources, lengths, tokens, [3, 1, 2], (CROSS_ATTENTION,))
    weighed = weighed[CROSS_ATTENTION]
    config, width = runner.config.decoder, -(-sources.shape[1] // 16) * 16
    assert weighed.shape == (5, config.num_layers, config.num_heads, 6, width)
    assert weighed.dtype == np.float32
    for row, length in enumerate(lengths):
        assert (weighed[row, ..., length:] == 0).all()
        assert (weighed[row, ..., :length] > 0).all()
    np.testing.assert_allclose(weighed.sum(-1), 1, atol=1e-6)
    part = runner.encode(sources, lengths).between(1, 3)
    found = runner.step(part, tokens[1:3, :3], (CROSS_ATTENTION,))[CROSS_ATTENTION]
    np.testing.assert_array_equal(found, weighed[1:3, ..., :3, :])


@pytest.mark.parametrize("count", [1, 2])
def test_every_beam_has_the_cross_attention_of_its_own_tokens(runner, count):
    sources, lengths, tokens = random_rows(runner.config, 3)
    state = beams_of(runner, sources, lengths, tokens, 4)
    fed = np.random.default_rng(1).integers(runner.config.vocabulary_size, size=(12, count))
    weighed = runner.step(state, fed, (CROSS_ATTENTION,))[CROSS_ATTENTION].copy()
    assert weighed.shape[0] == 12
    for row in range(12):
        history = np.concatenate([tokens[row // 4, :2], fed[row]])
        alone = weighed_alone(runner, sources, lengths, row // 4, history)[..., 2:, :]
        np.testing.assert_allclose(weighed[row], wider(alone, weighed), atol=1e-6)
    # Beams that change places, and sources that leave, take theirs along.
    rows = np.array([9, 8, 8, 11, 2, 2, 1, 0])
    state.select(rows)
    after = np.random.default_rng(2).integers(runner.config.vocabulary_size, size=(8, 1))
    weighed = runner.step(state, after, (CROSS_ATTENTION,))[CROSS_ATTENTION]
    for place, row in enumerate(rows):
        history = np.concatenate([tokens[row // 4, :2], fed[row], after[place]])
        alone = weighed_alone(runner, sources, lengths, row // 4, history)[..., -1:, :]
        np.testing.assert_allclose(weighed[place], wider(alone, weighed), atol=1e-6)


def wider(weighed, like):
    """With as much padding as another has."""
    missing = like.shape[-1] - weighed.shape[-1]
    return np.pad(weighed, [(0, 0)] * 3 + [(0, missing)])


def test_asking_for_cross_attention_changes_no_other_bit(runner):
    sources, lengths, tokens = random_rows(runner.config, 4)
    others = EVERYTHING[:-1]
    without = decode(runner, sources, lengths, tokens, [3, 1, 1, 2], others)
    beside = decode(runner, sources, lengths, tokens, [3, 1, 1, 2], EVERYTHING)
    for name in others:
        np.testing.assert_array_equal(without[name], beside[name], err_msg=name)


def test_the_alignment_graph_is_opened_when_it_is_asked_for(variant_bundles, monkeypatch):
    opened = []

    def noted(path, *arguments, **options):
        opened.append(path.stem)
        return open_session(path, *arguments, **options)

    monkeypatch.setattr("bart_onnx.runners.ort.open_session", noted)
    runner = OrtRunner(variant_bundles("plain"), threads=1)
    sources, lengths, tokens = random_rows(runner.config, 2)
    state = runner.encode(sources, lengths)
    runner.step(state, tokens[:, :2], (LOGITS, DECODER_SEQUENCE_OUTPUT))
    assert opened == ["encoder", "decoder_step"]
    for column in (2, 3):
        found = runner.step(state, tokens[:, [column]], (CROSS_ATTENTION,))
        assert list(found) == [CROSS_ATTENTION]
    assert opened == ["encoder", "decoder_step", "alignment"]


def test_selected_rows_go_on_as_if_they_were_alone(runner):
    sources, lengths, tokens = random_rows(runner.config, 6)
    expected = decode(runner, sources, lengths, tokens, [2] + [1] * 8)[LOGITS]
    state = runner.encode(sources, lengths)
    runner.step(state, tokens[:, :2], ())
    rows = np.arange(6)
    for position, order in ((2, [0, 5, 2, 4]), (3, [3, 1]), (4, [1, 0]), (5, [0])):
        logits = runner.step(state, tokens[rows, position : position + 1], (LOGITS,))[LOGITS]
        np.testing.assert_array_equal(logits[:, 0], expected[rows, position])
        state.select(np.array(order))
        rows = rows[order]
        assert state.lengths.tolist() == [position + 1] * len(order)


def beams_of(runner, sources, lengths, tokens, count):
    """A state of `count` rows for each source, after two tokens that they have in common."""
    state = runner.encode(sources, lengths)
    runner.step(state, tokens[:, :2], ())
    state.expand(count)
    return state


def test_expanded_rows_share_their_sources_caches(runner):
    sources, lengths, tokens = random_rows(runner.config, 3)
    state = beams_of(runner, sources, lengths, tokens, 4)
    assert [array.shape[0] for array in state.own] == [12] * len(state.own)
    assert [array.shape[0] for array in state.cross.values()] == [3] * len(state.cross)
    assert state.lengths.tolist() == [2] * 12
    fed = np.random.default_rng(1).integers(runner.config.vocabulary_size, size=(12, 5))
    logits = [
        runner.step(state, fed[:, [column]], (LOGITS,))[LOGITS][:, 0].copy() for column in range(5)
    ]
    for row in range(12):
        # More queries for a source change the last bits of its attention, and nothing else.
        one = slice(row // 4, row // 4 + 1)
        history = np.concatenate([tokens[one, :2], fed[[row]]], axis=1)
        alone = decode(runner, sources[one], lengths[one], history, [2] + [1] * 5)[LOGITS][0, 2:]
        np.testing.assert_allclose([line[row] for line in logits], alone, atol=1e-5, rtol=1e-5)


def test_beams_of_a_source_alone_are_bit_equal_to_those_in_a_batch(runner):
    sources, lengths, tokens = random_rows(runner.config, 4)
    fed = np.random.default_rng(2).integers(runner.config.vocabulary_size, size=(12, 6))

    def logits(some, rows):
        state = beams_of(runner, sources[some], lengths[some], tokens[some], 3)
        return [
            runner.step(state, fed[rows][:, [column]], (LOGITS,))[LOGITS].copy()
            for column in range(6)
        ]

    together = logits(slice(0, 4), slice(0, 12))
    for source in range(4):
        rows = slice(3 * source, 3 * source + 3)
        alone = logits(slice(source, source + 1), rows)
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, all_rows[rows])


def test_reordered_beams_go_on_as_their_parents(runner):
    sources, lengths, tokens = random_rows(runner.config, 2)
    first = np.array([[3], [4], [5], [6], [7], [8]])
    parents = np.array([1, 1, 0, 3, 5, 5])
    state = beams_of(runner, sources, lengths, tokens, 3)
    runner.step(state, first, ())
    version, arrays = state.version, [*state.own, *state.cross.values()]
    state.select(parents)
    # As many rows as before: nothing is bound anew.
    assert state.version == version
    assert all(a is b for a, b in zip(arrays, [*state.own, *state.cross.values()], strict=True))
    found = runner.step(state, first + 20, (LOGITS,))[LOGITS].copy()
    other = beams_of(runner, sources, lengths, tokens, 3)
    runner.step(other, first[parents], ())
    np.testing.assert_array_equal(runner.step(other, first + 20, (LOGITS,))[LOGITS], found)


def test_only_what_differs_is_moved(runner):
    sources, lengths, tokens = random_rows(runner.config, 2)
    state = beams_of(runner, sources, lengths, tokens, 2)
    runner.step(state, np.array([[3], [4], [5], [6]]), ())
    before = [array.copy() for array in state.own]
    state.select(np.arange(4))
    for array, was in zip(state.own, before, strict=True):
        np.testing.assert_array_equal(array, was)
        array[:, :, :2] = 7  # what the rows have in common stays where it is
    state.select(np.array([1, 1, 3, 3]), since=2)
    for array, was in zip(state.own, before, strict=True):
        assert (array[:, :, :2] == 7).all()
        np.testing.assert_array_equal(array[:, :, 2], was[[1, 1, 3, 3], :, 2])


def test_dropped_sources_take_their_beams_along(runner):
    sources, lengths, tokens = random_rows(runner.config, 3)
    state = beams_of(runner, sources, lengths, tokens, 2)
    fed = np.array([[3], [4], [5], [6], [7], [8]])
    expected = runner.step(state, fed, (LOGITS,))[LOGITS].copy()
    state = beams_of(runner, sources, lengths, tokens, 2)
    state.select(np.array([4, 5, 2, 2]))
    found = runner.step(state, fed[[4, 5, 2, 3]], (LOGITS,))[LOGITS]
    np.testing.assert_array_equal(found, expected[[4, 5, 2, 3]])
    assert state.source_lengths.tolist() == lengths[[2, 1]].tolist()


def test_truncated_rows_are_decoded_again(runner):
    sources, lengths, tokens = random_rows(runner.config, 3)
    expected = decode(runner, sources, lengths, tokens, [2, 1, 1, 1])[LOGITS]
    state = runner.encode(sources, lengths)
    runner.step(state, tokens[:, :2], ())
    for wrong in tokens[:, 40:43].T:
        runner.step(state, wrong[:, None], ())
    state.truncate(np.array([2, 2, 2]))
    for position in (2, 3, 4):
        logits = runner.step(state, tokens[:, position : position + 1], (LOGITS,))[LOGITS]
        np.testing.assert_array_equal(logits[:, 0], expected[:, position])


def test_rows_of_unequal_lengths_step_together(runner):
    sources, lengths, tokens = random_rows(runner.config, 5)
    expected = [
        decode(runner, sources[:2], lengths[:2], tokens[:2], [2, 1, 1])[LOGITS][:, 2:],
        decode(runner, sources[2:], lengths[2:], tokens[2:], [70, 1, 1])[LOGITS][:, 70:],
    ]
    state = runner.encode(sources, lengths)
    runner.step(state.between(0, 2), tokens[:2, :2], ())
    runner.step(state.between(2, 5), tokens[2:, :70], ())
    for index in range(2):
        fed = np.concatenate([tokens[:2, 2 + index], tokens[2:, 70 + index]])
        logits = runner.step(state, fed[:, None], (LOGITS,))[LOGITS][:, 0]
        np.testing.assert_array_equal(logits[:2], expected[0][:, index])
        np.testing.assert_array_equal(logits[2:], expected[1][:, index])


def test_a_large_encoder_batch_is_encoded_in_parts(runner, monkeypatch):
    sources, lengths, tokens = random_rows(runner.config, 7)
    expected = decode(runner, sources, lengths, tokens, [2, 1])[LOGITS]
    monkeypatch.setattr("bart_onnx.runners.ort._ENCODER_TOKENS", 2 * sources.shape[1])
    np.testing.assert_array_equal(
        decode(runner, sources, lengths, tokens, [2, 1])[LOGITS], expected
    )


def test_positions_beyond_the_model_are_refused(runner):
    limit = runner.config.max_sequence_length
    state = runner.encode(np.zeros((1, limit), np.int64), np.array([limit]))
    runner.step(state, np.zeros((1, limit), np.int64), ())
    with pytest.raises(InputTooLongError, match=f"{limit + 1} tokens; this model has {limit}"):
        runner.step(state, np.zeros((1, 1), np.int64), ())
    with pytest.raises(InputTooLongError, match="encoder"):
        runner.encode(np.zeros((1, limit + 1), np.int64), np.array([limit + 1]))


def test_unknown_and_missing_devices_are_refused(variant_bundles):
    bundle = variant_bundles("plain")
    with pytest.raises(DeviceError, match="devices: cpu"):
        OrtRunner(bundle, device="cuda")


def test_threads_decode_at_the_same_time(runner):
    sources, lengths, tokens = random_rows(runner.config, 4)
    expected = decode(runner, sources, lengths, tokens, [2] + [1] * 20)[LOGITS]
    found = []

    def work():
        found.append(decode(runner, sources, lengths, tokens, [2] + [1] * 20)[LOGITS])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for logits in found:
        np.testing.assert_array_equal(logits, expected)


def _decode_in_child(runner, arguments, queue):
    queue.put(decode(runner, *arguments)[LOGITS])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_opens_its_own_sessions(variant_bundles):
    runner = OrtRunner(variant_bundles("plain"), threads=2)
    arguments = (*random_rows(runner.config, 3), [2, 1, 1])
    expected = decode(runner, *arguments)[LOGITS]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_decode_in_child, args=(runner, arguments, queue))
    child.start()
    found = queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(found, expected)


def test_a_part_that_was_selected_from_grows_with_its_own_rows(runner):
    sources, lengths, tokens = random_rows(runner.config, 6)
    expected = decode(runner, sources, lengths, tokens, [2, 70, 1])[LOGITS]
    state = runner.encode(sources, lengths)
    runner.step(state, tokens[:, :2], ())
    part = state.between(2, 5)
    part.select(np.array([0, 2]))
    rows = [2, 4]
    runner.step(part, tokens[rows, 2:72], ())
    found = runner.step(part, tokens[rows, 72:73], (LOGITS,))[LOGITS]
    np.testing.assert_array_equal(found[:, 0], expected[rows, 72])


def test_a_state_may_lose_all_its_rows(runner):
    sources, lengths, _ = random_rows(runner.config, 2)
    state = runner.encode(sources, lengths)
    for _ in range(2):
        state.select(np.array([], np.intp))
    assert state.lengths.tolist() == []
