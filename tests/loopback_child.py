"""Runs a script whose kagglehub takes the server at $LOOPBACK_KAGGLE for the only one.

    python loopback_child.py SCRIPT [ARGUMENTS]

kagglesdk has its servers in a table, which no variable of the environment reaches.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import kagglesdk.kaggle_env as environment

environment._env_to_endpoint[environment.KaggleEnv.LOCAL] = os.environ["LOOPBACK_KAGGLE"]
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
