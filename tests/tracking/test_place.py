"""Where the local store lies: a path may hold anything, and a checkout may move, be copied, or be another user's."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pipeline.tracking import package, place, registry
from pipeline.tracking import runs as tracking

ODD = [
    "plain",
    "what?now",
    "50% done",
    "100%25",
    "a#b;c&d",
    "내 문서 (1) #2 & co",
    "q'u\"o :te",
    "back\\slash",
    "line\nbreak",
]


def record(name: str, folder: Path) -> tuple[str, str]:
    """(a finished run with a file, its registered version), as a training leaves them."""
    tracker = tracking.Tracker("tiny")
    run = tracker.start(name, {"stage": "cv"})
    tracker.text(run, name, "settings.yaml")
    (made := folder / "package").mkdir(parents=True, exist_ok=True)
    (made / "MLmodel").write_text(name)
    score = registry.Score("f1", 0.9, 0.8, 1.0, True, run, "folds")
    number = tracker.ensemble(run, "tiny", made, score, [name])
    tracker.end(run)
    tracker.let_go()
    assert tracker.failure == "" and number
    return run, number


def content(run: str, number: str, folder: Path) -> list[str]:
    """Of the run's file, and of the version's package."""
    file = tracking.fetch(run, "settings.yaml", folder)
    model = package.download(tracking.connect()[0], "tiny", number, folder / "model")
    return [file.read_text(), (model / "MLmodel").read_text()]


@pytest.mark.parametrize("name", ODD)
def test_everything_lies_inside_a_checkout_whatever_its_path_holds(settle_in, tmp_path, name):
    runs = settle_in(tmp_path / "all" / name / "mlruns")
    run, number = record("a", tmp_path)
    assert content(run, number, tmp_path / "fetched") == ["a", "a"]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [name]
    assert (runs / "artifacts/tiny" / run / "artifacts/settings.yaml").read_text() == "a"


def test_a_new_store_is_made_in_an_odd_place(tmp_path, monkeypatch):
    (folder := tmp_path / ODD[6]).mkdir()
    monkeypatch.chdir(folder)
    place.make(folder / "mlflow.db", folder / "artifacts")
    client = mlflow.MlflowClient(place.uri_of(folder / "mlflow.db"))
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("names", [("before", "after", "once more"), ("be?fore", "50% after", "before")])
def test_a_checkout_that_moves_takes_its_record_along_and_leaves_nothing_behind(settle_in, tmp_path, capsys, names):
    first, *later = (tmp_path / name for name in names)
    settle_in(first / "mlruns")
    known = [(*record("run 0", tmp_path), "run 0")]
    for n, there in enumerate(later, 1):
        first.rename(there)
        settle_in(there / "mlruns")
        capsys.readouterr()
        known.append((*record(f"run {n}", tmp_path), f"run {n}"))
        assert f"this checkout moved (it was {first})" in capsys.readouterr().err
        for run, number, name in known:
            assert content(run, number, tmp_path / f"fetched-{n}") == [name, name]
            assert (there / "mlruns/artifacts/tiny" / run / "artifacts/settings.yaml").is_file()
        assert not first.exists()
        assert registry.champion(tracking.connect()[0], "tiny").number == "1"
        tracking.connect()
        assert "moved" not in capsys.readouterr().err  # once, and not again
        first = there


def test_a_copy_beside_the_original_and_the_original_write_to_their_own_places(settle_in, tmp_path):
    ours, copy = tmp_path / "ours/mlruns", tmp_path / "copy/mlruns"
    settle_in(ours)
    shared, number = record("shared", tmp_path)
    shutil.copytree(ours, copy)
    made = {ours: [], copy: []}
    for n, runs in enumerate((copy, ours, copy)):
        settle_in(runs)
        made[runs].append(record(f"run {n}", tmp_path)[0])
        assert content(shared, number, tmp_path / "fetched") == ["shared", "shared"]
    for runs, other in ((ours, copy), (copy, ours)):
        assert {path.name for path in (runs / "artifacts/tiny").iterdir()} == {shared, "models", *made[runs]}
        with sqlite3.connect(runs / "mlflow.db") as database:
            places = [row[0] for row in database.execute("SELECT artifact_uri FROM runs")]
        assert places and not [each for each in places if str(other) in each]


def test_a_link_to_the_same_place_is_no_move(settle_in, tmp_path, capsys):
    settle_in(tmp_path / "real/mlruns")
    run, number = record("a", tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    settle_in(tmp_path / "link/mlruns")
    assert content(run, number, tmp_path / "fetched") == ["a", "a"]
    assert "moved" not in capsys.readouterr().err


def test_another_place_that_is_named_while_a_command_runs_does_not_take_its_files(settle_in, tmp_path):
    """As a container does that has the checkout under another path."""
    runs = settle_in(tmp_path / "here/mlruns")
    tracker = tracking.Tracker("tiny")
    run = tracker.start("a", {})
    place.settle(runs / "mlflow.db", tmp_path / "there/mlruns/artifacts")
    tracker.text(run, "a", "settings.yaml")
    tracker.end(run)
    tracker.let_go()
    assert (runs / "artifacts/tiny" / run / "artifacts/settings.yaml").is_file() and not (tmp_path / "there").exists()


def test_artifacts_that_are_not_of_a_checkout_stay_where_they_are(settle_in, tmp_path):
    settle_in(tmp_path / "mlruns")
    client = tracking.connect()[0]
    places = {"s3://bucket/mlruns/artifacts/x", "mlflow-artifacts:/1", str(tmp_path / "elsewhere")}
    for n, location in enumerate(places):
        client.create_experiment(f"x{n}", location)
    tracking.connect()
    assert {made.artifact_location for made in client.search_experiments() if made.name != "Default"} == places


def test_a_store_that_may_not_be_written_to_is_read_and_left_as_it_is(settle_in, tmp_path, monkeypatch, capsys):
    runs = settle_in(tmp_path / "mlruns")
    run, number = record("a", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    monkeypatch.setattr(tracking, "may_write", lambda database, folder: False)
    tracker = tracking.Tracker("tiny")
    assert tracker.failure == "" and [r.info.run_id for r in tracker.search("tags.stage = 'cv'")] == [run]
    assert content(run, number, tmp_path / "fetched") == ["a", "a"]
    late = tracker.start("comparison", {})
    tracker.metrics(late, {"x": 1.0})
    tracker.end(late)
    tracker.let_go()
    assert capsys.readouterr().err.count("nothing of this is recorded") == 1
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("*")}


def test_a_copy_to_read_undoes_what_a_killed_writer_left(settle_in, tmp_path):
    runs = settle_in(tmp_path / "mlruns")
    script = """
import os, sqlite3, sys
store = sqlite3.connect(sys.argv[1], isolation_level=None)
store.execute("PRAGMA cache_size = 1")
store.execute("BEGIN")
store.execute("UPDATE experiments SET name = 'half'")
for i in range(300):
    store.execute("INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, 0)", (str(i), "x" * 4000))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script, str(runs / "mlflow.db")], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert (runs / "mlflow.db-journal").exists()
    with sqlite3.connect(place.copy_to_read(runs / "mlflow.db")) as copy:
        assert copy.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
        assert copy.execute("SELECT count(*) FROM experiment_tags").fetchone() == (0,)
