"""The stage that trains: k folds to checkpoints, an out-of-fold table and its score."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import kept, receipts
from pipeline.competition.contract import VALUE, labels_of
from pipeline.competition.kinds import target_of
from pipeline.competition.labels import check_label_bounds, training_labels
from pipeline.config.metric import RESAMPLED
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.config.settings import RUNS, fingerprint
from pipeline.config.training import notes
from pipeline.receipts import Receipt
from pipeline.stages.cv_record import about_cv, epoch_logger, log_cv
from pipeline.stages.data import folds
from pipeline.stages.describe import dataset, machine
from pipeline.stages.models import log_model
from pipeline.work import Work, say

if TYPE_CHECKING:
    import torch

    from pipeline.competition.contract import Competition
    from pipeline.precision import Precision
    from pipeline.pseudo import Lent
    from pipeline.records import EpochRecord
    from pipeline.task import Task
    from pipeline.train import TrainingData


def train(work: Work) -> Receipt:
    """Cross-validates. Leaves `train-FINGERPRINT/` with a checkpoint a fold, `oof.parquet` and `history.json`."""
    fold_receipt = folds(work)
    settings, competition = work.settings, work.competition
    inputs = {
        **settings.flat("images", "folds", "model", "augment", "train"),
        "weights": work.weights_hash,
        "trained labels": _trained_labels(work),
        "metric": competition.rule.described,
        "target": competition.target,
        "parts": list(competition.class_means) if settings.model.heads == "parts" else "one head",
        "classes": list(competition.classes),
        "folds": fold_receipt.figures["hash"],
        "train images": work.image_hashes[0],
    }
    if done := work.done("train", inputs):
        wanted, had = settings.train.threads, done.figures.get("threads")
        if had and wanted not in ("auto", had):
            say("train", f"note: trained with {had} threads; make train FORCE=1 trains it anew with {wanted}")
        return done
    work.check()
    return validate(work, "train", inputs, fold_receipt)


def validate(
    work: Work, verb: str, inputs: dict[str, Any], fold_receipt: Receipt, what: str = "",
    lent: Mapping[int, Lent] | None = None, tags: Mapping[str, str] | None = None,
) -> Receipt:  # fmt: skip
    """The cross-validation itself, recorded, into `VERB-FINGERPRINT/`.

    what: beside plain training, for titles. lent: as in `crossval.cross_validate`. tags: further ones of the run.
    """
    settings, competition = work.settings, work.competition
    started = time.perf_counter()
    from pipeline.crossval import cross_validate, prepare_machine
    from pipeline.folds.split import read_folds, splits
    from pipeline.model import current_name, pick_device
    from pipeline.progress import TrainingProgress
    from pipeline.tracking.system import SystemSampler

    folder = work.folder / f"{verb}-{fingerprint(inputs)[:12]}"
    finished = receipts.read(work.folder, verb)
    if work.force and work.target == verb and finished and finished.fingerprint == fingerprint(inputs):
        shutil.rmtree(folder, ignore_errors=True)
        receipts.remove(work.folder, verb)  # a kill from here on leaves unfinished work, which is gone on with
    folder.mkdir(parents=True, exist_ok=True)
    table = read_folds(work.resolve(fold_receipt, "folds.csv"))
    data = training_data(work)
    if settings.train.label_bounds:
        n = int((data.targets != data.train_targets).sum())
        told = f"{n:,} of {len(data.targets):,} rows are trained on under another label than they are validated with"
        say("train", told)
    identity = identity_of(fingerprint(inputs), inputs)
    device = pick_device(settings.train.device)
    n_threads = _same_threads(prepare_machine(settings.train.threads), folder) if device.type == "cpu" else 0
    runs_file = folder / "runs.json"  # a killed command's runs are gone on with, not left RUNNING beside new ones
    runs: dict[str, str] = kept.read_json(runs_file)
    runs = runs if work.tracker.exists(runs.get("cv", "")) else {}
    n_folds, n_seeds, epochs = len(splits(table)), len(settings.train.seeds), settings.train.epochs
    models = f"{n_folds} folds" if n_seeds == 1 else f"{n_folds} folds and {n_seeds} seeds"
    told = f"{settings.model.name} on {len(data.targets):,} images, {models} of {epochs} epochs, on {device} ..."
    say("train", told)
    title = f"cv · {settings.model.name} · {settings.train.loss.name}{what}"
    made_by = {"folds_run": fold_receipt.run_id, "resampled": RESAMPLED}
    tags = {**identity, **made_by, **machine(device), **(tags or {})}
    if (now := current_name(settings.model.name)) != settings.model.name:
        say("train", f"note: timm calls {settings.model.name} {now} today; it is prepared as that says")
    for note in notes(settings.train, settings.augment):
        say("train", f"note: {note}")
    _tell_disk(work, data.task, n_folds * n_seeds, folder)
    precision = precision_of(work, data.task, folder)
    with work.run("cv", title, inputs, tags, resume=runs.get("cv", "")) as run_id:
        runs["cv"] = run_id
        used = {"precision": str(precision), "train.threads": n_threads or "not used"}
        work.tracker.params(run_id, {**settings.flat(), **used})
        work.tracker.inputs(run_id, [dataset(competition, "train", work.image_hashes[0])])
        work.tracker.describe(run_id, about_cv(work, fold_receipt, told, verb=verb))
        with TrainingProgress(n_folds * n_seeds, epochs, competition.metric) as progress, SystemSampler() as sampler:
            progress.found(len(list(folder.glob("fold-*.safetensors"))))  # by a command that was killed
            log_epoch = epoch_logger(work, runs, runs_file, {**work.tags("fold", inputs), **tags}, sampler)

            def on_epoch(record: EpochRecord) -> None:
                log_epoch(record)
                progress(record)

            code = receipts.code_version()
            cv = cross_validate(data, table, settings, precision, identity, code, folder, on_epoch, progress.on_step,
                                lent)  # fmt: skip
        figures = {"score": cv.score, "low": cv.interval.low, "high": cv.interval.high, "fold_scores": cv.fold_scores,
                   "threads": n_threads}  # fmt: skip
        files = log_cv(work, cv, runs, folder)
        registered = log_model(work, run_id, inputs["folds"], cv.checkpoints, cv.oof, figures)
        work.tracker.rename(run_id, f"{title} · {cv.score:.4f}")
        work.tracker.describe(run_id, about_cv(work, fold_receipt, told, cv, verb))
    interval = f"95 % interval {cv.interval.low:.4f} to {cv.interval.high:.4f}"
    spread = f"{min(cv.fold_scores):.4f} to {max(cv.fold_scores):.4f}"
    say("train", f"{competition.metric} of all out-of-fold rows {cv.score:.4f} ({interval}); by fold {spread}")
    if registered:
        say("train", registered)
    if cv.optimism is not None:
        figures["optimism_of_best"] = cv.optimism
        say("train", f"train.select=best looks about {cv.optimism:.4f} better than it is: each fold's epoch was chosen "
            "on the rows that score it (judged by the epoch that the other folds would have chosen)")  # fmt: skip
    elif settings.train.select == "best":
        say("train", "train.select=best looks better than it is, since its epoch was chosen on the rows that score it; "
            "by how much, a single hold-out cannot tell (folds.k=5 can)")  # fmt: skip
    return work.finish(verb, inputs, files, run_id, figures, started)


def _same_threads(n: int, folder: Path) -> int:
    """n, kept beside the checkpoints. Raises `Mistakes` where the training in this folder began with another number."""
    path = folder / "threads.json"
    began = kept.read_json(path).get("threads", n)
    if began != n:
        found = f"this training began with {began} threads on the CPU and would go on with {n}: other last bits"
        valid = f"valid: train.threads={began}, which goes on; or delete {shown(folder)} and begin anew"
        raise Mistakes([Mistake("train.threads", found, valid, "threads")])
    kept.write_json(path, {"threads": n})
    return n


def _trained_labels(work: Work) -> str:
    """Of the labels that `train.label_bounds` makes; they depend on columns that no label of the competition shows."""
    bounds, competition = work.settings.train.label_bounds, work.competition
    if competition.target in ("multilabel", "regression"):  # the folds table holds these in short
        return fingerprint(sorted([row["image_id"], target_of(row)] for row in competition.train_rows))
    if not bounds or competition.mistakes or check_label_bounds(work.settings.competition, bounds):
        return "the competition's"
    labels = training_labels(competition.train_rows, work.settings.competition, bounds)
    ids = [row["image_id"] for row in competition.train_rows]
    return fingerprint(sorted(zip(ids, labels, strict=True)))


def identity_of(settings: str, inputs: dict[str, Any]) -> dict[str, str]:
    """What every checkpoint of a training carries and is checked for: other settings, folds or images are refused."""
    return {"settings": settings, "folds": inputs["folds"], "images": inputs["train images"]}


def training_data(work: Work, alike: TrainingData | None = None) -> TrainingData:
    """Every training image through the fixed preprocessing, in memory.

    alike: of other settings with the same preprocessing, whose images are taken.
    """
    import numpy as np
    import torch

    from pipeline.augment import image_keys
    from pipeline.images.load import load_images, row_pixels
    from pipeline.train import TrainingData

    competition, settings = work.competition, work.settings
    spec = work.preprocessing
    labels = [row["label"] for row in competition.train_rows]
    trained: list[str] = []
    if settings.train.label_bounds:
        trained = training_labels(competition.train_rows, settings.competition, settings.train.label_bounds)
    targets = _targets(competition, labels)
    ids = [row["image_id"] for row in competition.train_rows]
    read = (competition.train_rows, spec, work.store, work.contents[0])
    return TrainingData(
        images=alike.images if alike else torch.from_numpy(load_images(*read)),
        pixels=row_pixels(*read),
        targets=targets,
        train_targets=_targets(competition, trained) if trained else targets,
        image_ids=np.array(ids),
        keys=image_keys(ids),
        task=work.task,
        metric=competition.rule,
        more_metrics=settings.competition.further_metrics,
        preprocessing=spec,
    )


def _targets(competition: Competition, labels: list[str]) -> torch.Tensor:
    """As `train.TrainingData` has them. labels: of a class a row; with several labels or a number the rows say it."""
    import torch

    index = {name: i for i, name in enumerate(competition.classes)}
    if competition.target == "regression":
        return torch.tensor([float(row[VALUE]) for row in competition.train_rows], dtype=torch.float64)
    if competition.target == "multilabel":
        table = torch.zeros(len(labels), len(index))
        for i, row in enumerate(competition.train_rows):
            table[i, [index[label] for label in labels_of(row)]] = 1
        return table
    return torch.tensor([index[label] for label in labels])


def _tell_disk(work: Work, task: Task, n_models: int, folder: Path) -> None:
    """What the checkpoints will take. Raises `Mistakes` where there is no room for them."""
    from pipeline.model import size_of

    train = work.settings.train
    size = size_of(work.settings.model, task.n_logits, work.preprocessing.mode)
    # the state of the last epoch and of the one before: weights, two moments of each, their average; and the best
    for_resuming = 2 * size * (4 if train.select in ("ema", "swa") else 3) + size * (train.select == "best")
    stay = n_models * size
    free = shutil.disk_usage(folder).free
    say("train", f"{n_models} models of {size / 1e6:,.1f} MB stay in {shown(work.folder)} and twice in MLflow, and "
        f"up to {for_resuming / 1e6:,.0f} MB more while one is trained")  # fmt: skip
    for other in {path.parent for path in work.folder.glob("train-*/*.state")} - {folder}:
        left = sum(path.stat().st_size for path in other.glob("*.state*"))
        say("train", f"note: training under other settings was not finished: {shown(other)} holds {left / 1e6:,.0f} MB "
            "to go on from; delete it if that is not wanted")  # fmt: skip
    stay = 3 * stay
    if stay + for_resuming > free:
        found = f"the checkpoints need about {(stay + for_resuming) / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free"
        raise Mistakes(
            [Mistake(shown(folder), found, "valid: a smaller model, fewer folds or seeds, or more room", "disk")]
        )


def precision_of(work: Work, task: Task, folder: Path, tell: Callable[[str, str], None] = say) -> Precision:
    """What `train.precision` comes to here. Kept beside the checkpoints: a resumed run goes on as it began."""
    from pipeline.model import pick_device
    from pipeline.precision import Precision, choose

    path = folder / "precision.json"
    if known := kept.read_json(path):
        return Precision(**known)
    spec, device = work.preprocessing, pick_device(work.settings.train.device)
    chosen, measured = choose(
        work.settings, task.n_logits, spec.mode, spec.px, device, RUNS / "cache" / "precision.json"
    )
    for m in measured:
        taken = "  <- taken" if m.precision == chosen else ""
        tell("train", f"{m.precision!s:<22} {m.note or f'{m.ms_per_image:6.2f} ms an image'}{taken}")
    kept.write_json(path, asdict(chosen))
    return chosen
