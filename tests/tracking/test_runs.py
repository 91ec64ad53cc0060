"""MLflow: what a run holds, that it may fail, and that several processes may start on an empty store at once."""

import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.tracking import runs as tracking
from pipeline.tracking.outbox import Outbox

START = """
import sys
from pathlib import Path
from pipeline.tracking import runs as tracking
root = Path(sys.argv[1])
tracking.RUNS = root
tracking.LOCAL_STORE = tracking.uri_of(root / "mlflow.db")
tracking.ARTIFACTS = root / "artifacts"
t = tracking.Tracker("together")
run = t.start("a run", {"stage": "cv"})
t.metrics(run, {"loss": 1.0}, step=1)
t.end(run)
print(t.failure or "fine")
"""


@pytest.mark.parametrize("n", [2, 6])
def test_processes_that_start_together_on_an_empty_store_all_work_and_the_runs_hold_what_they_were_given(
    store, begin, n
):
    (store / "mlflow.db").unlink()
    command = [sys.executable, "-c", START, str(store)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(n)]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [output.strip().splitlines()[-1] for output in outputs] == ["fine"] * n, outputs
    assert list((store / ".open").iterdir()) == []

    tracker = begin("together")
    assert tracker.failure == ""
    parent = tracker.start("parent", {"stage": "cv"})
    child = tracker.start("child", {"stage": "fold"}, parent=parent)
    tracker.params(parent, {"train.lr": 0.1, "long": "x" * 9000})
    for step, loss in enumerate([3.0, 2.0, 1.0], start=1):
        tracker.metrics(child, {"loss": loss}, step)
    (store / "folds.csv").write_text("image_id\n")
    tracker.artifact(parent, store / "folds.csv")
    tracker.text(parent, "train: {lr: 0.1}", "settings.yaml")
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


def test_a_store_that_cannot_be_used_stops_nothing_and_is_told_once(store, begin, capsys):
    (store / "mlflow.db").write_bytes(b"this is no database" * 100)
    tracker = begin("broken")
    run = tracker.start("run", {})
    tracker.metrics(run, {"loss": 1.0})
    tracker.artifact(run, store / "nothing")
    tracker.end(run)
    assert run.startswith("offline-") and tracker.failure
    assert capsys.readouterr().err.count("tracking stopped") == 1


def test_a_store_that_fails_later_stops_nothing_either(store, begin, capsys, monkeypatch):
    tracker = begin("later")
    run = tracker.start("run", {})

    def locked(*_, **__):
        raise RuntimeError("database is locked")

    monkeypatch.setattr(tracker._client, "log_batch", locked)
    tracker.metrics(run, {"loss": 1.0})
    tracker.params(run, {"a": 1})
    assert "database is locked" in tracker.failure
    assert capsys.readouterr().err.count("database is locked") == 1


def test_settings_with_names_that_mlflow_forbids_are_recorded_all_the_same(store, begin):
    tracker = begin("names")
    run = tracker.start("run", {})
    tracker.params(run, {"match.mask*": "wear", "match.mask?": "x", "class.口罩": 1, "plain": "y" * 9000})
    params = tracker._client.get_run(run).data.params
    assert not tracker.failure and params["match.mask_"] == "wear" and "x" in params.values()
    assert params["class.__"] == "1" and len(params["plain"]) == tracking.PARAM_LENGTH


