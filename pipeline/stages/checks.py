"""Two quick looks before a long training: does one batch get learnt, and does the whole chain run on a few images.

Neither leaves anything that a later stage would take: no receipt, no checkpoint; `smoke` has a folder and an MLflow
experiment of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.competition.contract import Competition, Row, labels_of
from pipeline.competition.grouping import merged_groups, units
from pipeline.config.mistakes import Stopped
from pipeline.config.settings import Experiment
from pipeline.stages.training import train, training_data
from pipeline.work import Work, say

STEPS = 200  # of `overfit`, at most
LEARNT = 0.1  # of the first loss
N_TRAIN, N_TEST = 96, 32  # images of `smoke`
NO_FOLDS = {"k": 2, "repeats": 1, "holdout": "off", "stratify": "off", "file": "none"}


def overfit(work: Work) -> None:
    """Trains on one batch alone, nothing random, until it is learnt. Raises `Stopped` where it is not.

    Labels in the wrong order, a frozen layer, a learning rate of no effect, a loss that does not fit its target: all
    show here in seconds.
    """
    work.competition = few(work.competition, min(work.settings.train.batch_size, 32), 0)
    work.settings = changed(work.settings, {"folds": NO_FOLDS})
    work.check()
    import numpy as np

    from pipeline.model import pick_device
    from pipeline.precision import Precision
    from pipeline.records import EpochRecord, FoldRun
    from pipeline.resume import ResumeState
    from pipeline.train import out_of_memory_explained, train_fold

    class Learnt(Exception):
        pass

    still = {"augment": {}, "model": {"drop_rate": 0.0, "drop_path_rate": 0.0}}
    own = {"epochs": STEPS, "accumulation": 1, "schedule": {"name": "constant"}, "freeze_epochs": 0, "select": "last",
           "early_stopping": "off", "sampler": {"name": "shuffle"}}  # fmt: skip
    if "label_smoothing" in type(work.settings.train.loss).model_fields:  # it puts a floor under the loss
        own["loss"] = {"label_smoothing": 0.0}
    work.settings = settings = changed(work.settings, {**still, "train": own})
    data = training_data(work)
    rows = np.arange(len(data.targets))
    losses: list[float] = []

    def on_epoch(record: EpochRecord) -> None:
        losses.append(record.train_loss)
        if record.epoch % 20 == 0:
            say("overfit", f"step {record.epoch}: loss {record.train_loss:.4f}, {data.metric} {record.score:.4f}")
        if record.train_loss <= LEARNT * losses[0]:
            raise Learnt

    device = pick_device(settings.train.device)
    say("overfit", f"{settings.model.name} on one batch of {len(rows)} images, nothing random, on {device} ...")
    with tempfile.TemporaryDirectory() as folder:
        state = ResumeState(Path(folder) / "state", {})
        try:
            seed = settings.train.seeds[0]
            with out_of_memory_explained(settings.train):
                train_fold(data, rows, rows, FoldRun(0, 1, seed), settings, Precision(), device, state, on_epoch)
        except Learnt:
            say("overfit", f"learnt after {len(losses)} steps: loss {losses[0]:.4f} to {losses[-1]:.4f}")
            return
    raise Stopped(
        f"one batch of {len(rows)} images was not learnt in {STEPS} steps (loss {losses[0]:.4f} to {losses[-1]:.4f}). "
        "Look at train.lr first (ten times more, ten times less), then at train.loss, and at the labels themselves."
    )


def smoke(settings: Experiment, name: str, experiment: str) -> None:
    """Everything from tables to predictions on a few images, in about a minute: what breaks late breaks now."""
    started = time.perf_counter()
    few_epochs = {"epochs": 1, "batch_size": min(settings.train.batch_size, 16), "freeze_epochs": 0,
                  "seeds": settings.train.seeds[:1], "schedule": {"warmup_epochs": 0.0}}  # fmt: skip
    if settings.train.schedule.name == "onecycle":
        few_epochs.pop("schedule")
    competition = {"name": f"{settings.competition.name}-smoke"}
    small = changed(settings, {"train": few_epochs, "competition": competition, "folds": NO_FOLDS})
    work = Work(small, f"{name}-smoke", "train", force=True, experiment=experiment)
    work.competition = few(work.competition, N_TRAIN, N_TEST)
    receipt = train(work)
    if work.competition.test_rows:
        from pipeline.answers import Answers
        from pipeline.ensemble.recipe import Recipe
        from pipeline.stages.members import own
        from pipeline.stages.predictions import test_outputs

        member = test_outputs(work, [own(work, receipt)], small.submit, fresh=True)
        outputs = Recipe(small.submit.average, (1.0,), ()).outputs(member, small.competition.target)
        examples = "; ".join(map(", ".join, Answers.of(work.competition).cells(outputs[:5]).to_numpy().astype(str)))
        say("smoke", f"{len(outputs)} test images predicted, e.g. {examples}")
    say(
        "smoke", f"the whole chain runs, in {time.perf_counter() - started:.0f} s; scores of so few images mean nothing"
    )


def changed(settings: Experiment, sections: dict) -> Experiment:
    """The settings with other values in some sections, validated anew."""
    data = settings.model_dump()
    for section, values in sections.items():
        for key, value in values.items():
            inner = data[section].get(key)
            merge = isinstance(value, dict) and isinstance(inner, dict) and "name" not in value
            data[section][key] = {**inner, **value} if merge else value
        if not values:
            del data[section]
    return Experiment.model_validate(data)


def few(competition: Competition, n_train: int, n_test: int) -> Competition:
    """About so many rows, whole groups, every class in turn: the rarest class has as good a place as any."""
    by_class: dict[str, list[list[Row]]] = {}
    members: dict[int, list[Row]] = {}
    in_order = sorted(competition.train_rows, key=lambda row: row["image_id"])
    of_row = units((row["image_id"] for row in in_order), merged_groups(competition))
    for row, unit in zip(in_order, of_row.tolist(), strict=True):
        members.setdefault(unit, []).append(row)
    for rows in members.values():
        by_class.setdefault((labels_of(rows[0]) or ("",))[0], []).append(rows)
    chosen: list[Row] = []
    queues = [iter(of_class) for _, of_class in sorted(by_class.items())]
    while queues and len(chosen) < n_train:
        queues = [queue for queue in queues if _take(queue, chosen, n_train)]
    return replace(competition, train_rows=chosen, test_rows=competition.test_rows[:n_test], is_excerpt=True)


def _take(queue: Iterator[list[Row]], chosen: list[Row], n: int) -> bool:
    rows = next(queue, None)
    if rows is not None and len(chosen) < n:
        chosen += rows
    return rows is not None
