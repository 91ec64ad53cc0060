"""A search that is killed, or whose workers are, ends as one that was left alone; make-believe trainings, real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

from pipeline.config.settings import ROOT

SCRIPT = Path(__file__).with_name("fake_search.py")
N_TRIALS, N_KILLS = 14, 8


def started(folder: Path, n_workers: int = 1) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(SCRIPT), str(folder), str(N_TRIALS), str(n_workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str]) -> list[dict]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def trained(folder: Path) -> Counter[str]:
    """How often each epoch of each fold of each trial was trained."""
    return Counter((folder / "epochs.log").read_text().splitlines())


def test_a_search_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path):
    whole = finished(started(tmp_path / "whole"))
    assert {trial["state"] for trial in whole} == {"finished", "pruned", "failed"} and len(whole) == N_TRIALS
    rng, folder, kills = np.random.default_rng(0), tmp_path / "killed", 0
    process = started(folder)
    while kills < N_KILLS:
        seen = len(trained(folder)) if (folder / "epochs.log").exists() else 0
        wanted = seen + int(rng.integers(1, 12))
        while process.poll() is None and not ((folder / "epochs.log").exists() and len(trained(folder)) >= wanted):
            time.sleep(0.003)
        if process.poll() is not None:
            break
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.communicate()
        kills += 1
        process = started(folder)
    resumed = finished(process)
    assert kills == N_KILLS
    assert resumed == whole  # the same settings in the same order, states, reasons, curves and values
    # nothing is trained twice but, for each kill, the epoch that was in work or not yet noted
    assert sum(trained(folder).values()) - sum(trained(tmp_path / "whole").values()) <= N_KILLS


def test_workers_that_die_are_replaced_and_nothing_changes(tmp_path):
    whole = finished(started(tmp_path / "whole"))
    process, folder, killed = started(tmp_path / "killed"), tmp_path / "killed", 0
    while process.poll() is None and killed < 5:
        time.sleep(0.15)
        if (folder / "epochs.log").exists():
            for child in psutil.Process(process.pid).children() if process.poll() is None else []:
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    killed += 1
                    time.sleep(0.5)
                    break
    assert finished(process) == whole and killed >= 2


def test_workers_end_with_their_driver(tmp_path):
    process, folder = started(tmp_path / "killed", n_workers=2), tmp_path / "killed"
    while not (folder / "epochs.log").exists():
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_several_workers_train_every_trial_once_and_end_them_all(tmp_path):
    trials = finished(started(tmp_path / "two", n_workers=3))
    assert [trial["number"] for trial in trials] == list(range(N_TRIALS))
    assert not [trial for trial in trials if trial["state"] == "running"]
    assert max(trained(tmp_path / "two").values()) == 1
    for trial in trials:
        if trial["state"] == "finished":
            assert trial["done"] == [0, 1, 2, 3]
            assert trial["value"] == np.mean([curve[-1] for curve in trial["curves"].values()])