def killed(store, after: str) -> None:
    """A process that opens runs and is killed by SIGKILL at the end of `after`."""
    script = START.split("t = tracking")[0] + "import os, signal\n" + after + "\nos.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run([sys.executable, "-c", script, str(store)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def test_runs_of_a_killed_command_are_closed_by_the_next_one_and_those_of_a_living_one_are_not(store, begin):
    living = begin("alive")
    own = living.start("own", {})
    killed(
        store,
        """
t = tracking.Tracker("alive")
parent = t.start("parent", {})
child = t.start("child", {}, parent=parent)
done = t.start("done", {}, parent=parent)
t.end(done)
""",
    )
    client = living._client
    status = {run.info.run_name: run.info.status for run in client.search_runs([living.experiment_id])}
    assert status == {"own": "RUNNING", "parent": "RUNNING", "child": "RUNNING", "done": "FINISHED"}
    begin("alive")
    runs = client.search_runs([living.experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == status | {"parent": "KILLED", "child": "KILLED"}
    [parent] = [run.info.run_id for run in runs if run.info.run_name == "parent"]
    going_on = begin("alive")
    going_on.start("parent", {}, resume=parent)
    begin("alive")
    assert client.get_run(parent).info.status == "RUNNING" and client.get_run(own).info.status == "RUNNING"


def test_what_could_not_be_sent_is_sent_by_the_next_command_with_all_its_links(store, begin, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = begin("later")
    parent = tracker.start("parent", {"stage": "cv"})
    child = tracker.start("child", {"stage": "fold", "cv_run": parent}, parent=parent)
    tracker.params(parent, {"lr": 0.1})
    for step in (1, 2):
        tracker.metrics(child, {"loss": 1 / step, "map@5": 0.5}, step)
    (store / "folds.csv").write_text("first")
    tracker.artifact(parent, store / "folds.csv")
    (store / "new.csv").write_text("second")
    (store / "new.csv").replace(store / "folds.csv")  # as `atomic` does; the first content is what was logged
    (store / "folder").mkdir()
    (store / "folder/a.txt").write_text("a")
    tracker.artifact(parent, store / "folder", "model")
    tracker.describe(parent, f"see [the fold](#/runs/{child})")
    tracker.inputs(
        parent, [{"name": "train", "digest": "d", "source": "train.csv", "profile": "{}", "context": "training"}]
    )
    tracker.model(child, "fold-0", {"fold": 0}, {"macro_f1": 0.5}, 2, {"checkpoint": "fold-0"})
    tracker.rename(parent, "parent · 0.5")
    tracker.end(child)
    tracker.end(parent)
    assert tracker.exists(parent)
    tracker.let_go()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    capsys.readouterr()
    later = begin("later")
    assert later.failure == "" and later.earlier.n_sent == 13
    assert "13 calls" in capsys.readouterr().err
    client = later._client
    runs = {run.info.run_name: run for run in client.search_runs([later.experiment_id])}
    cv, fold = runs["parent · 0.5"], runs["child"]
    assert tracking.real_id(parent, store / "outbox") == cv.info.run_id and later.exists(parent)
    assert fold.data.tags["mlflow.parentRunId"] == fold.data.tags["cv_run"] == cv.info.run_id
    assert fold.info.run_id in cv.data.tags["mlflow.note.content"]
    assert (cv.info.status, fold.info.status) == ("FINISHED", "FINISHED") and cv.data.params == {"lr": "0.1"}
    assert [m.value for m in client.get_metric_history(fold.info.run_id, "loss")] == [1.0, 0.5]
    assert fold.data.metrics["map_5"] == 0.5 and cv.inputs.dataset_inputs[0].dataset.digest == "d"
    assert tracking.fetch(parent, "folds.csv", store / "elsewhere").read_text() == "first"
    assert tracking.fetch(parent, "model/a.txt", store / "elsewhere").read_text() == "a"
    [model] = client.search_logged_models([later.experiment_id])
    assert model.name == "fold-0" and {m.key: m.value for m in model.metrics} == {"macro_f1": 0.5}
    assert later._outbox.journals() == [] and begin("later").earlier.n_sent == 0
    later.metrics(parent, {"test": 1.0})  # a receipt still holds our id
    assert client.get_run(cv.info.run_id).data.metrics["test"] == 1.0


def test_a_command_killed_while_it_sends_or_whose_call_had_arrived_doubles_nothing(store, begin):
    tracker = begin("twice")
    tracker.failure = "as if"
    run = tracker.start("run", {})
    tracker.model(run, "fold-0", {}, {"f1": 0.5}, 1, {})
    tracker.metrics(run, {"loss": 1.0}, 1)
    tracker.end(run)
    [journal] = tracker._outbox.journals()
    whole = journal.read_text()
    tracker.let_go()
    assert begin("twice").earlier.n_sent == 4
    journal.parent.mkdir()
    journal.write_text(whole + '{"call": "metr')  # all of it again, and a line that a kill cut off
    again = begin("twice")
    client = again._client
    [made] = client.search_runs([again.experiment_id])
    assert again.earlier.n_sent == 4 and len(client.search_logged_models([again.experiment_id])) == 1
    assert len(client.get_metric_history(made.info.run_id, "loss")) == 1


def test_a_journal_that_a_living_command_writes_to_is_left_alone(store, begin):
    tracker = begin("living")
    tracker.failure = "as if"
    run = tracker.start("run", {})
    other = begin("living")
    assert other.earlier.n_sent == 0 and other._client.search_runs([other.experiment_id]) == []
    other.metrics(run, {"loss": 1.0})  # of a run that is still kept: kept too, and not refused
    assert len(other._outbox.journals()) == 2 and not (store / "outbox/living/refused.jsonl").exists()


def test_what_mlflow_will_never_take_is_told_once_kept_and_stops_nothing(store, begin, capsys):
    tracker = begin("refused")
    run = tracker.start("run", {})
    tracker.params(run, {"lr": 1})
    tracker.params(run, {"lr": 2})  # params are for ever
    tracker.params(run, {"lr": 2})
    tracker.artifact(run, store / "nowhere.csv")
    tracker.metrics(run, {"loss": float("nan"), "norm": float("inf")}, 1)
    assert tracker.failure == "" and set(tracker._client.get_run(run).data.metrics) == {"loss", "norm"}
    assert capsys.readouterr().err.count("MLflow does not take") == 2
    assert (store / "outbox/refused/refused.jsonl").read_text().count("\n") == 3


def test_a_full_disk_stops_nothing(store, begin, capsys, monkeypatch):
    tracker = begin("full")
    run = tracker.start("run", {})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracker._client, "log_batch", full)
    monkeypatch.setattr(tracker._outbox, "keep", full)
    for step in range(3):
        tracker.metrics(run, {"loss": 1.0}, step)
    errors = capsys.readouterr().err
    assert errors.count("tracking stopped") == 1 and errors.count("cannot be kept either") == 1


def test_nothing_is_sent_to_anyone():
    import os

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true" and os.environ["DO_NOT_TRACK"] == "true"


def test_a_run_that_was_killed_before_mlflow_knew_it_is_closed_once_it_does(store, begin):
    killed(
        store,
        """
t = tracking.Tracker("away")
t.failure = "as if"
t.start("run", {})
""",
    )
    begin("other")  # knows nothing of what is kept for another experiment
    after = begin("away")
    begin("away")
    [run] = after._client.search_runs([after.experiment_id])
    assert after.earlier.n_sent == 1 and run.info.status == "KILLED" and list((store / ".open").iterdir()) == []


def test_models_that_are_logged_again_are_the_same_models(store, begin):
    tracker = begin("models")
    run = tracker.start("fold-0", {})
    for _ in range(2):  # as a command does that was killed after the first time
        tracker.model(run, "fold-0", {}, {"f1": 0.5}, 3, {"sha256": "a"})
    tracker.model(run, "fold-0", {}, {"f1": 0.6}, 3, {"sha256": "b"})
    assert len(tracker._client.search_logged_models([tracker.experiment_id])) == 2


def test_files_of_what_is_refused_stay(store, begin):
    tracker = begin("files")
    tracker.failure = "as if"
    tracker.artifact("0" * 32, Path(__file__))  # of a run that nobody has
    tracker.let_go()
    begin("files")
    [kept] = (store / "outbox/files/refused").rglob("*.py")
    assert kept.read_bytes() == Path(__file__).read_bytes()


def test_the_machine_is_measured_as_far_as_it_can_be(monkeypatch):
    from pipeline.tracking import system

    def nothing(*_, **__):
        raise AttributeError("no network here")

    monkeypatch.setattr(system.NetworkMonitor, "__init__", nothing)
    with system.SystemSampler(interval_s=0.02) as sampler:
        time.sleep(0.1)
        first, second = sampler.take(), sampler.take()
    names = {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    assert names <= set(first) & set(second) and not any("network" in name for name in first)
    assert all(math.isfinite(value) for value in first.values())


def test_the_record_of_another_store_waits_for_it(store, begin, capsys, monkeypatch):
    own, other = f"sqlite:///{store / 'own.db'}", f"sqlite:///{store / 'other.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    tracker = begin("stores")
    run = tracker.start("run", {})
    tracker.failure = "as if it had gone"
    tracker.metrics(run, {"loss": 1.0}, 1)
    tracker.end(run)
    tracker.let_go()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    capsys.readouterr()
    elsewhere = begin("stores")
    assert elsewhere.earlier.n_sent == 0 and (elsewhere.earlier.n_running, elsewhere.earlier.n_elsewhere) == (0, 1)
    assert "waits for another store" in capsys.readouterr().err
    assert not (store / "outbox/stores/refused.jsonl").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    back = begin("stores")
    found = back._client.get_run(run)
    assert back.earlier.n_sent == 2 and found.data.metrics == {"loss": 1.0} and found.info.status == "FINISHED"
    assert (back.earlier.n_running, back.earlier.n_elsewhere) == (0, 0)


def named(root, worker: int) -> None:
    box = Outbox(root, "x", "sqlite://")
    for n in range(40):
        box.named(f"offline-{worker:016x}{n:016x}", f"{worker}-{n}")


def test_commands_that_send_at_once_forget_none_of_each_others_runs(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(named, [tmp_path] * 3, range(3)))
    assert len(json.loads((tmp_path / "ids.json").read_text())) == 120


def test_a_disk_that_takes_half_a_line_spoils_no_other(store, begin, monkeypatch):
    tracker = begin("torn")
    tracker.failure = "as if"
    run = tracker.start("run", {})
    write, broken = os.write, []

    def half(file, line):
        if b'"torn"' not in line:
            return write(file, line)
        broken.append(line)
        return write(file, line[: len(line) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tracking.outbox.os.write", half)
        tracker.metrics(run, {"torn": 1.0}, 1)
    tracker.metrics(run, {"whole": 1.0}, 1)
    tracker.end(run)
    tracker.let_go()
    after = begin("torn")
    [made] = after._client.search_runs([after.experiment_id])
    assert (
        broken and after.earlier.n_sent == 3 and made.data.metrics == {"whole": 1.0} and made.info.status == "FINISHED"
    )
