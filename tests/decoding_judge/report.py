"""What came of cases: each sequence equal, tied, nothing, or different."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from decoding_judge.cases import Case
from decoding_judge.models import Pair
from decoding_judge.sides import Output, judged, ours
from decoding_judge.ties import margin

# A decision closer than this may fall either way by the last bits of a float32.
NEAR = 1e-5
# How far beams' sums of log-probabilities may be apart: relative, and absolute where they are
# about 0. A length penalty multiplies either.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


@dataclass
class Report:
    """Counts over all cases of one model.

    Attributes:
        sequences, tokens: compared; tokens without prompts.
        equal: sequences that are equal, token for token and in score.
        exact_ties: that differ because transformers' scores were equal at the first difference.
        near_ties: the same with scores closer than `NEAR`: their margins.
        nothing: hypotheses that neither side has, because the options leave too few tokens.
        not_numbers: those that transformers scores NaN: it renormalizes a beam that has no token
            left, and NaN wins every comparison.
        differences: what is different, to be run again.
        distinct: tokens that came at all.
        furthest: the largest relative difference of scores of equal sequences.
    """

    calls: int = 0
    sequences: int = 0
    tokens: int = 0
    equal: int = 0
    exact_ties: int = 0
    near_ties: list[float] = field(default_factory=list)
    nothing: int = 0
    not_numbers: int = 0
    differences: list[str] = field(default_factory=list)
    distinct: set[int] = field(default_factory=set)
    furthest: float = 0.0
    seconds: float = 0.0

    def run(self, pair: Pair, cases: Iterable[Case]) -> Report:
        """Run both sides of all cases and count; itself."""
        started = time.perf_counter()
        for case in cases:
            self.calls += 1
            found, wanted = ours(pair, case), judged(pair, case)
            for row, (mine, its) in enumerate(zip(found, wanted, strict=True)):
                self._row(pair, case, row, mine, its)
        self.seconds += time.perf_counter() - started
        return self

    def _row(
        self, pair: Pair, case: Case, row: int, found: list[Output], wanted: list[Output]
    ) -> None:
        """Compare the sequences of one row; of those that differ the first decision is judged."""
        self.sequences += len(wanted)
        gap: float | None = None
        for place, its in enumerate(wanted):
            mine = found[place] if place < len(found) else None
            if mine is None and its.is_nothing:
                self.nothing += 1
                continue
            if its.score is not None and math.isnan(its.score):
                self.not_numbers += 1
                continue
            prompt = 1 if case.prompts is None else len(case.prompts[row])
            self.tokens += len(its.ids) - prompt
            self.distinct.update(its.ids[prompt:])
            if mine is not None and mine.ids == its.ids:
                self._scores(case, row, mine, its)
                continue
            if gap is None:
                gap = margin(pair, case, row)
            if mine is None or gap >= NEAR:
                self._differ(case, row, f"{mine} for {its}, decided by {gap}")
            elif gap == 0:
                self.exact_ties += 1
            else:
                self.near_ties.append(gap)

    def _scores(self, case: Case, row: int, mine: Output, its: Output) -> None:
        """Of equal sequences."""
        if its.score is not None and mine.score is not None:
            prompt = 1 if case.prompts is None else len(case.prompts[row])
            penalty = (len(its.ids) - prompt) ** case.options.get("length_penalty", 1.0)
            apart, total = (penalty * each for each in (abs(mine.score - its.score), its.score))
            if not apart <= max(ABSOLUTE, RELATIVE * abs(total)):
                self._differ(case, row, f"score {mine.score} for {its.score}")
                return
            if abs(total) > ABSOLUTE / RELATIVE:
                self.furthest = max(self.furthest, apart / abs(total))
        self.equal += 1

    def _differ(self, case: Case, row: int, what: str) -> None:
        self.differences.append(f"row {row}: {what}\n    {case.text}")

    @property
    def line(self) -> dict[str, float | int]:
        """For a table and for JSON."""
        return {
            "calls": self.calls,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "distinct": len(self.distinct),
            "equal": self.equal,
            "exact_ties": self.exact_ties,
            "near_ties": len(self.near_ties),
            "widest_near_tie": max(self.near_ties, default=0.0),
            "nothing": self.nothing,
            "not_numbers": self.not_numbers,
            "differences": len(self.differences),
            "score_apart": self.furthest,
            "seconds": round(self.seconds, 1),
        }
