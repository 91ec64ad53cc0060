"""`make tune` whole, on the digits: what it leaves, what it does the second time, after a kill, with a changed space."""

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from conftest import only_here, serving
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pipeline.config.load import load
from pipeline.tune.space import searched

EXPERIMENT = "experiments/digits.yaml"
SPACE = {
    "train.lr": {"low": 1e-3, "high": 1e-2, "log": True, "per_batch": "sqrt"},
    "train.loss.name": {"choices": ["cross_entropy", "focal"]},
    "train.loss.gamma": {"low": 1.0, "high": 3.0, "when": {"train.loss.name": "focal"}},
    "train.accumulation": {"choices": [1, 2]},
}
OF_TUNE = {"trials": 5, "startup": 3, "space": SPACE, "confirm": {"top": 2}}


@pytest.fixture(scope="module")
def prepared(first, tmp_path_factory):
    """A copy of the repository whose digits have their folds and images, and a small space."""
    checkout = object.__new__(type(first[0]))
    checkout.root = tmp_path_factory.mktemp("tune") / "copy"
    shutil.copytree(first[0].root, checkout.root)
    checkout.edit(EXPERIMENT, folds={"k": 3}, train={"epochs": 2}, tune=OF_TUNE)
    checkout.pipeline("folds", EXPERIMENT)
    return checkout


def copied(checkout, folder):
    copy = object.__new__(type(checkout))
    copy.root = folder / "copy"
    shutil.copytree(checkout.root, copy.root)
    return copy


@pytest.fixture(scope="module")
def tuned(prepared, tmp_path_factory):
    """(a copy after `make tune FORCE=1`, what it printed)"""
    copy = copied(prepared, tmp_path_factory.mktemp("tuned"))
    return copy, copy.make("tune", "FORCE=1", MKL_NUM_THREADS="1").stdout


def studies(checkout) -> list[optuna.Study]:
    storage = JournalStorage(JournalFileBackend(str(checkout.runs / "digits/tune.journal")))
    return [optuna.load_study(study_name=s.study_name, storage=storage) for s in storage.get_all_studies()]


