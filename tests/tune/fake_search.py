"""A whole search whose trainings are make-believe: `fake_search.py FOLDER N_TRIALS N_WORKERS`.

Run by `test_driver`, which ends it and its workers at random moments. An epoch takes 10 ms, its score is a function of
the settings, the fold and the epoch, and a fold's state is a file, as in a real training. In the end it prints every
trial, as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

from pipeline.tune.pool import GivenUp, Pool

N_FOLDS, N_EPOCHS = 4, 4


class TrainingDiverged(Exception):
    """By this name the driver knows that it is the settings' fault."""


def score(settings: dict, fold: int, epoch: int) -> float:
    distance = abs(settings["lr"] - 3) + (2 if settings["loss"] == "focal" else 0)
    wobble = ((hash((settings["lr"], fold, 7)) % 1000) / 1000 - 0.5) * 0.2  # of numbers, so the same in every process
    return 1 - 0.1 * distance - 0.3 / epoch + 0.05 * fold + wobble * 0.3


def start(folder: str):
    def perform(job, ask):
        place = Path(folder) / f"trial-{job['trial']}"
        place.mkdir(exist_ok=True)
        state = place / f"fold-{job['fold']}.state"
        curve = json.loads(state.read_text()) if state.is_file() else []
        if curve and not ask({"curve": curve, "seconds": 0.0, "record": {}}):
            raise GivenUp
        while len(curve) < N_EPOCHS:
            time.sleep(0.01)
            if job["settings"]["loss"] == "nan" and len(curve) == 1:
                raise TrainingDiverged("the loss is nan")
            curve = [*curve, score(job["settings"], job["fold"], len(curve) + 1)]
            scratch = state.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps(curve))
            scratch.replace(state)
            with (Path(folder) / "epochs.log").open("a") as log:
                log.write(f"{job['trial']} {job['fold']} {len(curve)}\n")
            if not ask({"curve": curve, "seconds": 0.01 * len(curve), "record": {}}):
                raise GivenUp
        return {"curve": curve, "seconds": 0.01 * N_EPOCHS}

    return perform


def main(folder: Path, n_trials: int, n_workers: int) -> None:
    import numpy as np

    from pipeline.config.settings import Experiment
    from pipeline.config.tuning import Tune
    from pipeline.tune.driver import Hooks, drive
    from pipeline.tune.space import Axis, Space
    from pipeline.tune.store import open_storage
    from pipeline.tune.study import About, Study

    base = Experiment.model_validate({"competition": {"source": "digits"}, "train": {"epochs": N_EPOCHS}})

    def build(changes):
        train = {"epochs": N_EPOCHS, "lr": changes.get("lr", 1.0), "batch_size": 64 + 7 * len(changes.get("loss", ""))}
        return Experiment.model_validate({"competition": {"source": "digits"}, "train": train})

    axes = [Axis("lr", "lr", "float", 0.5, 8.0), Axis("loss", "loss", "choice", choices=("ce", "focal", "nan"))]
    space = Space(axes, base, build)
    about = About("fake", "context", 1, tuple(range(N_FOLDS)), "driver")
    study = Study(open_storage("journal", folder / "journal"), space, about, Tune(trials=n_trials, startup=4))
    settings_of = {True: {"lr": 1.0, "loss": "ce"}}

    def job(trial, fold):
        settings = settings_of[True] if trial.is_baseline else trial.raw
        return {"trial": trial.number, "fold": fold, "settings": settings}

    nothing = lambda *_: None  # noqa: E731
    hooks = Hooks(
        job=job,
        value=lambda trial: float(np.mean([curve[-1] for curve in trial.curves.values()])),
        has_fold=lambda trial, fold: True,
        over=lambda: study.n_own >= n_trials,
        begun=nothing, epoch=nothing, fold_ended=nothing, ended=nothing, beat=nothing,
    )  # fmt: skip
    with Pool(start, [(str(folder),)] * n_workers) as pool:
        drive(study, pool, hooks)
    again = Study(open_storage("journal", folder / "journal"), space, about, Tune(trials=n_trials, startup=4))
    print(json.dumps([
        {"number": t.number, "raw": t.raw, "state": t.state, "why": t.why, "value": t.value,
         "curves": {str(fold): curve for fold, curve in t.curves.items()}, "done": sorted(t.done)}
        for t in again.trials
    ]))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
