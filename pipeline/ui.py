"""MLflow's own pages over the local store, on 127.0.0.1 and nowhere else."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.config.settings import ROOT
from pipeline.tracking.runs import ARTIFACTS, LOCAL_STORE, Tracker

HOST = "127.0.0.1"
START_LIMIT_S = 180


def serve(experiment: str, port: int) -> int:
    """Starts the server, prints the link once it answers, and stays until Ctrl-C. Returns the exit status."""
    tracker = Tracker(experiment)
    if tracker.failure:
        return 1
    if tracker.uri != LOCAL_STORE:
        print(f"MLFLOW_TRACKING_URI is set: {link(tracker.uri.rstrip('/'), tracker.experiment_id)}")
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            found = f"port {port} of {HOST} is taken (by an earlier make ui?)"
            raise Mistakes([Mistake("port", found, "valid: a free one, e.g. make ui PORT=5001", "ports")]) from None
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", LOCAL_STORE, "--default-artifact-root", str(ARTIFACTS)]
    print(f"MLflow is starting on {HOST}:{port} (10 to 40 s) ...", flush=True)
    # Its log is of use only when it fails, so it is kept aside until then.
    with (ROOT / "mlruns" / "ui.log").open("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
        try:
            if not _answers(server, port):
                log.seek(0)
                print(f"MLflow did not start:\n{log.read()[-3000:]}", file=sys.stderr)
                return 1
            print(f"open {link(f'http://{HOST}:{port}', tracker.experiment_id)}\nCtrl-C ends it", flush=True)
            return server.wait()
        except (KeyboardInterrupt, SystemExit):
            return 0
        finally:
            _end(server)


def link(server: str, experiment_id: str) -> str:
    """The runs table. Without the last part MLflow 3 opens a page made for language-model traces."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def _answers(server: subprocess.Popen, port: int) -> bool:
    give_up = time.monotonic() + START_LIMIT_S
    while server.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False


def _end(server: subprocess.Popen) -> None:
    """Ends the server with the workers it started: they share its process group and would outlive it."""
    if server.poll() is None:
        os.killpg(server.pid, 15)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
