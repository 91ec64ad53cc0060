"""MLflow's own pages over the local store, on 127.0.0.1 and nowhere else."""

import os
import sys

from pipeline.config.settings import ROOT
from pipeline.server import HOST, check_port, run
from pipeline.tracking.runs import ARTIFACTS, LOCAL_STORE, Tracker


def serve(experiment: str, port: int) -> int:
    """Starts the server, prints the link once it answers, and stays until Ctrl-C. Returns the exit status."""
    tracker = Tracker(experiment)
    if tracker.failure:
        return 1
    if tracker.uri != LOCAL_STORE:
        print(f"MLFLOW_TRACKING_URI is set: {link(tracker.uri.rstrip('/'), tracker.experiment_id)}")
        return 0
    check_port(port, "ui")
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", LOCAL_STORE, "--default-artifact-root", str(ARTIFACTS)]
    print(f"MLflow is starting on {HOST}:{port} (10 to 40 s) ...", flush=True)
    ready = f"open {link(f'http://{HOST}:{port}', tracker.experiment_id)}"
    return run(command, port, "MLflow", ready, ROOT / "mlruns" / "ui.log", ROOT, os.environ)


def link(server: str, experiment_id: str) -> str:
    """The runs table. Without the last part MLflow 3 opens a page made for language-model traces."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
