"""One worker of a search: trains single folds of trials, by the ordinary training.

In: jobs as plain data. Out: on the disk what a fold always leaves (checkpoint, history) and its out-of-fold rows; to
the driver its scores, epoch by epoch. It knows no study and no tracker. Images are read once, whatever varies in the
loss or the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.load import load
from pipeline.config.settings import Experiment
from pipeline.tune.pool import Ask, GivenUp, Job, Perform
from pipeline.work import Work

if TYPE_CHECKING:
    from pipeline.config.data import Preprocessing
    from pipeline.records import EpochRecord
    from pipeline.train import TrainingData


def start(experiment: str, overrides: tuple[str, ...], device: str, n_workers: int) -> Perform:
    """What this worker does with a job: `fold` trains, `lr_range` measures. device: `auto`, or a GPU of its own."""
    settings, name = load(experiment, overrides)
    base = Work(settings, name, "tune")
    from pipeline.crossval import prepare_machine

    threads = settings.train.threads
    share = threads if threads != "auto" else max(prepare_machine(threads) // n_workers, 1)
    prepare_machine(share)  # each of several workers on one processor has its share of the cores
    images: dict[Preprocessing, TrainingData] = {}  # of the last preprocessing alone

    def perform(job: Job, ask: Ask) -> Any:
        work = _work_of(base, job["settings"], job["seed"], device)
        data = _data_of(work, images)
        return _lr_range(work, data, job) if job["kind"] == "lr_range" else _fold(work, data, job, ask, share)

    return perform


def _work_of(base: Work, sections: Mapping[str, Any], seed: int, device: str) -> Work:
    """A trial's own settings, on what does not depend on them: tables and hashes of images."""
    data = {**base.settings.model_dump(mode="json"), **sections}
    data["train"] = {**data["train"], "seeds": [seed]} | ({} if device == "auto" else {"device": device})
    work = Work(Experiment.model_validate(data), base.name, "tune")
    work.competition, work.contents = base.competition, base.contents
    return work


def _data_of(work: Work, images: dict[Preprocessing, TrainingData]) -> TrainingData:
    from pipeline.stages.training import training_data

    found = training_data(work, images.get(work.preprocessing))
    if work.preprocessing not in images:
        images.clear()
        images[work.preprocessing] = found
    return found


def _fold(work: Work, data: TrainingData, job: Job, ask: Ask, threads: int) -> dict[str, Any]:
    """Leaves `fold-K.safetensors`, `fold-K.json` and `fold-K.parquet` in the job's folder."""
    import json

    import numpy as np

    from pipeline import kept, receipts
    from pipeline.crossval import oof_table, prepare_machine, train_one
    from pipeline.folds.split import read_folds, splits
    from pipeline.metrics import score
    from pipeline.model import pick_device
    from pipeline.resume import ResumeState
    from pipeline.stages.training import precision_of

    settings, folder = work.settings, Path(job["folder"])
    table = read_folds(Path(job["table"]))
    split = splits(table)[job["fold"]]
    path = folder / f"fold-{split.number}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.glob(f".fold-{split.number}.*.tmp"):  # of a worker that was killed while it wrote
        stray.unlink()
    began = folder / "threads.json"  # a trial goes on with as many as it began with, whatever tune.jobs is now
    threads = prepare_machine(kept.read_json(began).get("threads", threads))
    kept.write_json(began, {"threads": threads})
    precision = precision_of(work, data.task, folder, tell=lambda verb, text: None)
    identity = {**job["identity"], "precision": str(precision), "train.threads": str(threads)}
    state = ResumeState(path.with_suffix(".state"), identity, settings.train.select == "best")
    curve, seconds = ([], 0.0) if path.is_file() else (state.scores(), 0.0)

    def on_epoch(record: EpochRecord) -> None:
        nonlocal curve, seconds
        curve = [*curve[: record.epoch - 1], record.score]
        seconds += record.seconds
        if not ask({"curve": curve, "seconds": seconds, "record": asdict(record)}):
            raise GivenUp

    device = pick_device(settings.train.device)
    rows, outputs = train_one(
        data, table, split, job["seed"], settings, precision, device, identity, receipts.code_version(), path, on_epoch
    )
    with kept.sealed(path.with_suffix(".parquet")) as temporary:
        fold = np.full(len(rows), split.fold)
        oof_table(data.image_ids[rows], fold, data.targets[rows].numpy(), outputs).to_parquet(temporary, index=False)
    history = json.loads(path.with_suffix(".json").read_text())
    final = score(data.metric, data.targets[rows].numpy(), outputs, data.task.kind)
    return {"final": final, "curve": [record["score"] for record in history], "history": history,
            "seconds": sum(record["seconds"] for record in history)}  # fmt: skip


def _lr_range(work: Work, data: TrainingData, job: Job) -> dict[str, Any]:
    """The range of rates that train, measured on the first fold's training rows."""
    from pipeline.folds.split import read_folds, splits
    from pipeline.lr_range import find_lr_range
    from pipeline.model import pick_device
    from pipeline.stages.training import precision_of
    from pipeline.train import out_of_memory_explained

    table = read_folds(Path(job["table"]))
    rows, _ = splits(table)[0].sides(table, data.image_ids)
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    precision = precision_of(work, data.task, folder, tell=lambda verb, text: None)
    with out_of_memory_explained(work.settings.train):
        return asdict(find_lr_range(data, rows, work.settings, precision, pick_device(work.settings.train.device)))
