"""What a search leaves in MLflow: every fold's whole curve, once, whenever the search is killed."""

import json
import shutil
from types import SimpleNamespace

import mlflow
import pytest

from pipeline.stages.tune_record import StudyRecord
from pipeline.tracking import place
from pipeline.tracking import runs as tracking
from pipeline.tune.prune import Trial


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(place.uri_of(database))
    return database


class Killed(BaseException):
    """As SIGKILL: nobody answers it."""


def history(n: int) -> list[dict[str, float]]:
    return [{"epoch": i, "score": i / 10, "train_loss": 1 / i} for i in range(1, n + 1)]


@pytest.fixture
def command(tmp_path, monkeypatch, empty_database):
    """Begins a command of the search, which may be killed before its nth call of a tracker's method or note."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "RUNS", tmp_path)
    monkeypatch.setattr(tracking, "LOCAL_STORE", place.uri_of(tmp_path / "mlflow.db"))
    monkeypatch.setattr(tracking, "ARTIFACTS", tmp_path / "artifacts")

    def begin(killed_at: int = 1000) -> StudyRecord:
        tracker = tracking.Tracker("tiny")
        work = SimpleNamespace(tracker=tracker, tags=lambda stage, inputs: {"stage": stage},
                               competition=SimpleNamespace(metric="f1"))  # fmt: skip
        record = StudyRecord(work, tmp_path / "tune", {})
        known = record.runs.get("study", "")
        record.note("study", tracker.start("study", {"stage": "tune"}, resume=known))
        left = [killed_at]

        def guarded(method):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return method(*args, **kwargs)

            return call

        for name in ("start", "curve", "end", "params", "describe", "rename"):
            setattr(tracker, name, guarded(getattr(tracker, name)))
        record.note = guarded(record.note)
        return record

    return begin


def search(record: StudyRecord, trial: Trial) -> None:
    """As `stages.tune_search` does: a whole fold, and one that is given up after three of its epochs."""
    record.catch_up([trial])
    if "trial-0000" not in record.runs:
        record.begun(trial)
    if 0 not in trial.done:
        trial.curves[0] = [0.1, 0.2, 0.3, 0.4]
        trial.done.add(0)
        record.fold_ended(trial, 0, {"history": history(4), "curve": trial.curves[0]})
    if trial.state == "running":
        for each in history(3)[len(trial.curves.get(1, [])) :]:
            record.epoch(trial, 1, each)
            trial.curves[1] = [0.1, 0.2, 0.3][: each["epoch"]]
        record.fold_ended(trial, 1, {"curve": trial.curves[1]})
        trial.state = "pruned"
        record.ended(trial)


@pytest.mark.parametrize("killed_at", [*range(1, 20)])
def test_a_search_killed_anywhere_keeps_every_fold_s_curve(command, tmp_path, killed_at):
    trial = Trial(0, {}, {}, "identity", 4, (0, 1))
    record = command(killed_at)
    try:
        search(record, trial)
        was_killed = False
    except Killed:
        was_killed = True
    assert was_killed or killed_at > 12  # else this test kills nothing
    record.work.tracker.let_go()
    folder = tmp_path / "tune/trial-0000"
    folder.mkdir(parents=True)
    (folder / "fold-0.json").write_text(json.dumps(history(4)))
    record = command()
    search(record, trial)
    record.work.tracker.let_go()
    client, id_ = record.work.tracker.client, record.work.tracker.experiment_id
    runs = [run for run in client.search_runs([id_]) if run.data.tags["stage"] == "trial-fold" and run.data.metrics]
    curves = {
        run.info.run_name: [m.value for m in client.get_metric_history(run.info.run_id, "valid_f1")] for run in runs
    }
    assert curves == {"fold-0": [0.1, 0.2, 0.3, 0.4], "fold-1": [0.1, 0.2, 0.3]} and len(runs) == 2
    [whole] = [run.info.run_id for run in runs if run.info.run_name == "fold-0"]
    assert [m.value for m in client.get_metric_history(whole, "train_loss")] == [1.0, 1 / 2, 1 / 3, 1 / 4]
    assert {run.info.status for run in runs} == {"FINISHED"}
