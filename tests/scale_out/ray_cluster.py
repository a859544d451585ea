"""A Ray of this test's own on loopback, and the processes of its replicas."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = 100 * 2**20


@contextmanager
def ray_on_loopback() -> Iterator[None]:
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        object_store_memory=_MEMORY,
    )
    try:
        yield
    finally:
        ray.shutdown()


def processes_of(deployment: str) -> list[int]:
    """Ids of a deployment's replicas among the processes that this one started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title = (path / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except OSError:  # it has just ended
            continue
        parts = title.split(".")[0].split(":")
        if parts[0] == "ray" and parts[-1] == deployment and _is_ours(int(path.name)):
            found.append(int(path.name))
    return found


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(status.rpartition(")")[2].split()[1])
    return False
