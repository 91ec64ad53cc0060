"""The driver: one process that owns the study, hands (trial, fold) jobs to workers and acts on what they tell.

In: a study, a pool, when to stop. Out: a study in which every trial has ended; told as it happens through `Hooks`. It
trains nothing itself and keeps nothing in memory that the store or the disk does not have: ended at any moment, the
same call goes on with the trials that were running, from the epochs that they had reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.config.mistakes import Stopped
from pipeline.tune.pool import Job, Message, Pool
from pipeline.tune.prune import Trial
from pipeline.tune.study import Study

MAX_DEATHS = 3  # of workers in one job, until it is the trial that is to blame
POLL_S = 5.0


@dataclass(frozen=True)
class Hooks:
    """What the driver needs from outside.

    job: of a trial and a fold, as plain data. value: a finished trial's score over all out-of-fold rows. begun, epoch,
    ended: for the display and the record. over: whether no further trial may begin. beat: called every few seconds.
    has_fold: whether what a fold left is on this machine's disk.
    """

    job: Callable[[Trial, int], Job]
    value: Callable[[Trial], float]
    has_fold: Callable[[Trial, int], bool]
    over: Callable[[], bool]
    begun: Callable[[Trial], None]
    epoch: Callable[[Trial, int, Any], None]
    fold_ended: Callable[[Trial, int, Any], None]
    ended: Callable[[Trial], None]
    beat: Callable[[], None]


class _Exhausted(Exception):
    pass


def drive(study: Study, pool: Pool, hooks: Hooks) -> bool:
    """Runs until every trial that was begun has ended and no other may begin. Whether the space holds no other."""
    deaths: dict[tuple[int, int], int] = {}
    live = {trial.number: trial for trial in study.running()}
    for trial in list(live.values()):
        for fold in list(trial.done):
            if not hooks.has_fold(trial, fold):  # taken over from another machine
                trial.done.discard(fold)
        hooks.begun(trial)
        _settle(study, trial, live, hooks)
    exhausted = False
    while True:
        for worker in pool.idle():
            try:
                job = _next_job(study, pool, live, hooks, exhausted)
            except _Exhausted:
                exhausted, job = True, _next_job(study, pool, live, hooks, True)
            if job is None:
                break
            pool.submit(worker, job)
        if not pool.jobs:
            return exhausted
        hooks.beat()
        message = pool.next(POLL_S)
        if message is not None:
            _act(study, pool, message, live, hooks, deaths)


def _next_job(study: Study, pool: Pool, live: dict[int, Trial], hooks: Hooks, exhausted: bool) -> Job | None:
    """A fold of a trial that rests; else of a new trial; else one more of a trial in work, so that no worker idles."""
    busy = [(job["trial"], job["fold"]) for job in pool.jobs]
    working = {number for number, _ in busy}
    for trial in live.values():
        if trial.number not in working:
            return hooks.job(trial, _folds_left(trial, busy)[0])
    if not exhausted and not hooks.over():
        trial = study.ask()
        if trial is None:
            raise _Exhausted
        live[trial.number] = trial
        hooks.begun(trial)
        return hooks.job(trial, trial.order[0])
    for trial in live.values():
        if left := _folds_left(trial, busy):
            return hooks.job(trial, left[0])
    return None


def _folds_left(trial: Trial, busy: list[tuple[int, int]]) -> list[int]:
    return [fold for fold in trial.order if fold not in trial.done and (trial.number, fold) not in busy]


def _act(
    study: Study, pool: Pool, message: Message, live: dict[int, Trial], hooks: Hooks,
    deaths: dict[tuple[int, int], int],
) -> None:  # fmt: skip
    number, fold = message.job["trial"], message.job["fold"]
    trial = live.get(number)
    if trial is None:  # given up meanwhile, while another of its folds was in work
        if message.kind == "epoch":
            pool.answer(message, go_on=False)
        return
    match message.kind:
        case "epoch":
            why = study.epoch(trial, fold, message.data["curve"])
            pool.answer(message, go_on=not why)
            hooks.epoch(trial, fold, message.data)
            if why:
                study.keep_curve(trial, fold, message.data["curve"], message.data["seconds"], is_done=False)
                hooks.fold_ended(trial, fold, message.data)
                study.prune(trial, why)
                _end(trial, live, hooks)
        case "done":
            told = message.data
            study.keep_curve(trial, fold, told["curve"], told["seconds"], is_done=True, final=told.get("final"))
            hooks.fold_ended(trial, fold, message.data)
            _settle(study, trial, live, hooks)
        case "failed":
            study.fail(trial, f"fold {fold}: {why_failed(message)}")
            _end(trial, live, hooks)
        case "died":
            deaths[number, fold] = deaths.get((number, fold), 0) + 1
            if deaths[number, fold] >= MAX_DEATHS:
                study.fail(trial, f"fold {fold}: its worker died {MAX_DEATHS} times (exit {message.data})")
                _end(trial, live, hooks)


OF_THE_SETTINGS = ("TrainingDiverged", "Stopped")  # numbers that are none; too little memory for the batch


def why_failed(message: Message) -> str:
    """What a job says that its settings made fail.

    Raises `Stopped` where it was a full disk, a broken store or a mistake of ours: no trial is to blame for that.
    """
    kind, text = message.data
    if kind not in OF_THE_SETTINGS:
        where = f"trial {message.job['trial']}, fold {message.job['fold']}"
        raise Stopped(f"{where}: {kind}: {text}. It is not given up: the same command goes on with it")
    return text or kind


def _settle(study: Study, trial: Trial, live: dict[int, Trial], hooks: Hooks) -> None:
    """Between two folds: given up, finished, or neither."""
    if trial.done and (why := study.between_folds(trial)):
        study.prune(trial, why)
    elif trial.done >= set(trial.order):
        study.finish(trial, hooks.value(trial))
    else:
        return
    _end(trial, live, hooks)


def _end(trial: Trial, live: dict[int, Trial], hooks: Hooks) -> None:
    del live[trial.number]
    hooks.ended(trial)
