"""The whole chain in a copy of the repository: fresh, again, after changes, after a kill, without a tracker.

One fold more or less and one epoch, so each training takes seconds; what is tested is not how well it learns.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from pipeline import receipts
from pipeline.config.settings import fingerprint
from pipeline.submit import check_submission

EXPERIMENT = "experiments/digits.yaml"
OF_TWO_STAGES = ("eda", "folds", "train", "submit")


def receipt(checkout, verb: str) -> receipts.Receipt:
    found = receipts.read(checkout.runs / "digits", verb)
    assert found is not None
    return found


def query(checkout, sql: str) -> list[tuple]:
    with sqlite3.connect(checkout.runs / "mlflow.db") as connection:
        return connection.execute(sql).fetchall()


def n_runs(checkout) -> int:
    return query(checkout, "select count(*) from runs")[0][0]


def stage_lines(output: str, text: str) -> set[str]:
    return {line.split()[0] for line in output.splitlines() if text in line}


def test_a_fresh_clone_ends_in_a_submission_and_says_what_matters(first):
    checkout, output = first
    last = output.strip().splitlines()[-4:]
    assert "cross-validated macro_f1" in last[0] and "95 % interval" in last[0]
    assert "expected on the test set" in last[1] and "95 % interval" in last[1]
    assert last[2].split()[-1] == "mlruns/digits/submission.csv" and last[3].endswith("make ui")
    submission = pd.read_csv(checkout.runs / "digits/submission.csv", dtype=str)
    sample = pd.read_csv(checkout.root / "data/digits/sample_submission.csv", dtype=str)
    assert list(submission["image_id"]) == list(sample["image_id"]) and len(submission) == 600
    assert set(submission["label"]) <= set("0123456789")
    folds = pd.read_csv(checkout.runs / "digits/folds.csv", dtype=str)
    train = pd.read_csv(checkout.root / "data/digits/train.csv", dtype=str)
    assert sorted(folds["image_id"]) == sorted(train["image_id"])


def test_the_record_in_mlflow_is_a_tree_with_everything_in_it(first):
    checkout, _ = first
    assert query(checkout, "select name from experiments where name != 'Default'") == [("digits",)]
    tags = {}
    for run, key, value in query(checkout, "select run_uuid, key, value from tags"):
        tags.setdefault(run, {})[key] = value
    by_stage: dict[str, list[str]] = {}
    for run, of_run in tags.items():
        by_stage.setdefault(of_run["stage"], []).append(run)
    assert {stage: len(runs) for stage, runs in by_stage.items()} == {
        "eda": 1,
        "folds": 1,
        "cv": 1,
        "fold": 2,
        "submission": 1,
    }
    [cv] = by_stage["cv"]
    assert all(tags[fold]["mlflow.parentRunId"] == cv for fold in by_stage["fold"])
    assert tags[by_stage["submission"][0]]["cv_run"] == cv == receipt(checkout, "train").run_id
    assert tags[cv]["folds"] == receipt(checkout, "folds").figures["hash"]
    assert tags[cv]["fingerprint"] == receipt(checkout, "train").fingerprint
    assert {status for (status,) in query(checkout, "select status from runs")} == {"FINISHED"}

    params = dict(query(checkout, f"select key, value from params where run_uuid = '{cv}'"))
    assert params["train.epochs"] == "1" and params["model.name"] == "test_resnet" and params["folds.k"] == "2"
    metrics = {key for (key,) in query(checkout, f"select key from metrics where run_uuid = '{by_stage['fold'][0]}'")}
    assert {"train_loss", "valid_loss", "valid_macro_f1", "lr", "grad_norm", "images_per_s"} <= metrics
    oofs = query(checkout, f"select value from metrics where run_uuid = '{cv}' and key = 'oof_macro_f1'")
    [(oof,)] = set(oofs)  # of the run, and of its ensemble in the Models view
    assert oof == receipt(checkout, "train").figures["score"]
    [eda] = by_stage["eda"]
    looked = {path.name for path in (checkout.runs / "artifacts/digits" / eda / "artifacts").rglob("*")}
    assert {"eda.html", "findings.json"} <= looked and any(name.endswith(".png") for name in looked)
    stored = {path.name for path in (checkout.runs / "artifacts/digits" / cv / "artifacts").iterdir()}
    assert {"fold-0.safetensors", "fold-1.safetensors", "folds.csv", "oof.parquet", "settings.yaml"} <= stored


def test_the_second_time_nothing_is_done_in_under_a_second(finished):
    before = n_runs(finished)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        output = finished.make("submit").stdout
        times.append(time.perf_counter() - started)
        assert stage_lines(output, "up to date") == {"eda", "folds", "train", "submit"}
    assert min(times) < 1.0
    assert n_runs(finished) == before
    assert "cross-validated" in output and "make ui" in output


def test_a_touched_or_rewritten_yaml_with_the_same_settings_changes_nothing(finished):
    path = finished.root / EXPERIMENT
    path.write_text("# another comment\n" + path.read_text())
    output = finished.make("submit").stdout
    assert stage_lines(output, "up to date") == {"eda", "folds", "train", "submit"}


def test_an_equal_table_that_was_fetched_again_never_moves_the_folds(finished):
    table = finished.root / "data/digits/train.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\r\n".join([header, *reversed(rows)]) + "\r\n")  # another order, other line ends, a new time
    for image in (finished.root / "data/digits/images").iterdir():
        image.touch()
    output = finished.make("submit").stdout
    assert stage_lines(output, "up to date") == {"eda", "folds", "train", "submit"}


def test_other_epochs_train_again_on_the_same_folds_and_the_run_says_why(finished):
    folds = finished.runs / "digits/folds.csv"
    before, changed_at = folds.read_bytes(), folds.stat().st_mtime_ns
    output, _ = finished.main("submit", EXPERIMENT, "train.epochs=2")
    assert stage_lines(output, "up to date") == {"eda", "folds"}
    assert "train.epochs changed (1 to 2)" in output
    assert folds.read_bytes() == before and folds.stat().st_mtime_ns == changed_at
    assert n_runs(finished) == 6 + 4


def test_folds_that_were_edited_are_refused_by_name(finished):
    folds = finished.runs / "digits/folds.csv"
    folds.write_text(folds.read_text().replace(",0,", ",1,", 1))
    done = finished.make("train", expect=2)
    assert "mlruns/digits/folds.csv" in done.stderr and "make folds" in done.stderr and "Traceback" not in done.stderr


def test_a_checkpoint_of_other_folds_is_refused_by_name_and_a_lost_one_is_fetched(finished):
    trained = receipt(finished, "train")
    path = finished.runs / "digits" / trained.artifacts["fold-1.safetensors"]["path"]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(trained.inputs["folds"].encode(), b"f" * 16))
    assert path.read_bytes() != whole
    (finished.runs / "digits/submission.csv").unlink()
    _, errors = finished.main("submit", EXPERIMENT, expect=2)
    assert "fold-1.safetensors" in errors
    assert not (finished.runs / "digits/submission.csv").exists()
    path.unlink()
    before = (finished.runs / "digits/submit.json").read_text()
    output, _ = finished.main("submit", EXPERIMENT)
    assert "fold-1.safetensors fetched from MLflow" in output
    assert path.read_bytes() == whole and (finished.runs / "digits/submit.json").read_text() != before


def test_a_killed_training_goes_on_and_ends_in_the_same_bytes_without_a_tracker(finished):
    """SIGKILL in the second fold; a store that is no database; both at once. Compared with an undisturbed run."""
    settings = ["train.epochs=3", "train.seeds=[5]"]
    work = finished.runs / "digits"
    (finished.runs / "mlflow.db").write_bytes(b"this is no database " * 500)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "submit", EXPERIMENT, *settings],
        cwd=finished.root, env=finished.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    give_up = time.monotonic() + 120
    while not list(work.glob("train-*/fold-1.state")):
        assert time.monotonic() < give_up and process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    output, errors = finished.main("submit", EXPERIMENT, *settings)
    assert "fold 1/2" not in output and "fold 2/2" in output  # the finished fold is not trained again
    assert errors.count("tracking stopped") == 1 and receipt(finished, "train").run_id.startswith("offline-")
    resumed = results(work)

    shutil.rmtree(work)
    finished.main("submit", EXPERIMENT, *settings)
    assert results(work) == resumed
    assert not list(work.glob("train-*/*.state"))  # nothing that is unpickled stays behind


def test_a_forced_training_that_is_interrupted_goes_on_where_it_stopped_and_leaves_no_run_open(finished, monkeypatch):
    import pipeline.crossval as room

    finished.main("train", EXPERIMENT, "train.epochs=2")
    original = room.train_fold

    def interrupted(data, train_rows, valid_rows, which, *rest):
        if which.number == 1:
            *others, on_epoch, on_step = rest

            def stop(record):
                on_epoch(record)
                raise KeyboardInterrupt

            rest = (*others, stop, on_step)
        return original(data, train_rows, valid_rows, which, *rest)

    monkeypatch.setattr(room, "train_fold", interrupted)
    finished.main("train", EXPERIMENT, "--force", "train.epochs=2", expect=130)
    statuses = [status for (status,) in query(finished, "select status from runs order by start_time")]
    assert statuses.count("RUNNING") == 0 and statuses.count("KILLED") == 2  # the parent and its second fold
    monkeypatch.setattr(room, "train_fold", original)
    output, _ = finished.main("train", EXPERIMENT, "--force", "train.epochs=2")
    assert "fold 1/2" not in output and "fold 2/2" in output
    assert {status for (status,) in query(finished, "select status from runs")} == {"FINISHED"}


def results(work: Path) -> dict[str, bytes]:
    """What must be equal to the byte: weights, out-of-fold table, submission."""
    names = ("*.safetensors", "oof.parquet")
    folder = work / Path(json.loads((work / "train.json").read_text())["artifacts"]["oof.parquet"]["path"]).parent
    files = [path for name in names for path in sorted(folder.glob(name))]
    assert len(files) == 3
    return {path.name: path.read_bytes() for path in [*files, work / "submission.csv"]}


def test_the_score_reads_the_answers_and_nothing_else_does(finished):
    answers = finished.root / "data/digits/answers.csv"
    hidden = answers.read_bytes()
    answers.unlink()
    (finished.runs / "digits/submission.csv").unlink()
    finished.main("submit", EXPERIMENT)  # needs none
    _, errors = finished.main("score", EXPERIMENT, expect=2)
    assert "there are no answers" in errors
    answers.write_bytes(hidden)
    output, _ = finished.main("score", EXPERIMENT)
    value = receipt(finished, "score").figures["score"]
    assert f"test macro_f1 {value:.4f} on 600 images" in output
    run = receipt(finished, "submit").run_id
    assert query(finished, f"select value from metrics where run_uuid = '{run}' and key = 'test_macro_f1'") == [
        (value,)
    ]


def test_receipts_hold_the_resolved_settings_and_their_fingerprint(first):
    checkout, _ = first
    for verb in OF_TWO_STAGES:
        found = receipt(checkout, verb)
        assert found.settings["train.epochs"] == 1 and found.settings["train.batch_size"] == 32
        assert found.fingerprint == fingerprint(found.inputs) and found.run_id


def test_the_written_submission_passes_its_own_checks(first):
    from pipeline.competition.csv import read
    from pipeline.config.data import DigitsCompetition

    checkout, _ = first
    competition = read(DigitsCompetition(source="digits", root=str(checkout.root / "data/digits")))
    assert check_submission(checkout.runs / "digits/submission.csv", competition) == []


def test_quick_looks_leave_nothing_that_a_later_stage_would_take(finished):
    def receipts_of(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (finished.runs / name).glob("*.json")}

    before = receipts_of("digits")
    out, _ = finished.main("overfit", EXPERIMENT)
    assert "learnt after" in out
    _, told = finished.main("overfit", EXPERIMENT, "train.lr=1e-9", expect=1)
    assert "was not learnt in" in told and "train.lr" in told
    out, _ = finished.main("smoke", EXPERIMENT)
    assert "the whole chain runs" in out and "32 test images predicted" in out
    assert receipts_of("digits") == before and "train.json" in receipts_of("digits-smoke")
