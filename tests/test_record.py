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
    assert len(client.search_logged_models(["1"])) == 4  # two of the first training, two of this
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
