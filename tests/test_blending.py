"""Submissions of several runs, from their trainings in MLflow to the file, its record, and the memory of what it scored."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Checkout
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.metrics import f1_score

from pipeline.competition.contract import WHERE
from pipeline.images.load import load_images
from pipeline.model import load_checkpoint
from pipeline.predict import predict

DIGITS = "experiments/digits.yaml"
CPU = torch.device("cpu")


def mlflow_runs(checkout: Checkout, stage: str) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{checkout.runs / 'mlflow.db'}")
    return client.search_runs(["1"], f"tags.stage = '{stage}'", order_by=["attributes.start_time DESC"])


@pytest.fixture(scope="module")
def two_runs(first, tmp_path_factory) -> Checkout:
    """The first checkout with a second training, on the same folds, by another learning rate."""
    checkout = object.__new__(Checkout)
    checkout.root = tmp_path_factory.mktemp("two") / "copy"
    shutil.copytree(first[0].root, checkout.root)
    move_store(first[0].root, checkout.root)
    checkout.main("train", DIGITS, "train.lr=2e-3")
    return checkout


def move_store(old: Path, new: Path) -> None:
    """Artifacts of a copied store are looked for where the copy is."""
    import sqlite3

    with sqlite3.connect(new / "mlruns/mlflow.db") as store:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(old), str(new)))


@pytest.fixture
def two(two_runs, tmp_path) -> Checkout:
    checkout = object.__new__(Checkout)
    checkout.root = tmp_path / "copy"
    shutil.copytree(two_runs.root, checkout.root)
    move_store(two_runs.root, checkout.root)
    return checkout


def record_of(checkout: Checkout) -> dict:
    return json.loads((checkout.runs / "digits/submission.json").read_text())


def by_hand(checkout: Checkout, record: dict, mirrored: bool = False) -> tuple[np.ndarray, float]:
    """(mean test probabilities, out-of-fold macro F1) of a record's models by a plain loop over the files."""
    sample = pd.read_csv(checkout.root / "data/digits/sample_submission.csv", dtype=str)
    train = pd.read_csv(checkout.root / "data/digits/train.csv", dtype=str)
    folds = pd.read_csv(checkout.runs / "digits/folds.csv", dtype=str).set_index("image_id")["fold"].astype(int)

    def rows(table: pd.DataFrame) -> list[dict]:
        return [
            {"image_id": i, "path": str(checkout.root / f"data/digits/images/{i}.png"), WHERE: ""}
            for i in table["image_id"]
        ]

    test, oof, n = 0.0, np.zeros((len(train), 10)), 0
    for member in record["members"]:
        for name in member["checkpoints"]:
            [path] = [p for p in checkout.runs.rglob(name) if member["run"] in str(p) and "artifacts" in p.parts]
            model, info = load_checkpoint(path, CPU)

            def seen(table, model=model, info=info):
                images = torch.from_numpy(load_images(rows(table), info.preprocessing))
                plain = predict(model, info.task, images, info.preprocessing, CPU)
                if not mirrored:
                    return plain
                return (plain + predict(model, info.task, images.flip(2), info.preprocessing, CPU)) / 2

            test, n = test + seen(sample), n + 1
            own = np.flatnonzero(folds.loc[train["image_id"]].to_numpy() == info.fold)
            oof[own] += seen(train.iloc[own])
    return test / n, f1_score(train["label"].astype(int), oof.argmax(axis=1), average="macro")


