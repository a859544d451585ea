"""A picture of step times beside what memory allows. It alone needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bart_onnx.errors import MissingPackageError


def check_can_draw() -> None:
    """Refuse now what could not be drawn after an hour of measuring.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "--plot needs matplotlib. Install it with: pip install matplotlib"
        ) from error


def draw(figures: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """One bar a case: median, least and most of the steps; a line where memory bounds them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stepped = [each for each in figures if each["step_cpu_seconds"]]
    times = [each["step_cpu_seconds"] for each in stepped]
    places = list(range(len(stepped)))
    medians = [1000 * each["median"] for each in times]
    below = [1000 * (each["median"] - each["min"]) for each in times]
    above = [1000 * (each["max"] - each["median"]) for each in times]
    bounds = [1000 * each["step_bound_seconds"] for each in stepped]
    figure = Figure(figsize=(9, 1.5 + 0.4 * len(stepped)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh(places, medians, xerr=[below, above], color="#4c78a8", label="median, least to most")
    axes.scatter(bounds, places, marker="|", s=300, color="#e45756", zorder=3, label="memory bound")
    axes.set_yticks(places, [_name(each) for each in stepped])
    axes.invert_yaxis()
    axes.set_xlabel("decoder step, ms of core time")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=120)


def _name(figure: Mapping[str, Any]) -> str:
    search = "greedy" if figure["beams"] == 1 else f"{figure['beams']} beams"
    return f"{figure['source']} -> {figure['tokens']}, {search}, batch {figure['batch']}"
