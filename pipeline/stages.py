"""The stages, one function each: what it depends on, what it does, what it leaves.

Each stage first asks for the one before it, then compares its inputs with its receipt, and works only where they
differ. Rooms do the work; here it is put together with receipts, tracking and a few lines for the terminal. Heavy
imports (torch, timm and MLflow take seconds each) stand inside the functions: a stage with nothing to do needs none.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.atomic import atomic
from pipeline.config.mistakes import shown
from pipeline.config.settings import ROOT, Preprocessing, fingerprint
from pipeline.receipts import Receipt
from pipeline.work import Work, say

if TYPE_CHECKING:
    from pipeline.crossval import CrossValidation
    from pipeline.train import EpochRecord, TrainingData


def eda(work: Work) -> Receipt:
    """Reads the tables and decodes every image. Leaves `findings.json`, `class_counts.png` and `examples.png`."""
    competition = work.competition
    if competition.mistakes:
        work.check()
    inputs = work.eda_inputs
    if done := work.done("eda", inputs, fetchable=False):
        return done
    work.check()
    started = time.perf_counter()
    from pipeline import eda as room
    from pipeline.images.decode import load_images
    from pipeline.report import pictures

    train_seen, test_seen, _ = work.images_seen
    facts = room.look(competition, train_seen, test_seen)
    folder = work.folder / "eda"
    folder.mkdir(parents=True, exist_ok=True)
    findings, counts, grid = folder / "findings.json", folder / "class_counts.png", folder / "examples.png"
    with atomic(findings) as temporary:
        temporary.write_text(json.dumps(facts, indent=1))
    pictures.class_counts(facts["class_counts"], counts)
    thumbnail = Preprocessing(mode="RGB", px=96, crop=1.0, interpolation="bicubic", mean=(0.5,), std=(0.5,))
    rows_of = room.examples(competition)
    pictures.examples({name: list(load_images(rows, thumbnail)) for name, rows in rows_of.items()}, grid)
    with work.run("eda", "eda", inputs, {}) as run_id:
        for path in (findings, counts, grid):
            work.tracker.artifact(run_id, path)
        shown_facts = ("n_train", "n_test", "n_classes", "n_groups", "imbalance_ratio")
        work.tracker.metrics(run_id, {key: facts[key] for key in shown_facts})
    n_of_class = facts["class_counts"].values()
    classes = f"{facts['n_classes']} classes of {min(n_of_class):,} to {max(n_of_class):,}"
    sizes, modes = (", ".join(list(facts["train"][key])[:3]) for key in ("sizes", "modes"))
    counted = f"{facts['n_train']:,} training and {facts['n_test']:,} test images, all readable"
    say("eda", f"{counted}; {classes}; sizes {sizes}; modes {modes}")
    return work.finish("eda", inputs, [findings, counts, grid], run_id, facts, started)


def folds(work: Work) -> Receipt:
    """Splits the training rows. Leaves `folds.csv`, whose hash everything trained on it carries."""
    eda(work)
    inputs = {**work.settings.flat("folds"), "tables": work.competition.tables_hash}
    if done := work.done("folds", inputs):
        work.resolve(done, "folds.csv")  # a table that was edited since is refused here, by name
        return done
    work.check()
    started = time.perf_counter()
    from pipeline import folds as room

    table = room.make_folds(work.competition, work.settings.folds)
    audit = room.audit_folds(table, work.settings.folds.k)
    path = work.folder / "folds.csv"
    hash_ = room.write_folds(table, path)
    with work.run("folds", f"folds · {hash_[:8]}", inputs, {"folds": hash_}) as run_id:
        work.tracker.params(run_id, inputs)
        work.tracker.metrics(run_id, audit)
        work.tracker.artifact(run_id, path)
    groups = f"{audit['n_groups']:,.0f} groups kept whole" if work.competition.has_groups else "no groups"
    sizes = f"{audit['smallest_fold']:,.0f} to {audit['largest_fold']:,.0f} images"
    deviation = f"class shares off by {audit['largest_share_deviation']:.2%} at most"
    say("folds", f"{work.settings.folds.k} folds of {sizes}, stratified, {groups}; {deviation}; hash {hash_}")
    return work.finish("folds", inputs, [path], run_id, {**audit, "hash": hash_}, started)


def train(work: Work) -> Receipt:
    """Cross-validates. Leaves `train-FINGERPRINT/` with a checkpoint a fold, `oof.parquet` and `history.json`."""
    fold_receipt = folds(work)
    settings, competition = work.settings, work.competition
    inputs = {
        **settings.flat("images", "folds", "model", "augment", "train"),
        "metric": competition.metric,
        "classes": list(competition.classes),
        "folds": fold_receipt.figures["hash"],
        "train images": work.image_hashes[0],
    }
    if done := work.done("train", inputs):
        return done
    work.check()
    started = time.perf_counter()
    from pipeline.crossval import cross_validate
    from pipeline.folds import read_folds
    from pipeline.model import pick_device
    from pipeline.progress import TrainingProgress

    folder = work.folder / f"train-{fingerprint(inputs)[:12]}"
    finished = receipts.read(work.folder, "train")
    if work.force and work.target == "train" and finished and finished.fingerprint == fingerprint(inputs):
        shutil.rmtree(folder, ignore_errors=True)
        receipts.remove(work.folder, "train")  # a kill from here on leaves unfinished work, which is gone on with
    folder.mkdir(parents=True, exist_ok=True)
    table = read_folds(work.resolve(fold_receipt, "folds.csv"))
    data = _training_data(work)
    identity = _identity(fingerprint(inputs), inputs)
    runs_file = folder / "runs.json"  # a killed command's runs are gone on with, not left RUNNING beside new ones
    runs: dict[str, str] = json.loads(runs_file.read_text()) if runs_file.is_file() else {}
    runs = runs if work.tracker.exists(runs.get("cv", "")) else {}
    k, epochs, device = settings.folds.k, settings.train.epochs, pick_device(settings.train.device)
    say(
        "train", f"{settings.model.name} on {len(data.targets):,} images, {k} folds of {epochs} epochs, on {device} ..."
    )
    title = f"cv · {settings.model.name} · {settings.train.loss.name}"
    tags = {**identity, "folds_run": fold_receipt.run_id}
    with work.run("cv", title, inputs, tags, resume=runs.get("cv", "")) as run_id:
        runs["cv"] = run_id
        work.tracker.params(run_id, settings.flat())
        with TrainingProgress(k, epochs, competition.metric) as progress:
            log_epoch = _epoch_logger(work, runs, runs_file, {**work.tags("fold", inputs), **tags})

            def on_epoch(record: EpochRecord) -> None:
                log_epoch(record)
                progress(record)

            cv = cross_validate(data, table, settings, identity, receipts.code_version(), folder, on_epoch)
        files = _log_cv(work, cv, runs, folder)
        work.tracker.rename(run_id, f"{title} · {cv.score:.4f}")
    figures = {"score": cv.score, "low": cv.interval.low, "high": cv.interval.high, "fold_scores": cv.fold_scores}
    interval = f"95 % interval {cv.interval.low:.4f} to {cv.interval.high:.4f}"
    spread = f"{min(cv.fold_scores):.4f} to {max(cv.fold_scores):.4f}"
    say("train", f"{competition.metric} of all out-of-fold rows {cv.score:.4f} ({interval}); by fold {spread}")
    return work.finish("train", inputs, files, run_id, figures, started)


def submit(work: Work) -> Receipt:
    """Predicts the test images with every fold's model. Leaves `submission.csv` and `submission.json`."""
    trained = train(work)
    competition = work.competition
    models = [f"fold-{fold}.safetensors" for fold in range(work.settings.folds.k)]
    inputs = {
        "train": trained.fingerprint,
        "models": fingerprint([trained.artifacts[name]["sha256"] for name in models]),
        "test images": work.image_hashes[1],
        "sample submission": receipts.sha256(competition.sample_csv)[:16],
    }
    if done := work.done("submit", inputs, fetchable=False):
        return done
    work.check()
    started = time.perf_counter()
    from pipeline import submit as room
    from pipeline.crossval import refuse_others
    from pipeline.model import checkpoint_info, pick_device

    checkpoints = [work.resolve(trained, name) for name in models]
    identity = _identity(trained.fingerprint, trained.inputs)
    for fold, checkpoint in enumerate(checkpoints):
        refuse_others(checkpoint, checkpoint_info(checkpoint), identity, fold)
    probs = room.predict_test(checkpoints, competition, pick_device(work.settings.train.device))
    path, record_path = work.folder / "submission.csv", work.folder / "submission.json"
    before = room.read_submission(path)
    submission = room.write_submission(competition, probs, path)
    n_changed = room.n_changed(before, submission)
    record = {
        "cv_run": trained.run_id,
        "checkpoints": {
            name: {"sha256": trained.artifacts[name]["sha256"], "weight": 1 / len(models)} for name in models
        },
        "tta": "none",
        "code_version": {"trained": trained.code_version, "predicted": receipts.code_version()},
        "metric": competition.metric,
        "out_of_fold": trained.figures,
        "n_rows": len(submission),
        "n_rows_changed_since_previous": n_changed,
        "sha256": receipts.sha256(path),
    }
    with atomic(record_path) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
    oof_score = trained.figures["score"]
    tags = {"cv_run": trained.run_id, **identity}
    with work.run("submission", f"submission · {oof_score:.4f}", inputs, tags) as run_id:
        work.tracker.metrics(run_id, {f"oof_{competition.metric}": oof_score})
        for file in (path, record_path):
            work.tracker.artifact(run_id, file)
    since = "" if n_changed == "no previous" else f"; {n_changed:,} rows differ from the submission before"
    say("submit", f"{len(submission):,} rows, each the mean of {len(models)} models{since}")
    return work.finish("submit", inputs, [path, record_path], run_id, {"n_rows": len(submission)}, started)