def test_several_runs_are_one_submission_with_the_score_of_exactly_this_blend(two):
    out, _ = two.main("submit", DIGITS, "submit.bias=off", "submit.blend=equal", "--runs", "top2")
    record = record_of(two)
    assert [member["weight"] for member in record["members"]] == [0.5, 0.5]
    assert {m["run"] for m in record["members"]} == {run.info.run_id for run in mlflow_runs(two, "cv")}
    probs, score = by_hand(two, record)
    written = pd.read_csv(two.runs / "digits/submission.csv")
    assert np.mean(written["label"].to_numpy() == probs.argmax(axis=1)) > 0.998  # a tie in float32 may fall otherwise
    assert record["out_of_fold"]["score"] == pytest.approx(score, abs=1e-9)
    assert "each the mean of 4 models of 2 runs" in out and "equal" in out
    [run] = mlflow_runs(two, "submission")[:1]
    assert run.data.metrics["oof_macro_f1"] == pytest.approx(score)
    ahead = record["leaderboard_expected"]
    assert ahead["low"] <= ahead["value"] <= ahead["high"] <= 1 and "no answer of a test row" in ahead["how"]
    assert f"expected on the test set     {ahead['value']:.4f}  (95 % interval {ahead['low']:.4f}" in out
    assert [run.data.metrics[f"expected_macro_f1{end}"] for end in ("", "_low", "_high")] == [
        ahead[name] for name in ("value", "low", "high")
    ]
    assert f"expected on the test set: {ahead['value']:.4f}" in run.data.tags["mlflow.note.content"]
    assert all(0 < each["leaderboard_expected"] <= 1 for each in record["blends"])
    truth = pd.read_csv(two.root / "data/digits/answers.csv", dtype=str)["label"]
    assert ahead["low"] <= f1_score(truth, written["label"].astype(str), average="macro") <= ahead["high"]
    assert (
        two.main("submit", DIGITS, "submit.bias=off", "submit.blend=equal", "--runs", "top2")[0].count("up to date")
        == 1
    )


def test_views_are_the_same_out_of_fold_and_for_the_test_rows_and_are_compared_with_none(two):
    out, _ = two.main("submit", DIGITS, "submit.views=[flip]", "submit.bias=off", "--runs", "top2", "--force")
    record = record_of(two)
    probs, score = by_hand(two, record, mirrored=True)
    assert next(c for c in record["blends"] if c["name"] == "equal")["score"] == pytest.approx(score, abs=1e-9)
    assert "views flip: macro_f1 -" in out and "they harm" in out  # digits have no mirror images
    if record["chosen"].startswith("equal"):
        written = pd.read_csv(two.runs / "digits/submission.csv")["label"].to_numpy()
        assert np.mean(written == probs.argmax(axis=1)) > 0.998


def test_runs_on_other_folds_are_refused_by_name_and_nothing_is_written(two):
    two.main("train", DIGITS, "folds.k=3")
    ids = [run.info.run_id for run in mlflow_runs(two, "cv")]
    before = (two.runs / "digits/submission.csv").read_bytes()
    _, err = two.main("submit", DIGITS, "--runs", ids[1], ids[0], expect=2)
    assert f"RUNS: {ids[0][:8]}" in err and "other folds" in err and ids[1][:8] in err
    assert (two.runs / "digits/submission.csv").read_bytes() == before
    _, err = two.main("submit", DIGITS, "--runs", "nothing-like-it", expect=2)
    assert "no finished run begins so" in err


def test_a_command_that_was_stopped_predicts_only_what_is_missing(two, monkeypatch):
    two.main("submit", DIGITS, "--runs", "top2")  # the same without a stop
    whole = (two.runs / "digits/submission.csv").read_bytes()
    shutil.rmtree(two.runs / "cache/predictions")
    (two.runs / "digits/submit.json").unlink()
    calls = []

    def counted(*arguments, **named):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return predict(*arguments, **named)

    monkeypatch.setattr("pipeline.stream.PART", 256)  # 600 rows: three parts of four models
    monkeypatch.setattr("pipeline.stream.predict", counted)
    stop_at = 7
    _, err = two.main("submit", DIGITS, "--runs", "top2", expect=130)
    assert "goes on" in err
    calls.clear()
    stop_at = -1
    two.main("submit", DIGITS, "--runs", "top2")
    assert len(calls) == 12 - 4  # the first part's were kept, those of the broken one were not
    assert (two.runs / "digits/submission.csv").read_bytes() == whole
    calls.clear()
    one, other = sorted((two.runs / "cache/predictions").rglob("0.safetensors"))[:2]
    moved = {name: np.roll(values, 1, -1) for name, values in load_file(one).items()}
    with safe_open(one, "numpy") as file:
        save_file(moved, one, file.metadata())
    shutil.copy(other.with_name("256.safetensors"), other)  # of another part
    (two.runs / "digits/submission.csv").unlink()
    _, err = two.main("submit", DIGITS, "--runs", "top2")
    assert len(calls) == 2 and err.count("is not as it was written") == 2
    assert (two.runs / "digits/submission.csv").read_bytes() == whole


