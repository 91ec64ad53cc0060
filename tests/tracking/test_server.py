"""A real MLflow server on a real PostgreSQL, which serves the artifacts too: reached by MLFLOW_TRACKING_URI alone."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from pipeline.tracking import package, registry
from pipeline.tracking import runs as tracking

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
IS_ROOT = os.geteuid() == 0
AS_POSTGRES = ["runuser", "-u", "postgres", "--"] if IS_ROOT else []  # it refuses to run as root
pytestmark = pytest.mark.skipif(not BINARIES, reason="no PostgreSQL here (Debian's package postgresql)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def database():
    """The URI of an empty database, of a PostgreSQL that is gone afterwards."""
    folder, port, binaries = Path(tempfile.mkdtemp(prefix="podium-pg-")), free_port(), BINARIES[-1].parent
    if IS_ROOT:
        shutil.chown(folder, "postgres")
    data = str(folder / "data")
    quiet = {"check": True, "capture_output": True, "cwd": folder}
    subprocess.run([*AS_POSTGRES, binaries / "initdb", "-D", data, "-U", "podium", "-A", "trust", "-N"], **quiet)
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    control = [*AS_POSTGRES, binaries / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], check=True, cwd=folder,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    yield f"postgresql+psycopg2://podium@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder)


class Server:
    """`mlflow server`, as a team would run it."""

    def __init__(self, database: str, folder: Path):
        self.port, self.folder = free_port(), folder
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                        "--backend-store-uri", database, "--artifacts-destination", str(folder / "served"),
                        "--workers", "1"]  # fmt: skip
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        log = (self.folder / "server.log").open("a")
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        log.close()
        give_up = time.monotonic() + 120
        while True:
            assert time.monotonic() < give_up and self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):  # noqa: S310 (ours)
                    return
            except OSError:
                time.sleep(0.3)

    def stop(self) -> None:
        os.killpg(self.process.pid, 15)
        self.process.wait(30)


@pytest.fixture
def server(database, tmp_path):
    made = Server(database, tmp_path)
    made.start()
    yield made
    if made.process.poll() is None:
        made.stop()


def test_a_server_that_goes_away_in_the_middle_and_comes_back_has_everything_in_the_end(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "RUNS", tmp_path / "mlruns")
    (tmp_path / "oof.parquet").write_bytes(b"table")
    tracker = tracking.Tracker("masks")
    assert tracker.failure == ""
    cv = tracker.start("cv", {"stage": "cv"})
    fold = tracker.start("fold-0", {"stage": "fold"}, parent=cv)
    tracker.metrics(fold, {"loss": 3.0}, 1)
    tracker.artifact(cv, tmp_path / "oof.parquet")
    client = tracker._client
    assert client.get_run(cv).info.artifact_uri.startswith("mlflow-artifacts:")  # wherever the server keeps them
    server.stop()
    tracker.metrics(fold, {"loss": 2.0}, 2)
    assert tracker.failure
    late = tracker.start("fold-1", {"stage": "fold"}, parent=cv)
    tracker.metrics(late, {"loss": 1.0}, 1)
    tracker.artifact(late, tmp_path / "oof.parquet")
    for run in (fold, late, cv):
        tracker.end(run)
    tracker.let_go()

    server.start()
    after = tracking.Tracker("masks")
    after.let_go()
    assert after.failure == "" and after.earlier.n_sent == 7
    assert [m.value for m in client.get_metric_history(fold, "loss")] == [3.0, 2.0]
    runs = {run.info.run_name: run for run in client.search_runs([after.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ("cv", "fold-0", "fold-1"), "FINISHED"
    )
    assert runs["fold-1"].data.tags["mlflow.parentRunId"] == cv
    for run_id in (cv, late):
        assert tracking.fetch(run_id, "oof.parquet", tmp_path / "fetched").read_bytes() == b"table"
    assert not (tmp_path / "mlruns/mlflow.db").exists() and not (tmp_path / "mlruns/artifacts").exists()


def test_a_model_is_registered_with_the_server_and_fetched_from_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(tracking, "RUNS", tmp_path / "mlruns")
    folder = tmp_path / "package"
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "code/a.py").write_text("a = 1\n")
    tracker = tracking.Tracker("faces")
    run = tracker.start("cv", {"stage": "cv"})
    score = registry.Score("macro_f1", 0.9, 0.88, 0.92, True, run, "folds")
    number = tracker.ensemble(run, "faces", folder, score, ["hash"])
    assert tracker.failure == "" and number == "1" == tracker.ensemble(run, "faces", folder, score, ["hash"])
    assert registry.champion(tracker.client, "faces").score == score
    fetched = package.download(tracker.client, "faces", "1", tmp_path / "fetched")
    assert (fetched / "MLmodel").read_text() == "flavors: {}\n" and (fetched / "code/a.py").read_text() == "a = 1\n"
    tracker.end(run)
    tracker.let_go()
