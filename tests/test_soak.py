"""The soak, for seconds, not an hour: every wire, leavers, refusals; and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")

ROOT = Path(__file__).parent.parent


def soak(*flags, path=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "soak.py"), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=ROOT,
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its figures are read from /proc")
def test_a_busy_server_answers_right_and_keeps_nothing():
    done = soak("--seconds", "12", "--warm-up", "8", "--clients", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["wrong"], report["faults"]) == (0, [])
    answered = {name for name in report["counts"] if name.startswith("answered: ")}
    assert len(answered) == 9
    assert {"left", "refused: 400", "refused: 404", "refused: 422"} <= set(report["counts"])
    assert report["requests"] > 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its figures are read from /proc")
def test_a_fault_in_the_servers_log_is_reported(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'bart_onnx.serve' in sys.orig_argv:\n"
        "    from bart_onnx.server.lifetime import Lifetime\n"
        "    began, calls = Lifetime.begin, []\n"
        "    def begin(self):\n"
        "        began(self)\n"
        "        calls.append(1)\n"
        "        if len(calls) == 20:\n"
        "            import logging\n"
        "            logging.getLogger('bart_onnx').error('A fault.')\n"
        "    Lifetime.begin = begin\n"
    )
    done = soak("--seconds", "2", "--warm-up", "1", "--clients", "2", path=[tmp_path])
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert any("A fault." in fault for fault in report["faults"])
    assert report["wrong"] == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its figures are read from /proc")
def test_a_wrong_answer_is_reported(tmp_path):
    """`generate` is made to say something else than the server, so that the soak must see it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'soak.py' in ' '.join(sys.orig_argv):\n"
        "    from bart_onnx import OnnxBartSeq2SeqLM\n"
        "    told = OnnxBartSeq2SeqLM.generate\n"
        "    def generate(self, *args, **kwargs):\n"
        "        found = told(self, *args, **kwargs)\n"
        "        return found[:-1] + ['another']\n"
        "    OnnxBartSeq2SeqLM.generate = generate\n"
    )
    done = soak("--seconds", "2", "--warm-up", "1", "--clients", "2", path=[tmp_path])
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["wrong"] > 0
