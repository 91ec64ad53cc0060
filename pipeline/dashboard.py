"""Optuna's own pages over an experiment's studies, on 127.0.0.1 and nowhere else."""

import os
import sys

from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.config.settings import ROOT, RUNS
from pipeline.config.tuning import JOURNAL
from pipeline.server import HOST, check_port, run


def serve(storage: str, name: str, port: int) -> int:
    """storage: `journal`, or Optuna's URL. Stays until Ctrl-C; returns the exit status."""
    if storage == "journal":
        journal = RUNS / name / JOURNAL
        if not journal.is_file():
            found, valid = (
                "there is no study of this experiment yet",
                f"valid: after make tune EXP=experiments/{name}.yaml",
            )
            raise Mistakes([Mistake(shown(journal), found, valid, "studies")])
        storage = str(journal)
    check_port(port, "dashboard")
    command = [sys.executable, "-m", "optuna_dashboard._cli", storage, "--host", HOST, "--port", str(port)]
    print(f"optuna-dashboard is starting on {HOST}:{port} ...", flush=True)
    ready = f"open http://{HOST}:{port}/dashboard"
    return run(command, port, "optuna-dashboard", ready, RUNS / "dashboard.log", ROOT, os.environ, "/api/studies")
