"""A search at work: from trials to jobs, from what jobs leave to scores, and what may be deleted.

In: a study and a pool. Out: trials that have ended, and the best few trained again by fresh seeds. Folders under
`mlruns/NAME/tune-HASH/`: `trial-0007/`, as long as it runs or is one of the best few, and `fresh-.../` for the
choice.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import kept
from pipeline.config.mistakes import Stopped
from pipeline.config.tuning import SEARCHED
from pipeline.kept import is_intact
from pipeline.tune.choice import candidates
from pipeline.tune.driver import Hooks, drive, why_failed
from pipeline.work import Work, say

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config.metric import Metric
    from pipeline.stages.tune_record import StudyRecord
    from pipeline.study_progress import StudyProgress
    from pipeline.tune.pool import Job, Pool
    from pipeline.tune.prune import Trial
    from pipeline.tune.study import Study

MAX_DEATHS = 3  # of workers in one fold of the choice
BEAT_S = 30.0
OVERHEAD = 1.2  # of what the epochs take: workers that start, images, checkpoints, tables
SPENT = "spent.json"  # seconds of `tune.hours` that unfinished commands took


@dataclass
class Search:
    """tables: paths of the folds, and of those that the choice is made on. identity: of data and folds."""

    work: Work
    study: Study
    folder: Path
    table: Path
    fresh_table: Path
    identity: dict[str, str]
    record: StudyRecord
    display: StudyProgress
    begun: float  # time.monotonic() less the time that killed commands had spent
    n_workers: int = 1
    n_again: int = 0  # of the best few, for whose training by fresh seeds time is kept; 0: not known yet
    noted: float = 0.0

    @property
    def metric(self) -> tuple[Metric, str]:
        return self.work.competition.rule, self.work.competition.target

    @property
    def left_s(self) -> float:
        """Of `tune.hours`, in which the choice is to end as well."""
        hours = self.work.settings.tune.hours
        return math.inf if hours == "off" else 3600 * hours - (time.monotonic() - self.begun)

    def choice_s(self, n: int) -> float:
        """What training n settings and the experiment itself again will take, by what the experiment took."""
        baseline, seeds = self.study.baseline, self.work.settings.tune.confirm.seeds
        return OVERHEAD * (1 + n) * seeds * baseline.seconds / self.n_workers if baseline else 0.0

    def n_that_fit(self, seconds: float) -> int:
        """How many of the best few can be trained again in so long; one at least."""
        top = self.work.settings.tune.confirm.top
        return max([n for n in range(1, top + 1) if self.choice_s(n) <= seconds], default=1)

    def is_time_over(self) -> bool:
        """Whether one trial more, and the choice after it, would not end in time. Before the experiment itself is
        trained nothing is known, and it is trained whatever the time."""
        baseline = self.study.baseline
        if baseline is None or baseline.state == "running":
            return self.left_s <= 0
        self.n_again = self.n_again or self.n_that_fit(self.left_s / 2)
        return OVERHEAD * baseline.seconds + self.choice_s(self.n_again) > self.left_s

    def note_time(self) -> None:
        """Twice a minute: a killed command's time counts for the one that goes on."""
        if time.monotonic() - self.noted > BEAT_S:
            self.noted = time.monotonic()
            kept.write_json(self.folder / SPENT, {"seconds": self.noted - self.begun})

    def trial_folder(self, trial: Trial) -> Path:
        return self.folder / f"trial-{trial.number:04d}"

    def fresh_folder(self, trial: Trial, seed: int) -> Path:
        folds = "" if self.fresh_table == self.table else "-folds"
        return self.folder / f"fresh-{trial.identity[:12]}-seed-{seed}{folds}"

    def sections(self, trial: Trial) -> dict[str, Any]:
        """Everything that a trial's settings say about training."""
        space = self.study.space
        settings = space.base if trial.is_baseline else space.settings(trial.raw)
        return settings.model_dump(mode="json", include=set(SEARCHED))

    def job(self, trial: Trial, fold: int, seed: int, folder: Path, table: Path) -> Job:
        identity = {**self.identity, "settings": trial.identity, "table": table.stem}
        return {"kind": "fold", "trial": trial.number, "fold": fold, "seed": seed, "settings": self.sections(trial),
                "folder": str(folder), "table": str(table), "identity": identity}  # fmt: skip


def search(at: Search, pool: Pool) -> None:
    """Trains until every trial has ended and no other may begin."""
    seed, config, last_beat = at.work.settings.train.seeds[0], at.work.settings.tune, 0.0

    def over() -> bool:
        return at.is_time_over() or (config.trials != "off" and at.study.n_own >= config.trials)

    def beat() -> None:
        nonlocal last_beat
        at.display.refresh(at.study)
        at.note_time()
        if config.storage != "journal" and time.monotonic() - last_beat > BEAT_S:
            last_beat = time.monotonic()
            at.study.note(f"driver {at.study.about.driver}", time.time())

    def ended(trial: Trial) -> None:
        at.record.ended(trial)
        at.display.ended(trial, at.study)
        tidy(at)
        if trial.is_baseline and trial.state == "finished" and config.hours != "off":
            at.is_time_over()
            minutes = [seconds / 60 for seconds in (trial.seconds, at.choice_s(at.n_again), at.left_s)]
            say("tune", "the experiment itself took {:.1f} min, so {:.1f} of the {:.1f} min left are kept to train it "
                "and the best {} again".format(*minutes, at.n_again))  # fmt: skip
        if trial.is_baseline and trial.state == "failed":
            raise Stopped(f"the experiment itself does not train, so nothing can be compared with it: {trial.why}")

    def begun(trial: Trial) -> None:
        at.record.begun(trial)
        at.display.begun(trial)

    def epoch(trial: Trial, fold: int, data: Any) -> None:
        at.record.epoch(trial, fold, data["record"])
        at.display.refresh(at.study)

    hooks = Hooks(
        job=lambda trial, fold: at.job(trial, fold, seed, at.trial_folder(trial), at.table),
        value=lambda trial: score_of(at, [at.trial_folder(trial)], trial.order),
        has_fold=lambda trial, fold: is_intact(at.trial_folder(trial) / f"fold-{fold}.parquet"),
        over=over,
        begun=begun,
        epoch=epoch,
        fold_ended=at.record.fold_ended,
        ended=ended,
        beat=beat,
    )
    at.record.catch_up(at.study.trials)
    tidy(at)
    if drive(at.study, pool, hooks):
        say("tune", "the space holds no other setting, so the search ends here")
    tidy(at)


