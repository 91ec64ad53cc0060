"""What a search hands over: the report as data, and `experiments/NAME-tuned.yaml` where something was found."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline import receipts
from pipeline.atomic import atomic
from pipeline.config.load import differences, load
from pipeline.config.mistakes import Stopped, shown
from pipeline.config.settings import ROOT
from pipeline.stages.describe import command
from pipeline.stages.tune_record import in_words
from pipeline.tune.prune import estimate
from pipeline.tune.space import searched
from pipeline.work import Work

if TYPE_CHECKING:
    from pipeline.tune.choice import Confirmed
    from pipeline.tune.space import Axis
    from pipeline.tune.study import Study


@dataclass(frozen=True)
class Outcome:
    """The choice in words. verdict: the answer first."""

    confirmed: Sequence[Confirmed]
    verdict: Sequence[str]
    optimism: str
    seeds: Sequence[int]  # the fresh ones


def summary(work: Work, study: Study, outcome: Outcome, importance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole study as plain data: what the page shows, and an artifact of its own."""
    best, sign = study.best, study.about.sign
    trials: list[dict[str, Any]] = [
        {
            "number": t.number, "state": t.state, "why": t.why, "value": t.value,
            "estimate": estimate(t, best, sign) if t.state == "pruned" else None,
            "params": _params(work, study, t.raw, t.is_baseline), "folds": {str(f): c for f, c in t.curves.items()},
            "epochs_run": 0 if t.inherited else t.n_trained, "epochs_planned": t.n_epochs * len(t.order),
            "seconds": 0.0 if t.inherited else t.seconds, "is_baseline": t.is_baseline, "inherited": t.inherited,
        }
        for t in study.trials
    ]  # fmt: skip
    own = [trial for trial in trials if not trial["inherited"]]
    return {
        "name": study.about.name,
        "experiment": work.name,
        "metric": work.competition.rule.described,
        "greater_is_better": sign > 0,
        "n_folds": len(study.about.folds),
        "epochs": work.settings.train.epochs,
        "trials": trials,
        "space": {axis.name: _axis(axis) for axis in study.space.axes},
        "importance": list(importance),
        "confirmed": [_confirmed(c) for c in outcome.confirmed],
        "verdict": list(outcome.verdict),
        "optimism": outcome.optimism,
        "totals": {
            "epochs_run": sum(trial["epochs_run"] for trial in own),
            "epochs_full": sum(trial["epochs_planned"] for trial in own),
            "seconds": sum(trial["seconds"] for trial in own),
        },
        "made": {"code_version": receipts.code_version(), "command": command(work, "tune")},
    }


def _params(work: Work, study: Study, raw: Mapping[str, Any], is_baseline: bool) -> dict[str, Any]:
    """By axis, as settings; lists and sections as the store has them, for they are to be drawn."""
    found = {}
    changes = study.space.changes(raw)
    for axis in study.space.axes:
        if axis.name in raw:
            found[axis.name] = raw[axis.name] if axis.kind == "choice" else changes[axis.key]
    if is_baseline and "train.lr" in found:
        found["train.lr"] = work.settings.train.lr
    return found


def _axis(axis: Axis) -> dict[str, Any]:
    return {"kind": axis.kind, "low": axis.low, "high": axis.high, "log": axis.log, "choices": list(axis.encoded),
            "when": axis.condition}  # fmt: skip


def _confirmed(c: Confirmed) -> dict[str, Any]:
    with_baseline = c.comparison
    return {
        "number": c.trial.number, "is_baseline": with_baseline is None, "changes": c.trial.changes,
        "study_value": c.trial.value, "fresh_value": c.fresh, "chosen": c.is_chosen,
        "difference": with_baseline.difference if with_baseline else None,
        "low": with_baseline.low if with_baseline else None,
        "high": with_baseline.high if with_baseline else None,
    }  # fmt: skip


def write_tuned(work: Work, study: Study, outcome: Outcome, chosen: Confirmed, before: Mapping[str, Any]) -> Path:
    """`experiments/NAME-tuned.yaml`; another name where that file is not the one that an earlier search wrote.

    before: figures of that search, with the file's name and hash. Nobody's own file is ever replaced.
    """
    own = Path(work.experiment)  # as `load` finds it
    own = (own if own.is_file() else ROOT / own).absolute()
    overrides = [text for text in work.overrides if not text.strip().startswith("tune.")]
    data = differences(own, overrides, chosen.trial.changes)
    place = _place(own, before, study)
    text = _header(work, study, outcome, chosen, shown(place)) + yaml.safe_dump(
        {"base": own.name, **data}, sort_keys=False
    )
    draft = own.with_name(f"{place.stem}-{os.getpid()}.tmp")  # beside it, as `base:` is relative
    try:
        draft.write_text(text, encoding="utf-8")
        meant = searched(load(draft)[0])
    finally:
        draft.unlink(missing_ok=True)
    if meant != chosen.trial.identity:
        raise Stopped(f"{shown(place)} would not mean what trial {chosen.trial.number} was, so it is not written; its "
                      f"settings: {in_words(chosen.trial.changes)}")  # fmt: skip
    study.note("tuned", {"file": shown(place), "sha256": hashlib.sha256(text.encode()).hexdigest()})
    with atomic(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return place


def _place(own: Path, before: Mapping[str, Any], study: Study) -> Path:
    noted = (before, study.noted().get("tuned", {}))  # a kill may have come before the receipt
    number = 1
    while True:
        place = own.with_name(f"{own.stem}-tuned{'' if number == 1 else f'-{number}'}.yaml")
        if not place.exists() or {"file": shown(place), "sha256": receipts.sha256(place)} in noted:
            return place
        number += 1


def _header(work: Work, study: Study, outcome: Outcome, chosen: Confirmed, place: str) -> str:
    """Hypothesis, command, minutes and score, as every experiment opens; and where it comes from."""
    c = chosen.comparison
    assert c is not None
    metric, base = work.competition.metric, work.experiment or work.name
    gain = f"{metric} {c.difference:+.4f} (95 % interval {c.low:+.4f} to {c.high:+.4f})"
    told = "better by more than noise" if chosen.is_better else "NOT better by more than noise, written on request"
    folds = "other folds" if work.settings.tune.confirm.folds == "fresh" else "the same folds"
    n = len(outcome.confirmed) - 1
    minutes = chosen.trial.seconds / 60
    lines = [
        f"Hypothesis: a search found settings that are {told} than {base}: {gain}.",
        f"Command:    make train EXP={place}",
        f"Minutes:    {minutes:.1f} (as a trial)" if minutes else "Minutes:    as the experiment it builds on",
        f"Score:      {metric} {c.score_b:.4f} out of fold against {c.score_a:.4f}, both on {folds} and by fresh seeds",
        f"From:       study {study.about.name}, trial {chosen.trial.number} of {len(study.trials)}, the best of {n} by "
        f"fresh seeds ({', '.join(map(str, outcome.seeds))})",
    ]  # fmt: skip
    return "".join(f"# {line}\n" for line in lines)
