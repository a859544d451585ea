"""Writes requirements.lock: the pins of constraints.txt, with the hashes of what they stand for.

    .venv/bin/python scripts/lock.py

pip says which files it would install here, so the hashes are those of this Python and platform. A
constraint with a hash would make pip ask for the hash of everything, this package in its folder
included; hence a file of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Not hashed, with the reason that stands in the file.
LEFT_OUT = {
    "torch": "its builds, for the CPU or for some CUDA, have one version and different files"
}


def main() -> int:
    """Ask pip, and write the file."""
    text = (ROOT / "constraints.txt").read_text()
    pins = [line for line in text.splitlines() if "==" in line and not line.startswith("#")]
    asked = [pin for pin in pins if pin.partition("==")[0] not in LEFT_OUT]
    hashes = _hashes(asked)
    blocks = [f"{pin} \\\n    --hash=sha256:{hashes[_plain(pin)]}" for pin in asked]
    (ROOT / "requirements.lock").write_text("\n".join([*_head(), "", *blocks]) + "\n")
    return 0


def _hashes(pins: list[str]) -> dict[str, str]:
    """The sha256 of the file that pip would install for each pin."""
    with tempfile.TemporaryDirectory() as directory:
        asked, report = Path(directory, "pins.txt"), Path(directory, "report.json")
        asked.write_text("\n".join(pins))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--no-deps", "--report", str(report), "-r", str(asked)]
        subprocess.run(command, check=True)
        installed = json.loads(report.read_text())["install"]
    return {
        _plain(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
        for each in installed
    }


def _plain(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def _head() -> list[str]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    reasons = (f"# {name} is left out: {reason}." for name, reason in LEFT_OUT.items())
    return [
        "# constraints.txt with the sha256 of each file, as scripts/lock.py wrote it.",
        f"# The files are those of CPython {version} on {sys.platform}; for another, run it there.",
        "#   pip install torch==VERSION --index-url YOUR_CHOICE",
        "#   pip install --require-hashes --no-deps -r requirements.lock",
        "#   pip install --no-deps --no-build-isolation -e .",
        *reasons,
    ]


if __name__ == "__main__":
    sys.exit(main())
