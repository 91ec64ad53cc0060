"""What a cross-validation leaves in MLflow: while it trains, and when it is done."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import kept, receipts
from pipeline.receipts import Receipt
from pipeline.stages.cv_review import review
from pipeline.stages.describe import link, page
from pipeline.work import Work

if TYPE_CHECKING:
    from pipeline.crossval import CrossValidation
    from pipeline.records import EpochRecord
    from pipeline.tracking.system import SystemSampler

METRICS = ("train_loss", "valid_loss", "lr", "grad_norm", "images_per_s", "seconds", "memory_mb")  # of an epoch


def epoch_logger(
    work: Work, runs: dict[str, str], runs_file: Path, tags: dict[str, str], sampler: SystemSampler
) -> Callable[[EpochRecord], None]:
    """A child run a model, one batch of metrics an epoch. runs: ids by `cv`, `fold-0`, ..., kept in `runs_file`."""
    from pipeline.crossval import model_name

    metric = work.competition.metric

    def on_epoch(record: EpochRecord) -> None:
        key = model_name(record.fold, record.seed, work.settings)
        if key not in runs:
            of_model = {"fold": str(record.fold), "seed": str(record.seed), "cv_run": runs["cv"]}
            runs[key] = work.tracker.start(key, {**tags, **of_model}, parent=runs["cv"])
            work.tracker.params(runs[key], work.settings.flat("model", "train"))
            told = f"**Fold {record.fold} of a [cross-validation]({link(work, runs['cv'])})**: what each epoch came to."
            work.tracker.describe(runs[key], told)
            kept.write_json(runs_file, runs)
        values = asdict(record)
        metrics = {name: values[name] for name in METRICS} | {f"valid_{metric}": record.score}
        metrics |= {f"lr_{role}": lr for role, lr in record.lrs.items()}
        metrics |= {f"valid_{name}": value for name, value in record.more_scores.items()}
        work.tracker.metrics(runs[key], metrics | sampler.take(), step=record.epoch)
        if record.is_last:
            work.tracker.end(runs[key])

    return on_epoch


def log_cv(work: Work, cv: CrossValidation, runs: dict[str, str], folder: Path) -> list[Path]:
    """Scores, pictures, files and models to the parent run. Returns the files that later stages read."""
    tracker, metric = work.tracker, work.competition.metric
    name = f"oof_{metric}"
    scores = {name: cv.score, f"{name}_low": cv.interval.low, f"{name}_high": cv.interval.high}
    scores |= {f"oof_{other}": value for other, value in _more_scores(work, cv).items()}
    scores[f"fold_mean_{metric}"] = statistics.fmean(cv.fold_scores)
    if len(cv.fold_scores) > 1:
        scores[f"fold_std_{metric}"] = statistics.stdev(cv.fold_scores)
    if cv.optimism is not None:
        scores["optimism_of_best"] = cv.optimism
    tracker.metrics(runs["cv"], scores)
    files = [*cv.checkpoints, folder / "oof.parquet", folder / "history.json"]
    for path in [*files, *review(work, cv, folder), work.folder / "folds.csv"]:
        tracker.artifact(runs["cv"], path)
    _log_models(work, cv, runs, folder)
    for key, run_id in runs.items():
        if key != "cv":
            tracker.end(run_id)
    return files


def _more_scores(work: Work, cv: CrossValidation) -> dict[str, float]:
    """The further metrics of all out-of-fold rows."""
    from pipeline.config.metric import parse_metric
    from pipeline.crossval import arrays_of
    from pipeline.metrics import score

    wanted = work.settings.competition.further_metrics
    targets, outputs = arrays_of(cv.oof)
    target, classes = work.competition.target, work.competition.classes
    return {name: score(parse_metric(name, target, classes), targets, outputs, target) for name in wanted}


def _log_models(work: Work, cv: CrossValidation, runs: dict[str, str], folder: Path) -> None:
    """Each checkpoint as a model of MLflow's, so that its Models page ranks them."""
    from pipeline.crossval import model_name

    history = json.loads((folder / "history.json").read_text())
    n_epochs = Counter(model_name(record["fold"], record["seed"], work.settings) for record in history)
    metric = work.competition.metric
    for path, score in zip(cv.checkpoints, cv.fold_scores, strict=True):
        key = path.stem
        if key not in runs:  # trained where MLflow was not asked
            continue
        params = {"model": work.settings.model.name, "loss": work.settings.train.loss.name,
                  "lr": work.settings.train.lr, "px": work.preprocessing.px, "file": path.name}  # fmt: skip
        tags = {"cv_run": runs["cv"], "sha256": receipts.sha256(path)}
        name = f"{work.settings.model.name}-{key}".replace(".", "_").replace("/", "_").replace(":", "_")
        work.tracker.model(runs[key], name, params, {f"kept_{metric}": score}, n_epochs[key], tags, parent=runs["cv"])


def about_cv(
    work: Work, fold_receipt: Receipt, told: str, cv: CrossValidation | None = None, verb: str = "train"
) -> str:
    """The run's page. told: what is trained, in a line. verb: that makes it."""
    lines = [told.removesuffix(" ...")]
    if cv:
        metric = work.competition.metric
        interval = f"95 % interval {cv.interval.low:.4f} to {cv.interval.high:.4f}"
        by_fold = f"by fold {min(cv.fold_scores):.4f} to {max(cv.fold_scores):.4f}"
        lines = [f"**{metric} {cv.score:.4f}** of all out-of-fold rows, {interval}; {by_fold}", *lines]
    seen = receipts.read(work.folder, "eda")
    parents = {"folds": fold_receipt.run_id, "first look at the data": seen.run_id if seen else ""}
    return page(work, "Each row scored by a model that did not see it.", lines, verb, parents)
