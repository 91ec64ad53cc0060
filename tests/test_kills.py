"""SIGKILL at any moment of a training: the same command ends in the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from pipeline.config.settings import ROOT

N_KILLS = 30


def test_thirty_kills_at_random_moments_end_in_the_same_bytes(tmp_path):
    script = Path(__file__).with_name("killed_training.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(N_KILLS)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    kills = report["kills"]
    assert report["n_files"] == 3 and len(kills) == N_KILLS  # two folds and the out-of-fold table
    assert [kill for kill in kills if not kill["same"]] == []
    # and they really came at different moments: before the first state, between epochs, between folds
    assert len({len(kill["found"]) for kill in kills}) >= 4