def told(study: optuna.Study) -> list[tuple]:
    """Everything that a study holds of its trials, but when they ran."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        curves = {key: value["scores"] for key, value in trial.user_attrs.items() if key.startswith("curve-")}
        rows.append((trial.number, trial.params, trial.state, trial.values, curves, trial.user_attrs.get("why", "")))
    return rows


def query(checkout, sql: str) -> list[tuple]:
    with sqlite3.connect(checkout.runs / "mlflow.db") as connection:
        return connection.execute(sql).fetchall()


def test_it_leaves_an_experiment_that_means_what_the_chosen_trial_was(tuned):
    checkout, printed = tuned
    path = checkout.root / "experiments/digits-tuned.yaml"
    receipt = json.loads((checkout.runs / "digits/tune.json").read_text())
    [study] = studies(checkout)
    chosen = study.trials[receipt["figures"]["trial"]]
    assert searched(load(path)[0]) == chosen.user_attrs["identity"]
    text = path.read_text()
    for word in ("Hypothesis:", "Command:", "Minutes:", "Score:", f"study {study.study_name}", "95 % interval"):
        assert word in text
    assert yaml.safe_load(text)["base"] == "digits.yaml"
    assert f"make train EXP={'experiments/digits-tuned.yaml'}" in printed and "report mlruns/digits/tune-" in printed


def test_a_trial_is_the_ordinary_training_to_the_bit(tuned, tmp_path):
    """The tuned file, trained by `make train`, comes to the very score that the trial had in the study."""
    checkout = copied(tuned[0], tmp_path)
    [study] = studies(checkout)
    number = json.loads((checkout.runs / "digits/tune.json").read_text())["figures"]["trial"]
    (checkout.runs / "digits-tuned").mkdir()
    checkout.pipeline("train", "experiments/digits-tuned.yaml")
    trained = json.loads((checkout.runs / "digits-tuned/train.json").read_text())["figures"]
    assert trained["score"] == pytest.approx(study.trials[number].value, abs=1e-9)


def test_the_baseline_comes_first_and_every_trial_says_what_came_of_it(tuned):
    [study] = studies(tuned[0])
    trials = study.trials
    assert len(trials) == 5 and trials[0].user_attrs["is_baseline"] and trials[0].value is not None
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED", "FAIL"}
    for trial in trials:
        assert ("train.loss.gamma" in trial.params) == (trial.params["train.loss.name"] == "focal")
        assert trial.state.name == "COMPLETE" or trial.user_attrs["why"]


def test_only_the_best_few_keep_their_checkpoints(tuned):
    checkout, _ = tuned
    [folder] = checkout.runs.glob("digits/tune-*")
    [study] = studies(checkout)
    whole = [t for t in study.trials if t.state.name == "COMPLETE" and not t.user_attrs["is_baseline"]]
    best = sorted(whole, key=lambda t: -t.value)[:2]
    assert {path.name for path in folder.glob("trial-*")} == {f"trial-{trial.number:04d}" for trial in best}
    assert list(folder.glob("fresh-*/*.parquet")) and not list(folder.glob("fresh-*/*.safetensors"))
    assert not list(folder.rglob("*.state*")) and not list(folder.rglob("*.tmp"))


def test_the_record_is_a_tree_of_study_trials_and_folds(tuned):
    checkout, _ = tuned
    tags: dict[str, dict[str, str]] = {}
    for run, key, value in query(checkout, "select run_uuid, key, value from tags"):
        tags.setdefault(run, {})[key] = value
    of_stage = {
        stage: [run for run, t in tags.items() if t["stage"] == stage] for stage in ("tune", "trial", "trial-fold")
    }
    [study_run] = of_stage["tune"]
    [study] = studies(checkout)
    assert len(of_stage["trial"]) == 5
    assert all(tags[run]["mlflow.parentRunId"] == study_run for run in of_stage["trial"])
    n_folds = sum(key.startswith("curve-") for trial in study.trials for key in trial.user_attrs)
    assert len(of_stage["trial-fold"]) == n_folds
    assert {tags[run]["mlflow.parentRunId"] for run in of_stage["trial-fold"]} == set(of_stage["trial"])
    assert {status for (status,) in query(checkout, "select status from runs")} == {"FINISHED"}
    [(place,)] = query(checkout, f"select artifact_uri from runs where run_uuid = '{study_run}'")  # the first copy's
    names = {path.name for path in Path(place).iterdir()}
    assert {"tune.html", "history.png", "curves.png", "confirmed.png", "study.json", "digits-tuned.yaml"} <= names
    value = {t.number: t.value for t in study.trials}
    for run in of_stage["trial"]:
        found = dict(query(checkout, f"select key, value from latest_metrics where run_uuid = '{run}'"))
        assert found.get("oof_macro_f1") == value[int(tags[run]["trial"])]


def test_the_second_time_there_is_nothing_to_do(tuned, tmp_path):
    checkout = copied(tuned[0], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in checkout.runs.glob("digits/**/*") if path.is_file()}
    out, _ = checkout.main("tune", EXPERIMENT)
    assert "tune    up to date" in out and "digits-tuned.yaml" in out
    assert {p: p.stat().st_mtime_ns for p in checkout.runs.glob("digits/**/*") if p.is_file()} == before


def test_killed_and_gone_on_with_it_ends_as_one_that_was_not(prepared, tuned, tmp_path):
    checkout = copied(prepared, tmp_path)
    environment = checkout.environment(MKL_NUM_THREADS="1")
    command = [sys.executable, "-m", "pipeline", "tune", EXPERIMENT, "--force"]
    kills, started = 0, time.monotonic()
    for wanted in (2, 9):  # epochs
        process = subprocess.Popen(command, cwd=checkout.root, env=environment, stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        seen: set[tuple[str, int]] = set()
        while process.poll() is None and len(seen) < wanted and time.monotonic() - started < 200:
            for state in checkout.runs.glob("digits/tune-*/trial-*/fold-*.s*"):
                try:
                    seen.add((str(state), state.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == 2
    checkout.pipeline("tune", EXPERIMENT, "--force", MKL_NUM_THREADS="1")
    [mine], [whole] = studies(checkout), studies(tuned[0])
    assert told(mine) == told(whole)
    ours, theirs = (json.loads((c.runs / "digits/tune.json").read_text())["figures"] for c in (checkout, tuned[0]))
    assert ours["chosen"] == theirs["chosen"] and ours["verdict"] == theirs["verdict"]
    assert {status for (status,) in query(checkout, "select status from runs")} == {"FINISHED"}


def test_more_trials_go_on_and_a_changed_space_inherits_what_fits(tuned, tmp_path):
    checkout = copied(tuned[0], tmp_path)
    [before] = studies(checkout)
    old = told(before)
    narrower = {key: value for key, value in SPACE.items() if key != "train.accumulation"}
    checkout.edit(EXPERIMENT, tune={**OF_TUNE, "space": narrower, "trials": 1})
    out = checkout.pipeline("tune", EXPERIMENT).stdout
    first, second = sorted(studies(checkout), key=lambda study: study.study_name != before.study_name)
    assert told(first) == old
    fits = [row for row in old if row[1]["train.accumulation"] == 1]
    inherited = [trial for trial in second.trials if trial.user_attrs.get("inherited")]
    assert len(inherited) == len([row for row in fits if row[2].name in ("COMPLETE", "PRUNED")])
    assert {trial.user_attrs["inherited"] for trial in inherited} == {before.study_name}
    assert sorted(str(t.values) for t in inherited) == sorted(str(row[3]) for row in fits)
    assert len(second.trials) == len(inherited) + 1 and "from an older study" in out


def test_other_folds_a_measured_rate_two_workers_and_a_file_of_ones_own(prepared, tmp_path):
    checkout = copied(prepared, tmp_path)
    own = checkout.root / "experiments/digits-tuned.yaml"
    own.write_text("base: digits.yaml # by hand\n")
    space = {"train.lr": SPACE["train.lr"], "train.accumulation": SPACE["train.accumulation"]}
    checkout.edit(EXPERIMENT, tune={"trials": 3, "space": space, "lr_range_test": True,
                                    "confirm": {"top": 1, "folds": "fresh"}})  # fmt: skip
    out = checkout.make("tune", "JOBS=2", "TRIALS=3").stdout
    assert "measuring which learning rates train, for adamw" in out and "up to 3 trials, 2 at once" in out
    [measured] = json.loads((checkout.runs / "digits/lr-range.json").read_text()).values()
    [study] = studies(checkout)
    drawn = [trial for trial in study.trials if not trial.user_attrs["is_baseline"]]
    for trial in drawn:
        rate = trial.distributions["train.lr"]
        assert (rate.low, rate.high) == (measured["adamw"]["low"], measured["adamw"]["high"])
    figures = json.loads((checkout.runs / "digits/tune.json").read_text())["figures"]
    [folder] = checkout.runs.glob("digits/tune-*")
    if "difference" in figures:  # some trial came through: it was trained again, on other folds
        assert (folder / "fresh-folds.csv").read_text() != (checkout.runs / "digits/folds.csv").read_text()
        assert list(folder.glob("fresh-*-folds/*.parquet"))
    # written where, and only where, it is better by more than noise; and never over a file of one's own
    assert own.read_text() == "base: digits.yaml # by hand\n"
    assert (checkout.root / "experiments/digits-tuned-2.yaml").exists() == (figures.get("low", -1) > 0)


BAD = {
    "train.lrr: {low: 1, high: 2}": "did you mean 'lr'",
    "train.lr: {low: 2, high: 1}": "is empty",
    "train.loss.name: {choices: [cross_entropy, huber]}": "huber is refused",
    "train.schedule.step_size: {low: 1, high: 3, when: {train.schedule.name: stpe}}": "never holds",
    "train.seeds: {choices: [1, 2]}": "may not vary",
    "folds.k: {choices: [3, 5]}": "may not vary",
    "train.optimizer.name: {choices: [adamw, no_such]}": "no_such",
}


@pytest.mark.parametrize(("space", "words"), BAD.items())
def test_a_mistake_in_the_space_is_told_at_once_and_nothing_is_written(make_checkout, space, words):
    checkout = make_checkout("bad")
    _, errors = checkout.main("tune", EXPERIMENT, f"tune.space={{{space}}}", expect=2)
    assert words in errors and "1 mistake in the input" in errors
    assert not (checkout.runs / "digits").exists() and not (checkout.runs / "mlflow.db").exists()


def test_everything_that_is_wrong_with_a_space_is_told_together(make_checkout):
    checkout = make_checkout("bad")
    several = "tune.space={train.lrr: {low: 1, high: 2}, model.nmae: {choices: [a, b]}}"
    _, errors = checkout.main("tune", EXPERIMENT, several, expect=2)
    assert "2 mistakes" in errors and "train.lrr" in errors and "model.nmae" in errors


def test_a_metric_without_a_direction_is_none(make_checkout):
    _, errors = make_checkout("bad").main("tune", EXPERIMENT, "competition.metric=goodness", expect=2)
    assert "competition.metric=goodness" in errors and "macro_f1" in errors


def test_a_store_in_use_by_another_driver_is_told_at_once(make_checkout):
    checkout = make_checkout("busy")
    with (checkout.runs / ".digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, errors = checkout.main("tune", EXPERIMENT, expect=2)
    assert "another command is at work on digits" in errors
    assert not (checkout.runs / "digits").exists()


def test_the_dashboard_is_served_on_this_machine_only(tuned):
    with serving(tuned[0], "dashboard") as (address, printed):
        assert f"open {address}/dashboard" in printed and only_here(address)
    _, errors = tuned[0].main("dashboard", "experiments/mask.yaml", expect=2)
    assert "there is no study of this experiment yet" in errors
