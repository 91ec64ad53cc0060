"""What a search leaves in MLflow: a run for the study, one a trial beneath it, one a fold beneath that.

A fold's run is written when the fold has ended, all its epochs in one call; ids are kept in `runs.json`, so that a
search that was killed goes on with the runs it had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import kept
from pipeline.stages.cv_record import METRICS
from pipeline.stages.describe import link
from pipeline.work import Work

if TYPE_CHECKING:
    from pipeline.tune.prune import Trial


class StudyRecord:
    """runs: of an earlier command, by `study`, `trial-0007`, `trial-0007/fold-2`."""

    def __init__(self, work: Work, folder: Path, inputs: Mapping[str, Any]):
        self.work, self.inputs = work, dict(inputs)
        self._file = folder / "runs.json"
        runs: dict[str, str] = kept.read_json(self._file)
        self.runs = runs if work.tracker.exists(runs.get("study", "")) else {}
        self._records: dict[tuple[int, int], list[dict[str, Any]]] = {}

    def note(self, key: str, run_id: str) -> None:
        self.runs[key] = run_id
        kept.write_json(self._file, self.runs)

    def catch_up(self, trials: Sequence[Trial]) -> None:
        """Writes what a killed command had put into the study, but not here yet."""
        for trial in trials:
            if trial.inherited or (trial.state == "running" and _key(trial) not in self.runs):
                continue
            ended = trial.state != "running"
            if ended and f"{_key(trial)}/ended" in self.runs:
                continue
            if _key(trial) not in self.runs:
                self.begun(trial)
            for fold in trial.curves if ended else trial.done:
                whole = self._file.parent / _key(trial) / f"fold-{fold}.json"
                self.fold_ended(trial, fold, {"history": json.loads(whole.read_text())} if whole.is_file() else {})
            if ended:
                self.ended(trial)

    def begun(self, trial: Trial) -> None:
        """Opens the trial's run, or the one that a killed command had opened."""
        key, known = _key(trial), self.runs.get(_key(trial), "")
        name = f"trial {trial.number} · the experiment itself" if trial.is_baseline else f"trial {trial.number}"
        tags = {**self.work.tags("trial", self.inputs), "study_run": self.runs["study"], "trial": str(trial.number)}
        run_id = self.work.tracker.start(name, tags, parent=self.runs["study"], resume=known)
        if not known:
            self.note(key, run_id)
            self.work.tracker.params(run_id, {**trial.changes, "fold_order": list(trial.order)})
            told = f"**One setting of a [study]({link(self.work, self.runs['study'])})**: " + in_words(trial.changes)
            self.work.tracker.describe(run_id, told)

    def epoch(self, trial: Trial, fold: int, record: Mapping[str, Any]) -> None:
        """Kept until the fold ends."""
        kept = self._records.setdefault((trial.number, fold), [])
        kept[:] = [r for r in kept if r["epoch"] < record["epoch"]] + [dict(record)]

    def fold_ended(self, trial: Trial, fold: int, data: Mapping[str, Any]) -> None:
        """data: with `history` where the fold came to its end; else its scores, and all that was seen of an epoch."""
        seen = {record["epoch"]: record for record in self._records.pop((trial.number, fold), [])}
        scores = [seen.get(i, {"epoch": i, "score": value}) for i, value in enumerate(trial.curves.get(fold, []), 1)]
        history = data.get("history") or scores
        key, tracker = f"{_key(trial)}/fold-{fold}", self.work.tracker
        if f"{key}/ended" in self.runs or not history:
            return
        # by the same time MLflow knows a point again: a command may be killed when all was sent, and not noted yet
        at = int(self.runs.setdefault(f"{key}/time", str(time.time_ns() // 1_000_000)))
        tags = {**self.work.tags("trial-fold", self.inputs), "trial": str(trial.number), "fold": str(fold)}
        run_id = tracker.start(f"fold-{fold}", tags, parent=self.runs[_key(trial)], resume=self.runs.get(key, ""))
        self.note(key, run_id)
        metric = self.work.competition.metric
        values = [{name: r[name] for name in METRICS if name in r} | {f"valid_{metric}": r["score"]} for r in history]
        tracker.curve(run_id, [(r["epoch"], of_epoch) for r, of_epoch in zip(history, values, strict=True)], at)
        tracker.end(run_id)
        self.note(f"{key}/ended", run_id)

    def ended(self, trial: Trial) -> None:
        for fold in trial.curves:  # those that were given up with the trial, or failed
            self.fold_ended(trial, fold, {})
        run_id, tracker, metric = self.runs[_key(trial)], self.work.tracker, self.work.competition.metric
        values: dict[str, float] = {"epochs": trial.n_trained, "seconds": trial.seconds}
        if trial.value is not None:
            values[f"oof_{metric}"] = trial.value
        tracker.metrics(run_id, values)
        tracker.tags(run_id, {"outcome": trial.state, "why": trial.why})
        came_to = f"{trial.value:.4f}" if trial.value is not None else trial.state
        own = " · the experiment itself" if trial.is_baseline else ""
        tracker.rename(run_id, f"trial {trial.number} · {came_to}{own}")
        tracker.end(run_id, "FAILED" if trial.state == "failed" else "FINISHED")
        self.note(f"{_key(trial)}/ended", run_id)


def in_words(changes: Mapping[str, Any]) -> str:
    """`lr 0.002, loss.name focal`: without the section that nearly all are in."""
    return ", ".join(f"{key.removeprefix('train.')} {value}" for key, value in changes.items()) or "as it stands"


def _key(trial: Trial) -> str:
    return f"trial-{trial.number:04d}"
