"""`runs`, `compare` and `sync` on real runs of the embedded competition."""

import json
import re

import pytest
from mlflow import MlflowClient

EXPERIMENT = "experiments/digits.yaml"
FAST = ("train.epochs=1", "images.px=16")


@pytest.fixture
def two_runs(finished):
    finished.main("train", EXPERIMENT, *FAST)
    return finished


def ids(checkout) -> list[str]:
    listed, _ = checkout.main("runs", EXPERIMENT)
    return [line.split()[0] for line in listed.splitlines()[1:] if " cv · " in line]


def test_runs_are_listed_the_youngest_first_and_compared_and_the_comparison_is_a_run_that_names_both(two_runs):
    listed, _ = two_runs.main("runs", EXPERIMENT)
    assert listed.splitlines()[0].split()[:3] == ["run", "started", "(UTC)"] and len(listed.splitlines()) == 4
    assert "submission" in listed and re.search(r"0\.\d{4} to 0\.\d{4}", listed)
    young, old = ids(two_runs)
    assert receipt_run(two_runs).startswith(young)
    said, _ = two_runs.main("compare", EXPERIMENT)  # the youngest with the best other one
    assert f"{old} (cv" in said and "1,197 rows" in said and "more than noise" in said
    turned, _ = two_runs.main("compare", EXPERIMENT, "--runs", young, old)
    [value], [other] = (re.findall(r"difference ([+-]0\.\d{4})", text) for text in (said, turned))
    assert float(value) == -float(other) and float(value) < 0  # 16 px and one epoch are worse
    client = MlflowClient(f"sqlite:///{two_runs.runs / 'mlflow.db'}")
    [run, _] = client.search_runs(["1"], "tags.stage = 'comparison'", order_by=["attributes.start_time ASC"])
    assert run.data.tags["cv_run_b"].startswith(young) and run.data.tags["cv_run_a"].startswith(old)
    assert old in run.data.tags["mlflow.note.content"] and run.info.status == "FINISHED"
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"comparison.json", "differences.png"}
    assert run.data.metrics["difference"] == pytest.approx(float(value), abs=1e-4)


def receipt_run(checkout) -> str:
    return json.loads((checkout.runs / "digits/train.json").read_text())["run_id"]


def test_what_cannot_be_compared_is_told_with_what_can(two_runs):
    young, old = ids(two_runs)
    _, errors = two_runs.main("compare", EXPERIMENT, "--runs", young, "nonsense", expect=2)
    assert "no finished run begins so" in errors and f"{old} (cv" in errors
    _, errors = two_runs.main("compare", EXPERIMENT, "--runs", young, expect=2)
    assert "valid: two or more" in errors
    two_runs.main("train", EXPERIMENT, *FAST, "folds.seed=9")
    strange = ids(two_runs)[0]
    _, errors = two_runs.main("compare", EXPERIMENT, "--runs", young, strange, expect=2)
    assert "other folds" in errors and strange in errors
    _, errors = two_runs.main("compare", EXPERIMENT, expect=2)  # alone on its folds
    assert "1 run" in errors


def test_what_a_command_kept_while_the_server_was_away_is_sent_by_sync(finished, monkeypatch):
    database = finished.runs / "mlflow.db"
    database.rename(finished.runs / "aside.db")
    database.write_bytes(b"this is no database" * 100)
    done = finished.pipeline("train", EXPERIMENT, *FAST)
    assert done.stderr.count("tracking stopped") == 1
    refused = finished.pipeline("sync", EXPERIMENT, expect=1)
    assert "cannot be reached" in refused.stderr
    (finished.runs / "aside.db").replace(database)
    said, _ = finished.main("sync", EXPERIMENT)
    assert re.search(r"sync    \d\d+ calls sent", said)
    said, _ = finished.main("sync", EXPERIMENT)
    assert "nothing is waiting" in said
    client = MlflowClient(f"sqlite:///{database}")
    run = client.search_runs(["1"], "tags.stage = 'cv'")[0]
    assert run.info.status == "FINISHED" and len(client.search_runs(["1"], f"tags.cv_run = '{run.info.run_id}'")) == 2
    assert (
        len(client.search_logged_models(["1"])) == 6
    )  # two folds and their ensemble, of the first training and of this
    folds = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert sorted(f.info.run_name for f in folds) == ["fold-0", "fold-1"]
    assert "oof.parquet" in {a.path for a in client.list_artifacts(run.info.run_id)}
    lost = finished.runs / "digits/train.json"
    ours = json.loads(lost.read_text())["run_id"]
    assert ours.startswith("offline-") and run.data.tags["podium.id"] == ours
    for path in (finished.runs / "digits").glob("train-*/fold-0.safetensors"):
        path.unlink()
    said, _ = finished.main("submit", EXPERIMENT, *FAST)  # the receipt still knows the run by our id
    assert "fold-0.safetensors fetched from MLflow" in said


