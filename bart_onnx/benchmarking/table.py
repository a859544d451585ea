"""What was measured, as a table for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = (
    "source",
    "tokens",
    "beams",
    "batch",
    "encoder s",
    "encoder cpu s",
    "first token s",
    "step ms",
    "step cpu ms",
    "outside runner cpu ms",
    "of bandwidth",
    "tokens/s",
    "end to end s",
    "peak MiB",
)


def markdown(figures: Sequence[Mapping[str, Any]]) -> str:
    """One line a case: medians, and of steps the least and the most."""
    lines = [_line(_HEAD), "|" + "---:|" * len(_HEAD)]
    return "\n".join([*lines, *(_line(_cells(each)) for each in figures)])


def _cells(figure: Mapping[str, Any]) -> list[str]:
    share, peak, step = figure["share_of_bandwidth"], figure["peak_bytes"], figure["step_seconds"]
    outside, cpu = figure["step_outside_runner_cpu_seconds"], figure["step_cpu_seconds"]
    return [
        *(str(figure[name]) for name in ("source", "tokens", "beams", "batch")),
        f"{figure['encoder_seconds']['median']:.3f}",
        f"{figure['encoder_cpu_seconds']['median']:.3f}",
        f"{figure['first_token_seconds']['median']:.3f}",
        f"{_ms(step, 'median')} ({_ms(step, 'min')} to {_ms(step, 'max')})" if step else "-",
        _ms(cpu, "median") if cpu else "-",
        _ms(outside, "median") if outside else "-",
        f"{share:.0%}" if share is not None else "-",
        f"{figure['tokens_per_second']:.1f}",
        f"{figure['end_to_end_seconds']['median']:.3f}",
        f"{peak / (1 << 20):,.0f}" if peak else "-",
    ]


def _ms(times: Mapping[str, float], name: str) -> str:
    return f"{1000 * times[name]:.2f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
