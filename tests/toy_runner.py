"""A runner without a model: what a step gives is drawn from a row's source and history.

So they are the same for a row in any batch, and a mistake in moving rows changes what follows.
"""

from __future__ import annotations

import numpy as np

from bart_onnx.config import BartConfig
from bart_onnx.decoding.prompts import Prompts
from bart_onnx.graphs import (
    CROSS_ATTENTION,
    DECODER_SEQUENCE_OUTPUT,
    LOG_SUM_EXP,
    LOGITS,
    NEXT_TOKEN_IDS,
    TOP_LOGITS,
    TOP_TOKEN_IDS,
)

START, PAD, END = 0, 1, 2
WIDTH = 11


def config(vocabulary_size=13, hidden_dim=6):
    return BartConfig(vocabulary_size, 1, 1, hidden_dim, 8, max_sequence_length=64)


def what_follows(config, source, history):
    """Logits [vocabulary] and hidden state [hidden_dim] after these tokens."""
    random = np.random.default_rng([source, *history])
    logits = random.normal(0, 2, config.vocabulary_size).astype(np.float32)
    return logits, random.normal(0, 1, config.hidden_dim).astype(np.float32)


def what_is_weighed(config, source, length, history, width):
    """Cross-attention [layers, heads, width] while the last of these tokens is fed."""
    random = np.random.default_rng([source, length, *history, 1])
    side = config.decoder
    weights = np.zeros((side.num_layers, side.num_heads, width), np.float32)
    shape = (*weights.shape[:2], length)
    weights[..., :length] = random.dirichlet(np.ones(length), shape[:2]).reshape(shape)
    return weights


def step_outputs(logits, hidden=None, weighed=None):
    """Everything that a decoder step gives for logits [rows, query_length, vocabulary]."""
    logits = np.asarray(logits, np.float32)
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :64]
    highest = logits.max(axis=-1)
    sums = np.exp(logits.astype(np.float64) - highest[..., None]).sum(axis=-1)
    return {
        LOGITS: logits,
        NEXT_TOKEN_IDS: logits.argmax(axis=-1),
        TOP_LOGITS: np.take_along_axis(logits, order, axis=-1),
        TOP_TOKEN_IDS: order,
        LOG_SUM_EXP: (highest + np.log(sums)).astype(np.float32),
        DECODER_SEQUENCE_OUTPUT: hidden,
        CROSS_ATTENTION: weighed,
    }


