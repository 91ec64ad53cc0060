"""A local store of its own for each test, made once and copied: MLflow needs seconds to create one."""

import shutil
from pathlib import Path

import mlflow
import pytest

from pipeline.tracking import place
from pipeline.tracking import runs as tracking


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A store without runs."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    place.make(database, database.with_name("artifacts"))
    mlflow.MlflowClient(place.uri_of(database))
    return database


@pytest.fixture
def settle_in(monkeypatch, empty_database):
    """Makes a folder this process's `mlruns`, with a store that is there, or else an empty one."""

    def settle(runs: Path) -> Path:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        runs.mkdir(parents=True, exist_ok=True)
        if not (runs / "mlflow.db").exists():
            shutil.copy(empty_database, runs / "mlflow.db")
        monkeypatch.setattr(tracking, "RUNS", runs)
        monkeypatch.setattr(tracking, "LOCAL_STORE", place.uri_of(runs / "mlflow.db"))
        monkeypatch.setattr(tracking, "ARTIFACTS", runs / "artifacts")
        return runs

    return settle


@pytest.fixture
def store(settle_in, tmp_path):
    return settle_in(tmp_path)


@pytest.fixture
def begin(store):
    """Trackers that let go when the test is over, as commands do when they end."""
    made = []

    def start(name: str) -> tracking.Tracker:
        made.append(tracking.Tracker(name))
        return made[-1]

    yield start
    for tracker in made:
        tracker.let_go()