def test_verify_makes_the_same_bytes_again_and_notices_every_change(two):
    two.main("submit", DIGITS, "--runs", "top2")
    [run] = mlflow_runs(two, "submission")[:1]
    out, _ = two.main("verify", DIGITS, "--submission", run.info.run_id[:8])
    assert "600 rows made again from 4 checkpoints" in out and "byte-identical" in out
    assert "byte-identical" in two.main("verify", DIGITS)[0]  # the last one
    own, whole = two.runs / "digits/submission.csv", (two.runs / "digits/submission.csv").read_bytes()
    own.write_bytes(whole[: len(whole) // 2])
    assert "digits/submission.csv: has hash" in two.main("verify", DIGITS, expect=2)[1]
    assert "submission.csv is not the file that was made" in two.main("submit", DIGITS, "--runs", "top2")[0]
    assert own.read_bytes() == whole
    [in_mlflow] = [path for path in (two.runs / "artifacts").rglob("submission.csv")
                   if mlflow_runs(two, "submission")[0].info.run_id in path.parts]  # fmt: skip
    in_mlflow.write_bytes(whole + b"x,1\n")
    assert "in MLflow: has hash" in two.main("verify", DIGITS, expect=2)[1]
    in_mlflow.write_bytes(whole)
    copy = two.root / "sent.csv"  # beside its record, as a team shares it
    shutil.copy(two.runs / "digits/submission.csv", copy)
    record = record_of(two)
    copy.with_suffix(".json").write_text(json.dumps(record))
    assert "byte-identical" in two.main("verify", DIGITS, "--submission", str(copy))[0]
    other = {**record, "bias": [3.0] + [0.0] * 9}
    copy.with_suffix(".json").write_text(json.dumps(other))
    out, _ = two.main("verify", DIGITS, "--submission", str(copy), expect=1)
    assert "not identical" in out and "is now" in out
    other = {
        **record,
        "members": [{**m, "checkpoints": dict.fromkeys(m["checkpoints"], "0" * 64)} for m in record["members"]],
    }
    copy.with_suffix(".json").write_text(json.dumps(other))
    assert "was made with 0000" in two.main("verify", DIGITS, "--submission", str(copy), expect=2)[1]
    copy.with_suffix(".json").write_text(json.dumps({**record, "test_images": "elsewhere"}))
    assert "test images: here" in two.main("verify", DIGITS, "--submission", str(copy), expect=2)[1]
    copy.write_text(copy.read_text().replace(",1\n", ",7\n", 1))
    assert "as it was submitted" in two.main("verify", DIGITS, "--submission", str(copy), expect=2)[1]


def test_scores_that_came_home_stand_beside_the_cross_validation_and_are_expected_next_time(two):
    two.main("submit", DIGITS, "--runs", "top2")
    out, _ = two.main("score", DIGITS, "--public", "0.31", "--private", "0.3")
    [run] = mlflow_runs(two, "submission")[:1]
    assert (run.data.metrics["public_macro_f1"], run.data.metrics["private_macro_f1"]) == (0.31, 0.3)
    assert "off its cross-validation" in out
    cv = run.data.metrics["oof_macro_f1"]
    out, _ = two.main("board", DIGITS)
    expected = run.data.metrics
    low, high = (f"{expected[f'expected_macro_f1_{end}']:.4f}" for end in ("low", "high"))
    assert f"{expected['expected_macro_f1']:.4f} ({low} to {high})" in out and "expected (95 % interval)" in out
    assert "0.3100" in out and "private less public: -0.0100" in out and (two.runs / "board-digits.png").is_file()
    assert f"public less cross-validated: {0.31 - cv:+.4f} on average (n = 1)" in out and "select " in out
    out, _ = two.main("submit", DIGITS, "submit.average=vote", "submit.bias=off", "--runs", "top2")
    [now] = mlflow_runs(two, "submission")[:1]
    assert f"about {now.data.metrics['oof_macro_f1'] + 0.31 - cv:.4f}: 1 earlier submission stood" in out
    _, err = two.main("score", DIGITS, "--public", "1.2", "--private", "nan", expect=2)
    assert "PUBLIC: found 1.2; valid: a macro_f1, 0 to 1" in err and "PRIVATE: found nan" in err
    _, err = two.main("score", DIGITS, "--public", "0.5", "--submission", "zzz", expect=2)
    assert "no such submission" in err and run.info.run_id[:8] in err


def test_a_blend_is_scored_on_the_answers_as_it_was_submitted(two):
    two.main("submit", DIGITS, "--runs", "top2")
    blended = (two.runs / "digits/submission.csv").read_bytes()
    out, _ = two.main("score", DIGITS)
    assert (two.runs / "digits/submission.csv").read_bytes() == blended and "test macro_f1" in out
    truth = pd.read_csv(two.root / "data/digits/answers.csv", dtype=str)
    written = pd.read_csv(two.runs / "digits/submission.csv", dtype=str)
    score = f1_score(truth["label"], written["label"], average="macro")
    assert f"{score:.4f}" in out


def test_pseudo_labels_come_from_a_folds_own_models_and_reach_its_training_alone(two, monkeypatch):
    from pipeline import crossval

    learnt = {}

    def spied(data, train_rows, valid_rows, which, *rest):
        learnt[which.number] = (data, train_rows, valid_rows)
        return original(data, train_rows, valid_rows, which, *rest)

    original = crossval.train_fold
    monkeypatch.setattr(crossval, "train_fold", spied)
    out, _ = two.main("pseudo", DIGITS, "train.epochs=4", "pseudo.threshold=0.6")
    table = pd.read_csv(two.runs / "digits/pseudo.csv", dtype={"image_id": str})
    assert "with pseudo-labels" in out and set(table["split"]) <= {0, 1} and (table["probability"] >= 0.6).all()
    [base] = [
        run
        for run in mlflow_runs(two, "cv")
        if run.data.params["train.epochs"] == "4" and "pseudo_of" not in run.data.tags
    ]
    n = len(pd.read_csv(two.root / "data/digits/train.csv"))
    folds = pd.read_csv(two.runs / "digits/folds.csv", dtype=str).set_index("image_id")
    for split, rows in table.groupby("split"):
        [path] = [p for p in two.runs.rglob(f"fold-{split}.safetensors") if base.info.run_id in str(p)]
        model, info = load_checkpoint(path, CPU)
        files = [
            {"image_id": i, "path": str(two.root / f"data/digits/images/{i}.png"), WHERE: ""} for i in rows["image_id"]
        ]
        images = torch.from_numpy(load_images(files, info.preprocessing))
        probs = predict(model, info.task, images, info.preprocessing, CPU)
        assert (probs.argmax(axis=1) == rows["label"].astype(int)).all()
        assert np.allclose(probs.max(axis=1), rows["probability"], atol=1e-4)
        data, train_rows, valid_rows = learnt[split]
        assert (train_rows >= n).sum() == len(rows) and (valid_rows < n).all()
        own = folds.loc[data.image_ids[valid_rows], "fold"].astype(int)
        assert (own == split).all() and not set(train_rows) & set(valid_rows)
        assert (data.train_targets[n:].numpy() == rows["label"].to_numpy().astype(int)).all()
        for i in (0, len(rows) - 1):  # and the pixels are the test image's
            assert (data.images[n + i].numpy() == images[i].numpy()).all()
    run = mlflow_runs(two, "cv")[0]
    gain = run.data.metrics["pseudo_gain_expected"]
    worth = "should gain" if round(gain, 4) > 0 else "should not gain"
    assert f"the average {worth} ({gain:+.4f}), where single models gain" in out
    assert "average of all models without: expected " in out and "with pseudo-labels: expected " in out
    assert run.data.tags["pseudo_of"] == base.info.run_id and "pseudo_gain_macro_f1" in run.data.metrics
    assert two.main("pseudo", DIGITS, "train.epochs=4", "pseudo.threshold=0.6")[0].count("pseudo  up to date") == 1


def test_no_fold_that_is_sure_is_told_before_anything_is_trained(two):
    _, err = two.main("pseudo", DIGITS, "pseudo.threshold=1.0", expect=1)
    assert "no fold is sure of any test row" in err and len(mlflow_runs(two, "cv")) == 2


CLIENT = """#!/bin/sh
echo "$@" >> {log}
case "$2" in
submit) if [ -e {broken} ]; then echo "Could not submit to competition"; exit 0; fi
  echo "100%"; echo "Successfully submitted to Masks" ;;
submissions) cat {table} ;;
esac
"""


def test_kaggle_gets_a_file_once_and_its_scores_come_home(two, tmp_path, monkeypatch):
    two.main("submit", DIGITS, "--runs", "top2")
    [run] = mlflow_runs(two, "submission")[:1]
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    log, table = tmp_path / "log", tmp_path / "table.csv"
    header = "fileName,date,description,status,publicScore,privateScore\n"
    table.write_text(f"Warning: a new version, 2.9\n{header}")
    client = bin_ / "kaggle"
    broken = tmp_path / "broken"
    client.write_text(CLIENT.format(log=log, table=table, broken=broken))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("pipeline.stages.kaggle.sys.executable", str(bin_ / "python"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert "competition.kaggle" in two.main("kaggle", DIGITS, expect=2)[1]  # nothing is uploaded unasked
    slug = "competition.kaggle=mask-wearing"
    assert "no Kaggle token" in two.main("kaggle", DIGITS, slug, expect=1)[1] and not log.exists()
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    broken.touch()  # the client says so and ends well all the same
    assert "did not take it: Could not submit" in two.main("kaggle", DIGITS, slug, expect=1)[1]
    broken.unlink()
    log.write_text("")
    whole = (two.runs / "digits/submission.csv").read_text()
    (two.runs / "digits/submission.csv").write_text(whole[:-20])
    assert "has hash" in two.main("kaggle", DIGITS, slug, expect=2)[1] and "submit -f" not in log.read_text()
    (two.runs / "digits/submission.csv").write_text(whole)
    out, _ = two.main("kaggle", DIGITS, slug)
    assert "Successfully submitted" in out and "no score yet" in out and "secret" not in out + log.read_text()
    assert f"-m podium run {run.info.run_id} mask-wearing" in log.read_text()
    row = "submission.csv,2026-11-24,{},complete,{},{}\n"
    table.write_text(header + row.format(f"podium run {run.info.run_id}", "0.76", "") + row.format("by hand", "0.9", "0.9")
                     + row.format("podium run " + "f" * 32, "0.9", "0.9"))  # fmt: skip
    out, _ = two.main("kaggle", DIGITS, slug)
    assert "uploaded to mask-wearing before" in out and log.read_text().count("competitions submit ") == 1
    metrics = mlflow_runs(two, "submission")[0].data.metrics
    assert metrics["public_macro_f1"] == 0.76 and "private_macro_f1" not in metrics


def test_a_submission_is_trained_anew_from_a_clone_with_the_data_and_the_store(first, tmp_path):
    origin = object.__new__(Checkout)
    origin.root = tmp_path / "origin"
    shutil.copytree(first[0].root, origin.root, ignore=shutil.ignore_patterns("mlruns"))
    origin.runs.mkdir()

    def git(where: Path, *words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *identity, *words], cwd=where, check=True, capture_output=True)

    (origin.root / ".gitignore").write_text("mlruns/\ndata/\n__pycache__/\n")
    git(origin.root, "init")
    git(origin.root, "add", "-A")
    git(origin.root, "commit", "-m", "then")
    origin.main("submit", DIGITS, "submit.bias=off")
    (origin.root / "pipeline/predict.py").write_text((origin.root / "pipeline/predict.py").read_text() + "\n# later\n")
    git(origin.root, "commit", "-am", "now")  # the code has moved on
    git(tmp_path, "clone", str(origin.root), "clone")
    clone = object.__new__(Checkout)
    clone.root = tmp_path / "clone"
    shutil.copytree(origin.root / "data", clone.root / "data")
    [run] = mlflow_runs(origin, "submission")
    store = f"sqlite:///{origin.runs / 'mlflow.db'}"
    done = clone.pipeline("reproduce", DIGITS, "--submission", run.info.run_id[:8], MLFLOW_TRACKING_URI=store)
    assert "2 of 2 models have the same weights, bit for bit" in done.stdout, done.stdout
    assert "reproduce byte-identical" in done.stdout
    assert len(mlflow_runs(origin, "cv")) == 1  # the second training is no run of the record


def test_each_run_sees_its_images_out_of_the_store_that_it_was_trained_from(two, monkeypatch):
    """Else they would be shrunk in another way than those it was validated on."""
    from pipeline.images import load

    two.main("train", DIGITS, "images.store=off")
    seen = []
    original = load.load_images
    monkeypatch.setattr(
        load,
        "load_images",
        lambda rows, spec, store, *rest: seen.append(store.side) or original(rows, spec, store, *rest),
    )
    two.main("submit", DIGITS, "--runs", "top3", "--force")
    record = record_of(two)
    assert sorted(str(member["store"]) for member in record["members"]) == ["128", "128", "off"] and set(seen) == {
        128,
        "off",
    }
    seen.clear()
    assert "byte-identical" in two.main("verify", DIGITS)[0] and set(seen) == {128, "off"}


def test_a_run_without_one_of_its_models_is_refused(two):
    [run] = mlflow_runs(two, "cv")[:1]
    [path] = [p for p in two.runs.rglob("fold-1.safetensors") if run.info.run_id in str(p)]
    path.unlink()
    _, err = two.main("submit", DIGITS, "--runs", run.info.run_id[:8], expect=2)
    assert "has no model of fold 1 (seed 0)" in err and run.info.run_id[:8] in err


def test_a_submission_is_compared_with_the_last_one_that_was_recorded_whatever_lies_there(two, monkeypatch):
    from pipeline.stages import submission

    path = two.runs / "digits/submission.csv"
    before = pd.read_csv(path, dtype=str)

    def killed(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(submission, "record_of", killed)
        two.main("submit", DIGITS, "submit.bias=on", "--runs", "top2", expect=130)
    assert path.read_text() == before.to_csv(index=False)  # the file goes with its record
    two.main("submit", DIGITS, "submit.bias=on", "--runs", "top2")
    now = pd.read_csv(path, dtype=str)
    n = (before["label"] != now["label"]).sum()
    assert record_of(two)["n_rows_changed_since_previous"] == n > 0
    path.write_text("")  # damaged: what MLflow holds is compared with
    two.main("submit", DIGITS, "submit.bias=on", "--runs", "top2", "--force")
    assert record_of(two)["n_rows_changed_since_previous"] == 0


def test_a_file_that_was_made_twice_counts_once_on_the_board_and_a_strangers_record_is_told(two):
    for _ in range(3):
        two.main("submit", DIGITS, "--runs", "top2", "--force")
    two.main("score", DIGITS, "--public", "0.13")
    out, _ = two.main("board", DIGITS)
    assert "(n = 1)" in out and out.count("0.1300") >= 3  # shown for each of the same bytes
    copy = two.root / "sent.csv"
    shutil.copy(two.runs / "digits/submission.csv", copy)
    for wrong in ({"views": ["nonsense"]}, {"bias": [1.0]}, {"members": []}, {"format": 3}):
        copy.with_suffix(".json").write_text(json.dumps({**record_of(two), **wrong}))
        assert "sent.json" in two.main("verify", DIGITS, "--submission", str(copy), expect=2)[1]
    with pytest.raises(SystemExit):
        two.main("score", DIGITS, "--submission", "abc")
