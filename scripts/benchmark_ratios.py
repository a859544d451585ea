"""From the pairs that scripts/benchmark.py wrote to ratios: ours over the peer's, pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Pair = Mapping[str, Any]
CLOCKS = ("cpu", "wall")
FIGURES = ("step", "encoder", "end to end")
KEY = ("model", "source", "tokens", "batch", "beams", "threads", "peer")


def figures(run: Mapping[str, Mapping[str, float]], tokens: int, clock: str) -> dict[str, float]:
    """Seconds of a step, of the encoder and of the whole, of one engine in one pair.

    For every engine alike: a step is what each token after the first adds, and the encoder, with
    the cross keys and values and whatever else is done once, is what one token takes less a step.
    """
    whole, first = run["all"][clock], run["one"][clock]
    step = (whole - first) / (tokens - 1)
    return {"step": step, "encoder": first - step, "end to end": whole}


def summary(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """For each shape and peer: medians of both sides, and the spread of the paired ratios."""
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(tuple(pair[name] for name in KEY), []).append(pair)
    return [_of_group(dict(zip(KEY, key, strict=True)), group) for key, group in groups.items()]


def _of_group(key: dict[str, Any], pairs: Sequence[Pair]) -> dict[str, Any]:
    load = statistics.median(pair["load"] for pair in pairs)
    found: dict[str, Any] = {**key, "pairs": len(pairs), "load": load}
    found["versions"] = pairs[-1]["versions"]
    for clock in CLOCKS:
        ours = [figures(pair["ours"], pair["tokens"], clock) for pair in pairs]
        theirs = [figures(pair["theirs"], pair["tokens"], clock) for pair in pairs]
        for name in FIGURES:
            ratios = [a[name] / b[name] for a, b in zip(ours, theirs, strict=True) if b[name] > 0]
            found[f"{name} {clock}"] = {
                "ours": statistics.median(each[name] for each in ours),
                "theirs": statistics.median(each[name] for each in theirs),
                "ratio": statistics.median(ratios) if ratios else None,
                "least": min(ratios, default=None),
                "most": max(ratios, default=None),
            }
    for side in ("ours", "theirs"):
        found[f"peak_bytes {side}"] = max(pair[side]["all"]["peak_bytes"] for pair in pairs)
    return found


def markdown(rows: Sequence[Mapping[str, Any]], clock: str) -> str:
    """Ratios by one clock; below 1 ours is the faster."""
    head = (
        "model",
        "shape",
        "threads",
        "peer",
        "pairs",
        "step ms, ours and theirs",
        *FIGURES,
        "peak MiB",
    )
    lines = [_line(head), "|" + "---|" * len(head)]
    return "\n".join([*lines, *(_line(_cells(row, clock)) for row in rows)])


def _cells(row: Mapping[str, Any], clock: str) -> list[str]:
    search = "greedy" if row["beams"] == 1 else f"{row['beams']} beams"
    step = row[f"step {clock}"]
    return [
        str(row["model"]),
        f"{row['source']} -> {row['tokens']}, batch {row['batch']}, {search}",
        str(row["threads"]),
        str(row["peer"]),
        str(row["pairs"]),
        f"{1000 * step['ours']:.1f}, {1000 * step['theirs']:.1f}",
        *(_ratio(row[f"{name} {clock}"]) for name in FIGURES),
        ", ".join(f"{row[f'peak_bytes {side}'] / (1 << 20):,.0f}" for side in ("ours", "theirs")),
    ]


def _ratio(found: Mapping[str, float | None]) -> str:
    if found["ratio"] is None:
        return "-"
    return f"{found['ratio']:.2f} ({found['least']:.2f} to {found['most']:.2f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
