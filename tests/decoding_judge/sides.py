"""Both sides of a case: what this package gives and what transformers gives, as ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from decoding_judge.cases import Case
from decoding_judge.models import Pair

from bart_onnx.errors import DecodingError
from bart_onnx.samplers.distributions import drawn
from bart_onnx.samplers.draws import Draws

# transformers scores about -1e9 what has no hypothesis behind it, and divides that by lengths.
NOWHERE = -1e6


@dataclass(frozen=True)
class Output:
    """One output: ids up to its end, the prompt included, and under beams its score."""

    ids: tuple[int, ...]
    score: float | None

    @property
    def is_nothing(self) -> bool:
        """Whether it stands for a hypothesis that could not be found."""
        return self.score is not None and self.score < NOWHERE


Answers = list[list[Output]]


def ours(pair: Pair, case: Case) -> Answers:
    """What `generate` gives for each row; none for a row that could not be decoded."""
    options = dict(case.options)
    if case.prompts is not None:
        options["decoder_input_ids"] = case.prompts
    try:
        results = pair.ours.generate(arrays(pair, case), return_dict=True, **options)
    except DecodingError as error:
        results = error.results
    return [
        [Output(tuple(each.ids.tolist()), each.score) for each in result.n_best]
        if result is not None
        else []
        for result in results
    ]


def arrays(pair: Pair, case: Case) -> dict[str, Any]:
    """The sources as `generate` takes them without preprocessor."""
    ids, mask = padded(case.sources, pair.ours.config.pad_token_id)
    return {"encoder_token_ids": ids, "encoder_padding_mask": mask.astype(bool)}


def judged(pair: Pair, case: Case) -> Answers:
    """What transformers gives for each row."""
    found: Answers = []
    for rows in groups(case):
        with same_draws(case, rows.start) if "seed" in case.options else nullcontext():
            output = judge_output(pair, case, rows)
        found += _cut(pair, case, rows, output)
    return found


def groups(case: Case) -> Iterator[range]:
    """The rows that transformers is asked at once."""
    rows = len(case.sources)
    return (range(row, row + 1) for row in range(rows)) if case.by_row else iter([range(rows)])


def judge_output(pair: Pair, case: Case, rows: range, **more: Any) -> Any:
    """transformers' own output for some rows, with scores."""
    ids, mask = padded([case.sources[row] for row in rows], pair.ours.config.pad_token_id)
    told = told_judge(case, rows.start)
    if case.prompts is not None:
        told["decoder_input_ids"] = torch.tensor([list(case.prompts[row]) for row in rows])
    with torch.inference_mode():
        return pair.judge.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            return_dict_in_generate=True,
            output_scores=True,
            **{"do_sample": False, **told},
            **more,
        )


def told_judge(case: Case, first: int) -> dict[str, Any]:
    """The options as transformers takes them, of rows from `first` on."""
    told = {name: value for name, value in case.options.items() if name != "seed"}
    if function := told.get("prefix_allowed_tokens_fn"):
        # Without beams transformers counts each copy of a row as a row.
        copies = 1 if told["num_beams"] > 1 else case.copies
        told["prefix_allowed_tokens_fn"] = lambda row, said: function(first + row // copies, said)
    if "logits_processor" in told:
        told["logits_processor"] = transformers.LogitsProcessorList(
            [OfRows(each) for each in told["logits_processor"]]
        )
    if "eos_token_id" in told and not told["eos_token_id"]:
        told["eos_token_id"] = None
    if "forced_eos_token_id" in told and not told["forced_eos_token_id"]:
        told["forced_eos_token_id"] = None
    return told


class OfRows(transformers.LogitsProcessor):
    """One of the user's functions, as transformers takes them: of all rows at once."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        rows = zip(input_ids.numpy(), scores.numpy(), strict=True)
        return torch.tensor(np.stack([self._function(*row) for row in rows]))


@contextmanager
def same_draws(case: Case, first: int, rankings: list[Any] | None = None) -> Iterator[None]:
    """Lets transformers draw with the random numbers that this package draws with.

    Args:
        first: the case's row that is transformers' first.
        rankings: is given what each draw went by: of beams scores with noise [rows, candidates];
            else the pair of shares [rows, vocabulary] and uniform numbers [rows].
    """
    draws = Draws(case.options["seed"]).next_call()
    prompt = 1 if case.prompts is None else len(case.prompts[first])
    lengths = count(prompt)
    streams = first * (1 if case.options["num_beams"] > 1 else case.copies)

    def multinomial(shares: Any, num_samples: int, **_: Any) -> Any:
        length, weights = next(lengths), shares.double().numpy()
        rows = range(streams, streams + len(weights))
        ranking: Any
        if num_samples == 1:
            uniforms = draws.uniforms(rows, length + 1)[:, length]
            ranking, chosen = (weights, uniforms), drawn(shares.numpy(), uniforms)[:, None]
        else:
            noise = [draws.noise(row, length, weights.shape[1]) for row in rows]
            with np.errstate(divide="ignore"):
                ranking = np.log(weights) + np.stack(noise)
            chosen = np.argsort(-ranking, axis=1, kind="stable")[:, :num_samples]
        if rankings is not None:
            rankings.append(ranking)
        return torch.tensor(chosen.copy())

    with patch.object(torch, "multinomial", multinomial):
        yield


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Ids and mask, int64 [rows, longest]."""
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), pad, np.int64), np.zeros((len(rows), width), np.int64)
    for line, told in enumerate(rows):
        ids[line, : len(told)], mask[line, : len(told)] = told, 1
    return ids, mask


def ends_of(pair: Pair, case: Case) -> list[int]:
    """The end tokens in force."""
    return list(case.options.get("eos_token_id", pair.ends))


def _cut(pair: Pair, case: Case, rows: range, output: Any) -> Answers:
    """Sequences without what transformers fills them up with behind their end token."""
    ends, copies = ends_of(pair, case), case.copies
    scores = getattr(output, "sequences_scores", None)
    found: Answers = [[] for _ in rows]
    for line, ids in enumerate(output.sequences.tolist()):
        prompt = 1 if case.prompts is None else len(case.prompts[rows[line // copies]])
        stops = [place for place in range(prompt, len(ids)) if ids[place] in ends]
        score = None if scores is None else float(scores[line])
        length = stops[0] + 1 if stops else len(ids)
        found[line // copies].append(Output(tuple(ids[:length]), score))
    return found