def test_a_cross_validation_shows_what_its_rows_came_to_and_what_each_run_stands_on(finished):
    client = MlflowClient(f"sqlite:///{finished.runs / 'mlflow.db'}")
    cv = client.get_run(receipt_run(finished))
    there = {artifact.path for artifact in client.list_artifacts(cv.info.run_id)}
    assert {"curves.png", "confusion.png", "reliability.png", "classes.png", "classes.csv", "mistakes.png",
            "attention.png", "settings.yaml", "oof.parquet", "folds.csv"} <= there  # fmt: skip
    assert {"oof_macro_f1", "oof_macro_f1_low", "oof_macro_f1_high", "fold_mean_macro_f1", "fold_std_macro_f1"} <= set(
        cv.data.metrics
    )
    assert {"env.torch", "env.python", "env.machine", "settings", "folds", "images", "mlflow.user"} <= set(cv.data.tags)
    [data] = cv.inputs.dataset_inputs
    assert data.dataset.name == "digits train" and '"num_rows": 1197' in data.dataset.profile
    [fold, _] = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{cv.info.run_id}'")
    assert {"train_loss", "valid_loss", "valid_macro_f1", "lr", "grad_norm", "images_per_s", "seconds", "memory_mb",
            "system/cpu_utilization_percentage"} <= set(fold.data.metrics)  # fmt: skip
    models = client.search_logged_models(["1"], order_by=[{"field_name": "metrics.kept_macro_f1", "ascending": False}])
    scores = [metric.value for model in models for metric in model.metrics if metric.key == "kept_macro_f1"]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    [submission] = client.search_runs(["1"], "tags.stage = 'submission'")
    steps = [submission, cv]  # three links from a submission to its data
    for wanted in (cv.info.run_id, cv.data.tags["folds_run"]):
        note = steps.pop(0).data.tags["mlflow.note.content"]
        assert f"runs/{wanted}?" in note and "makes it again" in note
    assert "first look" in client.get_run(cv.data.tags["folds_run"]).data.tags["mlflow.note.content"]


def test_further_metrics_and_rates_are_recorded_and_change_nothing(finished):
    before = receipt_run(finished)
    said, _ = finished.main("train", EXPERIMENT, "competition.more_metrics=[accuracy,log_loss]")
    assert "up to date" in said and receipt_run(finished) == before
    finished.main("train", EXPERIMENT, *FAST, "competition.more_metrics=[accuracy]", "train.head_lr_ratio=3")
    client = MlflowClient(f"sqlite:///{finished.runs / 'mlflow.db'}")
    cv = client.get_run(receipt_run(finished))
    [fold, _] = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{cv.info.run_id}'")
    assert "oof_accuracy" in cv.data.metrics and "valid_accuracy" in fold.data.metrics
    assert fold.data.metrics["lr_head"] == pytest.approx(3 * fold.data.metrics["lr_body"])


def test_a_picture_that_cannot_be_drawn_is_told_and_costs_nothing_else(finished, monkeypatch):
    from pipeline.report import cv_pictures

    def broken(*_, **__):
        raise RuntimeError("no such font")

    monkeypatch.setattr(cv_pictures, "mistakes", broken)
    said, _ = finished.main("train", EXPERIMENT, *FAST)
    assert "mistakes could not be drawn (RuntimeError: no such font)" in said and "out-of-fold rows" in said
    client = MlflowClient(f"sqlite:///{finished.runs / 'mlflow.db'}")
    there = {artifact.path for artifact in client.list_artifacts(receipt_run(finished))}
    assert "mistakes.png" not in there and {"attention.png", "fold-1.safetensors"} <= there
