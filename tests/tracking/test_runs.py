"""MLflow: what a run holds, that it may fail, and that several processes may start on an empty store at once."""

import subprocess
import sys

import pytest

from pipeline.tracking import runs as tracking

START = """
import sys
from pathlib import Path
from pipeline.tracking import runs as tracking
root = Path(sys.argv[1])
tracking.RUNS = root
tracking.LOCAL_STORE = f"sqlite:///{root / 'mlflow.db'}"
tracking.ARTIFACTS = root / "artifacts"
t = tracking.Tracker("together")
run = t.start("a run", {"stage": "cv"})
t.metrics(run, {"loss": 1.0}, step=1)
t.end(run)
print(t.failure or "fine")
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "RUNS", tmp_path)
    monkeypatch.setattr(tracking, "LOCAL_STORE", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(tracking, "ARTIFACTS", tmp_path / "artifacts")
    return tmp_path


def test_processes_that_start_together_on_an_empty_store_all_work_and_the_runs_hold_what_they_were_given(store):
    command = [sys.executable, "-c", START, str(store)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [output.strip().splitlines()[-1] for output in outputs] == ["fine", "fine"], outputs

    tracker = tracking.Tracker("together")
    assert tracker.failure == ""
    parent = tracker.start("parent", {"stage": "cv"})
    child = tracker.start("child", {"stage": "fold"}, parent=parent)
    tracker.params(parent, {"train.lr": 0.1, "long": "x" * 9000})
    for step, loss in enumerate([3.0, 2.0, 1.0], start=1):
        tracker.metrics(child, {"loss": loss}, step)
    (store / "folds.csv").write_text("image_id\n")
    tracker.artifact(parent, store / "folds.csv")
    tracker.settings(parent, {"train": {"lr": 0.1}})
    tracker.end(child)
    tracker.end(parent, "KILLED")
    assert tracker.failure == ""

    client = tracker._client
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert [(m.step, m.value) for m in client.get_metric_history(child, "loss")] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert client.get_run(parent).data.params["train.lr"] == "0.1"
    assert client.get_run(parent).data.params["long"] == "x" * 500
    assert {a.path for a in client.list_artifacts(parent)} == {"folds.csv", "settings.yaml"}
    assert (client.get_run(child).info.status, client.get_run(parent).info.status) == ("FINISHED", "KILLED")
    fetched = tracking.fetch(parent, "folds.csv", store / "elsewhere")
    assert fetched.read_text() == "image_id\n"

    assert tracker.exists(parent) and not tracker.exists("0" * 32) and not tracker.exists("")
    again = tracker.start("parent", {}, resume=parent)
    assert again == parent and client.get_run(parent).info.status == "RUNNING"


def test_a_store_that_cannot_be_used_stops_nothing_and_is_told_once(store, capsys):
    (store / "mlflow.db").write_bytes(b"this is no database" * 100)
    tracker = tracking.Tracker("broken")
    run = tracker.start("run", {})
    tracker.metrics(run, {"loss": 1.0})
    tracker.artifact(run, store / "nothing")
    tracker.end(run)
    assert run == "" and tracker.failure
    assert capsys.readouterr().err.count("tracking stopped") == 1


def test_a_store_that_fails_later_stops_nothing_either(store, capsys, monkeypatch):
    tracker = tracking.Tracker("later")
    run = tracker.start("run", {})

    def locked(*_, **__):
        raise RuntimeError("database is locked")

    monkeypatch.setattr(tracker._client, "log_batch", locked)
    tracker.metrics(run, {"loss": 1.0})
    tracker.params(run, {"a": 1})
    assert "database is locked" in tracker.failure
    assert capsys.readouterr().err.count("database is locked") == 1


def test_settings_with_names_that_mlflow_forbids_are_recorded_all_the_same(store):
    tracker = tracking.Tracker("names")
    run = tracker.start("run", {})
    tracker.params(run, {"match.mask*": "wear", "match.mask?": "x", "class.口罩": 1, "plain": "y" * 9000})
    params = tracker._client.get_run(run).data.params
    assert not tracker.failure and params["match.mask_"] == "wear" and "x" in params.values()
    assert params["class.__"] == "1" and len(params["plain"]) == tracking.PARAM_LENGTH


def test_nothing_is_sent_to_anyone():
    import os

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true" and os.environ["DO_NOT_TRACK"] == "true"
