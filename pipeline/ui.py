"""MLflow's own pages over the local store, on 127.0.0.1 and nowhere else."""

import os
import sys
import tempfile
from pathlib import Path

from pipeline.config.settings import ROOT
from pipeline.server import HOST, check_port, run
from pipeline.tracking.runs import ARTIFACTS, Tracker


def serve(experiment: str, port: int) -> int:
    """Starts the server, prints the link once it answers, and stays until Ctrl-C. Returns the exit status."""
    tracker = Tracker(experiment)
    if tracker.failure:
        return 1
    if not tracker.is_local:
        print(f"MLFLOW_TRACKING_URI is set: {link(tracker.shown_uri.rstrip('/'), tracker.experiment_id)}")
        return 0
    check_port(port, "ui")
    # MLflow 3.17 does not start from a folder with `%` in its name, so Python is called by another one
    with tempfile.TemporaryDirectory(prefix="podium-ui-") as scratch:
        (prefix := Path(scratch) / "python").symlink_to(sys.prefix)
        python = str(prefix / Path(sys.executable).relative_to(sys.prefix)) if "%" in sys.executable else sys.executable
        command = [python, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", tracker.uri, "--default-artifact-root", ARTIFACTS.as_uri()]
        print(f"MLflow is starting on {HOST}:{port} (10 to 40 s) ...", flush=True)
        ready = f"open {link(f'http://{HOST}:{port}', tracker.experiment_id)}"
        log = (ROOT / "mlruns" if tracker.may_write else Path(scratch)) / "ui.log"
        return run(command, port, "MLflow", ready, log, ROOT, os.environ)


def link(server: str, experiment_id: str) -> str:
    """The runs table. Without the last part MLflow 3 opens a page made for language-model traces."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
