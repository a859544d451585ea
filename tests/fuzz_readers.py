"""Every reader of what strangers write: its name -> how it reads some bytes, and honest ones.

It knows no fuzzer: `fuzz_trial` judges one input, `fuzz_mutations` and atheris make them. What is
tried is this package's own code, and that around the libraries it reads with.
"""

from __future__ import annotations

from collections.abc import Mapping

from fuzz_bundles import BUNDLES
from fuzz_callers import CALLERS
from fuzz_checkpoints import CHECKPOINTS
from fuzz_trial import Reader
from fuzz_wires import WIRES

READERS: Mapping[str, Reader] = {**CHECKPOINTS, **BUNDLES, **CALLERS, **WIRES}