def score(work: Work) -> Receipt:
    """Compares the submission with the organisers' answers and writes the score to the submission's run."""
    settings = work.settings.competition
    answers = ROOT / settings.root / settings.answers_csv
    if not work.competition.mistakes:  # the first access makes the embedded competition; else submit tells them
        from pipeline.score import check_answers

        check_answers(answers)
    submitted = submit(work)
    inputs = {
        "submission": submitted.artifacts["submission.csv"]["sha256"][:16],
        "answers": receipts.sha256(answers)[:16],
        "metric": settings.metric,
    }
    done = work.done("score", inputs)
    if not done:
        started = time.perf_counter()
        from pipeline.score import score_submission

        path = work.resolve(submitted, "submission.csv")
        value, n_rows = score_submission(path, answers, work.competition)
        work.tracker.metrics(submitted.run_id, {f"test_{settings.metric}": value})
        done = work.finish("score", inputs, [], submitted.run_id, {"score": value, "n_rows": n_rows}, started)
    say("score", f"test {settings.metric} {done.figures['score']:.4f} on {done.figures['n_rows']:,} images")
    return done


def summary(work: Work) -> str:
    """What the user wants to know in the end, from the receipts alone."""
    trained = receipts.read(work.folder, "train")
    assert trained is not None, "submit comes after train"
    oof = trained.figures
    experiment = "" if work.experiment == "experiments/digits.yaml" else f" EXP={work.experiment}"
    rows = {
        f"cross-validated {work.competition.metric}": (
            f"{oof['score']:.4f}  (95 % interval {oof['low']:.4f} to {oof['high']:.4f})"
        ),
        "submission": shown(work.folder / "submission.csv"),
        "browse all runs in MLflow": f"make ui{experiment}",
    }
    return "\n" + "\n".join(f"{label:<28} {value}" for label, value in rows.items())