def tidy(at: Search) -> None:
    """Deletes what trials left that neither run nor are among the best few: whatever is tried, so much stays."""
    top = at.work.settings.tune.confirm.top
    keep = {at.trial_folder(trial).name for trial in candidates(at.study.trials, top, at.study.about.sign)}
    keep |= {at.trial_folder(trial).name for trial in at.study.trials if trial.state == "running"}
    for folder in at.folder.glob("trial-*"):
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def oof_of(folders: Sequence[Path], folds: Sequence[int]) -> pd.DataFrame:
    """All out-of-fold rows of a setting; of several seeds the mean."""
    import pandas as pd

    from pipeline.crossval import joined

    return joined([pd.read_parquet(folder / f"fold-{fold}.parquet") for folder in folders for fold in sorted(folds)])


def score_of(at: Search, folders: Sequence[Path], folds: Sequence[int]) -> float:
    from pipeline.crossval import arrays_of
    from pipeline.metrics import score

    metric, kind = at.metric
    return score(metric, *arrays_of(oof_of(folders, folds)), kind)


def train_again(
    at: Search, pool: Pool, trials: Sequence[Trial], seeds: Sequence[int], folds: Sequence[int],
    told: Callable[[int, int], None],
) -> list[tuple[Trial, pd.DataFrame]]:  # fmt: skip
    """Each trial on every fold by every seed: (trial, its out-of-fold rows); one that fails by these seeds is left out.

    told: how many of how many models are trained.
    """
    wanted = [(trial, seed, fold) for trial in trials for seed in seeds for fold in folds]
    where = {(trial.number, seed): at.fresh_folder(trial, seed) for trial in trials for seed in seeds}
    left = [(t, s, f) for t, s, f in wanted if not is_intact(where[t.number, s] / f"fold-{f}.parquet")]
    failed: dict[int, str] = {}
    deaths: dict[tuple[int, int, int], int] = {}
    n_all, waiting = len(wanted), list(left)
    while waiting or pool.jobs:
        told(n_all - len(waiting) - len(pool.jobs), n_all)
        at.note_time()
        for worker in pool.idle():
            if waiting:
                trial, seed, fold = waiting.pop(0)
                pool.submit(worker, at.job(trial, fold, seed, where[trial.number, seed], at.fresh_table))
        message = pool.next()
        assert message is not None, "without a limit of time a message comes"
        number, seed, fold = (message.job[key] for key in ("trial", "seed", "fold"))
        if message.kind == "epoch":
            pool.answer(message, go_on=number not in failed)
        elif message.kind == "failed":
            failed[number] = why_failed(message)
        elif message.kind == "died":
            key = (number, seed, fold)
            deaths[key] = deaths.get(key, 0) + 1
            if deaths[key] >= MAX_DEATHS:
                failed[number] = f"its worker died {MAX_DEATHS} times"
            else:
                waiting.insert(0, next(w for w in wanted if (w[0].number, w[1], w[2]) == key))
        waiting = [w for w in waiting if w[0].number not in failed]
    told(n_all, n_all)
    for folder in where.values():  # out-of-fold rows are all that the choice reads, now and when it is made again
        for checkpoint in folder.glob("*.safetensors"):
            checkpoint.unlink()
    for number, why in failed.items():
        say("tune", f"trial {number} does not train by fresh seeds, and is left out: {why}")
    return [(trial, oof_of([where[trial.number, seed] for seed in seeds], folds)) for trial in trials
            if trial.number not in failed]  # fmt: skip


def fresh_seeds(seeds: Sequence[int], n: int) -> tuple[int, ...]:
    """The first n from 1000 on that the experiment does not name."""
    return tuple(seed for seed in range(1000, 1000 + n + len(seeds)) if seed not in seeds)[:n]


def measured_ranges(
    at_folder: Path, pool: Pool, settings: Mapping[str, Mapping[str, Any]], seed: int, table: Path
) -> dict[str, dict[str, Any]]:
    """Of the learning-rate range test, by optimizer. settings: likewise, the sections to train with."""
    left = list(settings)
    found: dict[str, dict[str, Any]] = {}
    while left or pool.jobs:
        for worker in pool.idle():
            if left:
                name = left.pop(0)
                pool.submit(worker, {"kind": "lr_range", "optimizer": name, "seed": seed, "settings": settings[name],
                                     "folder": str(at_folder), "table": str(table)})  # fmt: skip
        message = pool.next()
        if message is not None and message.kind == "done":
            found[message.job["optimizer"]] = message.data
        elif message is not None:
            raise Stopped(f"the learning-rate range test of {message.job['optimizer']} did not end: {message.data}")
    return found