class ToyState:
    """The source of each group of rows, its length, and the tokens that each row was fed."""

    def __init__(self, sources, histories, width):
        self.sources, self.histories, self.width = sources, histories, width

    @property
    def lengths(self):
        return np.array([len(history) for history in self.histories])

    def source(self, row):
        return self.sources[row // (len(self.histories) // len(self.sources))]

    def between(self, first, last):
        # The lists are shared, as the memory of a real state is.
        return ToyState(self.sources[first:last], self.histories[first:last], self.width)

    def truncate(self, lengths):
        for history, length in zip(self.histories, lengths.tolist(), strict=True):
            assert length <= len(history)
            del history[length:]

    def expand(self, count):
        self.histories = [list(history) for history in self.histories for _ in range(count)]

    def select(self, rows, since=0):
        beams = len(self.histories) // len(self.sources)
        for place, row in enumerate(rows):
            assert self.source(row) == self.source(rows[place // beams * beams])
            if since:
                assert self.histories[row][:since] == self.histories[place][:since]
        self.sources = [self.source(row) for row in rows[::beams]]
        self.histories = [list(self.histories[row]) for row in rows]


class ToySlots:
    """Rows that come and go."""

    def __init__(self, copies):
        self.copies, self.rows = copies, ToyState([], [], 0)

    def join(self, other):
        assert len(other.sources) == len(other.histories)
        rows, width = self.rows, max(self.rows.width, other.width)
        histories = [list(history) for history in other.histories for _ in range(self.copies)]
        self.rows = ToyState(rows.sources + list(other.sources), rows.histories + histories, width)

    def select(self, rows, since=0):
        if len(rows):
            self.rows.select(rows, since)
        else:
            self.rows = ToyState([], [], 0)


class ToyRunner:
    """Encodes to a source's first token and length; records the shape of every step."""

    def __init__(self, config):
        self.config = config
        self.tokens_at_once = 64
        self.batch_tokens = None
        self.steps = []

    def drafts_pay(self, sources):
        return True

    def follow(self, source, history):
        return what_follows(self.config, source, history)

    def encode(self, token_ids, lengths):
        sources = list(zip(token_ids[:, 0].tolist(), lengths.tolist(), strict=True))
        return ToyState(sources, [[] for _ in lengths], token_ids.shape[1])

    def slots(self, copies):
        return ToySlots(copies)

    def step(self, state, token_ids, wanted):
        self.steps.append(token_ids.shape)
        assert ((token_ids >= 0) & (token_ids < self.config.vocabulary_size)).all()
        logits, hidden, weighed = [], [], []
        for row, tokens in enumerate(token_ids):
            source, length = state.source(row)
            for token in tokens.tolist():
                history = state.histories[row]
                history.append(token)
                found = self.follow(source, history)
                logits.append(found[0])
                hidden.append(found[1])
                weighed.append(what_is_weighed(self.config, source, length, history, state.width))
        shape = (*token_ids.shape, -1)
        looks = np.reshape(weighed, (*token_ids.shape, *weighed[0].shape)).transpose(0, 2, 3, 1, 4)
        outputs = step_outputs(np.reshape(logits, shape), np.reshape(hidden, shape), looks)
        return {name: outputs[name] for name in wanted}


def next_by_hand(config):
    """A `next` for calls by hand. Its cache holds each row's source and the tokens it was fed."""

    def next(prompt, cache, index):
        sources, fed = cache["source"], cache["fed"][0].copy()
        np.testing.assert_array_equal(fed[:, : index - 1], prompt[:, : index - 1])
        fed[:, index - 1] = prompt[:, index - 1]
        found = [
            what_follows(config, int(source), row[:index].tolist())
            for source, row in zip(sources, prompt, strict=True)
        ]
        logits, hidden = (np.stack(part) for part in zip(*found, strict=True))
        return logits, hidden, {"source": sources, "fed": (fed,)}

    return next


def call_by_hand(sampler, config, prompts, stops):
    """What a sampler makes of `decoding.prompts.Prompts` when it is called by hand."""
    ids = prompts.decoder_token_ids
    index = int(prompts.prompt_lengths.min())
    mask = np.arange(ids.shape[1]) < prompts.prompt_lengths[:, None]
    fed = np.full(ids.shape, -1)
    fed[:, : index - 1] = ids[:, : index - 1]
    sources = prompts.encoder_token_ids[:, 0]
    hidden = np.zeros((*ids.shape, config.hidden_dim), np.float32)
    for row, column in np.ndindex(len(ids), index):
        history = ids[row, : column + 1].tolist()
        hidden[row, column] = what_follows(config, int(sources[row]), history)[1]
    return sampler(
        next_by_hand(config),
        ids,
        cache={"source": sources, "fed": (fed,)},
        index=index,
        mask=mask.astype(np.int64),
        stop_token_ids=stops,
        hidden_states=hidden,
    )


def random_prompts(rows, seed=0, width=WIDTH, longest=4, vocabulary_size=13):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, rows)
    ids = np.full((rows, width), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = [END, START, *random.integers(3, vocabulary_size, width)][:length]
    sources = random.integers(0, 10_000, (rows, 3))
    return Prompts(sources, random.integers(1, 4, rows), ids, lengths)


def some(prompts, rows):
    return Prompts(
        prompts.encoder_token_ids[rows],
        prompts.encoder_lengths[rows],
        prompts.decoder_token_ids[rows],
        prompts.prompt_lengths[rows],
    )


def counted(token_ids, prompt_lengths, stops):
    """The tokens of each row up to its first stop token after the prompt."""
    rows = []
    for row, length in zip(token_ids.tolist(), prompt_lengths, strict=True):
        ends = [column for column in range(length, len(row)) if row[column] in stops]
        rows.append(row[: ends[0] + 1] if ends else row)
    return rows


def said(generated):
    pairs = zip(generated.token_ids.tolist(), generated.lengths, strict=True)
    return [row[:length] for row, length in pairs]