def _identity(settings: str, inputs: dict[str, Any]) -> dict[str, str]:
    """What every checkpoint of a training carries and is checked for: other settings, folds or images are refused."""
    return {"settings": settings, "folds": inputs["folds"], "images": inputs["train images"]}


def _training_data(work: Work) -> TrainingData:
    """Every training image through the fixed preprocessing, in memory."""
    import numpy as np
    import torch

    from pipeline.augment import image_keys
    from pipeline.images.decode import load_images
    from pipeline.model import preprocessing
    from pipeline.train import TrainingData

    competition = work.competition
    spec = preprocessing(work.settings.images, work.settings.model)
    index = {name: i for i, name in enumerate(competition.classes)}
    ids = [row["image_id"] for row in competition.train_rows]
    return TrainingData(
        images=torch.from_numpy(load_images(competition.train_rows, spec)),
        targets=torch.tensor([index[row["label"]] for row in competition.train_rows]),
        image_ids=np.array(ids),
        keys=image_keys(ids),
        classes=competition.classes,
        metric=competition.metric,
        preprocessing=spec,
    )


def _epoch_logger(
    work: Work, runs: dict[str, str], runs_file: Path, tags: dict[str, str]
) -> Callable[[EpochRecord], None]:
    """A child run a fold, one batch of metrics an epoch. runs: ids by `cv`, `fold-0`, ..., kept in `runs_file`."""

    def on_epoch(record: EpochRecord) -> None:
        key = f"fold-{record.fold}"
        if key not in runs:
            runs[key] = work.tracker.start(key, {**tags, "fold": str(record.fold)}, parent=runs["cv"])
            work.tracker.params(runs[key], work.settings.flat("model", "train"))
            work.tracker.settings(runs[key], work.settings.model_dump(mode="json"))
            with atomic(runs_file) as temporary:
                temporary.write_text(json.dumps(runs))
        values = asdict(record)
        values[f"valid_{work.competition.metric}"] = values.pop("score")
        metrics = {name: values[name] for name in values if name not in ("fold", "epoch", "epochs")}
        work.tracker.metrics(runs[key], metrics, step=record.epoch)
        if record.epoch == record.epochs:
            work.tracker.end(runs[key])

    return on_epoch


def _log_cv(work: Work, cv: CrossValidation, runs: dict[str, str], folder: Path) -> list[Path]:
    """Scores, pictures and files to the parent run. Returns the files that later stages read."""
    from pipeline.report import pictures

    competition, tracker = work.competition, work.tracker
    history = json.loads((folder / "history.json").read_text())
    pictures.curves(history, competition.metric, folder / "curves.png")
    predictions = cv.oof.filter(like="p_").to_numpy().argmax(axis=1)
    pictures.confusion(cv.oof["target"].to_numpy(), predictions, competition.classes, folder / "confusion.png")
    name = f"oof_{competition.metric}"
    tracker.metrics(runs["cv"], {name: cv.score, f"{name}_low": cv.interval.low, f"{name}_high": cv.interval.high})
    files = [*cv.checkpoints, folder / "oof.parquet", folder / "history.json"]
    for path in [*files, folder / "curves.png", folder / "confusion.png", work.folder / "folds.csv"]:
        tracker.artifact(runs["cv"], path)
    for key, run_id in runs.items():
        if key != "cv":
            tracker.end(run_id)
    return files
