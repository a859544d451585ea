"""What killed downloads left in huggingface_hub's cache. It opens no connection.

    models--ORG--NAME/blobs/ETAG.RANDOM.incomplete
    .locks/models--ORG--NAME/ETAG.lock                  held by whoever downloads ETAG

huggingface_hub 2.4 begins a file anew under another name each time and never looks at those of
before, so each kill would cost the size of a checkpoint for good.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from bart_onnx.locks import held_if_free

_SUFFIX = ".incomplete"


def remove_abandoned(repository: Path) -> None:
    """Remove the unfinished files of a repository's folder that nobody is downloading."""
    for path in (repository / "blobs").glob(f"*{_SUFFIX}"):
        etag = path.name.split(".")[0]
        lock = repository.parent / ".locks" / repository.name / f"{etag}.lock"
        with held_if_free(lock) as free, suppress(OSError):
            if free or not lock.exists():
                path.unlink()
