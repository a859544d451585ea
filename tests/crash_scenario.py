"""One operation that is interrupted: how it begins, what is done, and what may be left.

It is done in a directory of its own, whose state is "old", as it was before, or "new"; of two
things that no file system puts there at once, a kill may leave "half".
"""

from __future__ import annotations

from pathlib import Path

from faulty_files import Faults


class Scenario:
    """One operation.

    Attributes:
        errors: what a caller is told it by, whatever the fault.
        says_nothing_published: whether such an error promises that the state is old.
    """

    errors: tuple[type[BaseException], ...] = ()

    def __init__(self, graphs: Path | None) -> None:
        self.graphs = graphs

    def prepare(self, root: Path) -> None:
        """The old state, in an empty directory."""

    def act(self, root: Path) -> None:
        """What is interrupted."""
        raise NotImplementedError

    def state(self, root: Path) -> str:
        """ "old", "half" or "new"; raises AssertionError where it is none of them."""
        raise NotImplementedError

    def leftovers(self, root: Path) -> list[str]:
        """What lies there after a run without fault and should not."""
        raise NotImplementedError

    def arm(self, faults: Faults) -> None:
        """Put faults where a library in another language works on files."""
