"""Gives readers inputs that nobody wrote, and says at the first failure which one it was.

    python scripts/run_fuzz.py config_keras safetensors --inputs 1000000 --seconds 600

Each reader runs in a process of its own. With atheris the inputs are chosen by the code that they
reach; without it they are honest ones with random changes, the same in every run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import chain, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tests" / "data" / "fuzz"
LONGEST = 1 << 13
_TOLD = 50_000
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> int:
    """Run the readers one after the other; 1 where one failed."""
    options = _parser().parse_args()
    if options.child:
        return _child(options)
    from fuzz_readers import READERS

    unknown = sorted(set(options.readers) - set(READERS))
    if unknown:
        print(f"There is no reader {', '.join(unknown)}; there are {', '.join(READERS)}.")
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory()) as place:
        os.environ["TMPDIR"] = tempfile.tempdir = place
        for name in options.readers or READERS:
            if options.plain:
                failed += _plain(name, READERS[name], options)
                continue
            command = [sys.executable, __file__, *sys.argv[1:], f"--child={name}"]
            failed += subprocess.run(command).returncode != 0
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "readers", nargs="*", metavar="READER", help="all of them, if none is named"
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="at most, for each reader")
    parser.add_argument("--seconds", type=int, default=600, help="at most, for each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where inputs go")
    parser.add_argument("--plain", action="store_true", help="without atheris, random changes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def _child(options: argparse.Namespace) -> int:
    name = options.child
    atheris = _atheris()
    if atheris is None:
        from fuzz_readers import READERS

        return _plain(name, READERS[name], options)
    with atheris.instrument_imports(include=["bart_onnx", "exporters"]):
        from fuzz_readers import READERS
        from fuzz_trial import Trials

        # What a reader imports at its first use is instrumented too.
        trials = _trials(Trials, name, READERS[name])
    _guided(atheris, name, READERS[name], trials, options)
    return 0


def _atheris() -> Any:
    try:
        import atheris
    except ImportError as error:
        print(f"atheris is not there ({error}); inputs are honest ones with random changes")
        return None
    return atheris


def _guided(atheris: Any, name: str, reader: Any, trials: Any, options: argparse.Namespace) -> None:
    """Let libFuzzer choose the inputs; it ends the process itself."""
    from fuzz_json import rewritten

    corpus = options.found / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(_honest(name, reader)):
        (corpus / f"honest-{number}").write_bytes(seed)
    words = options.found / f"{name}.dictionary"
    hexadecimal = ("".join(f"\\x{byte:02x}" for byte in word) for word in reader.words or [b"\0"])
    words.write_text("".join(f'"{word}"\n' for word in hexadecimal))
    started = time.monotonic()

    def tried(data: bytes) -> None:
        trials.try_input(data)
        if trials.count % _TOLD == 0:
            _tell(name, trials, started)

    def changed(data: bytes, longest: int, seed: int) -> bytes:
        draw = random.Random(seed)
        found = rewritten(data, draw, reader.words) if draw.random() < 0.5 else None
        return atheris.Mutate(data, longest) if found is None else found[:longest]

    flags = [f"-runs={options.inputs}", f"-max_total_time={options.seconds}"]
    flags += [f"-seed={options.seed}", f"-max_len={LONGEST}", "-len_control=100"]
    # Nobody else adds to the corpus; libFuzzer looks through all of it every second.
    flags += ["-reload=0"]
    # What is slow is judged by the processor's time; these are for a busy machine's clock.
    flags += ["-timeout=600", "-report_slow_units=600", "-rss_limit_mb=2048"]
    flags += [f"-artifact_prefix={options.found}/{name}-", f"-dict={words}", "-verbosity=0"]
    flags += ["-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], tried, custom_mutator=changed)
    atheris.Fuzz()


def _plain(name: str, reader: Any, options: argparse.Namespace) -> int:
    """Try honest inputs and large ones, then with changes: honest, kept and guided ones."""
    from fuzz_apart import outcomes_apart
    from fuzz_mutations import large, mutants
    from fuzz_trial import Trials, outcomes_here

    honest = _honest(name, reader)
    guided = sorted((options.found / "corpus" / name).glob("*"))
    trials = _trials(Trials, name, reader)
    started = time.monotonic()
    inputs = chain(
        honest,
        large(reader.seeds(), reader.words),
        mutants([*honest, *map(Path.read_bytes, guided)], reader.words, options.seed),
    )
    outcomes = outcomes_apart if reader.apart else outcomes_here
    for data, failure in outcomes(trials, islice(inputs, options.inputs)):
        if failure:
            options.found.mkdir(parents=True, exist_ok=True)
            path = options.found / f"{name}-{trials.count}"
            path.write_bytes(data)
            print(json.dumps({"reader": name, "failure": failure, "input": str(path)}))
            return 1
        if trials.count % _TOLD == 0:
            _tell(name, trials, started)
        if time.monotonic() - started > options.seconds:
            break
    _tell(name, trials, started)
    return 0


def _trials(kind: Any, name: str, reader: Any) -> Any:
    """Trials whose first inputs are honest, so that what is imported by then is no input's."""
    trials = kind(name, reader, Path(tempfile.mkdtemp()))
    for data in _honest(name, reader):
        trials.warm(data)
    return trials


def _memory() -> str | None:
    place = Path("/dev/shm")
    return str(place) if place.is_dir() else None


def _honest(name: str, reader: Any) -> list[bytes]:
    kept = sorted((CORPUS / name).glob("*"))
    return [*reader.seeds(), *(path.read_bytes() for path in kept)]


def _tell(name: str, trials: Any, started: float) -> None:
    seconds = round(time.monotonic() - started)
    found = {"reader": name, "inputs": trials.count, "read": trials.read, "seconds": seconds}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
