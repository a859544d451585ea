"""One operation that is interrupted: how it begins, what is done, and what may be left.

It is done in a directory of its own, whose state is "old", as it was before, or "new"; of two
things that no file system puts there at once, a kill may leave "half".
"""

from __future__ import annotations

from pathlib import Path


class Scenario:
    """One operation.

    Attributes:
        errors: what a caller is told it by, whatever the fault.
        timeless: whether what comes of files follows from their names and bytes, whenever they
            were written. Then what two faults left alike is judged once.
        kept: whether what ended well is there for who comes next; else it may have been of use
            only then.
        synced: whether all that it makes is on the disk before it gets its name.
    """

    errors: tuple[type[BaseException], ...] = ()
    timeless = True
    kept = True
    synced = True

    def __init__(self, graphs: Path | None) -> None:
        self.graphs = graphs

    def warm_up(self, root: Path) -> None:
        """Import and compute once what every trial needs, before any is forked."""
        self.prepare(root)
        self.act(root)
        self.state(root)

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
