"""Which of the searched settings mattered: the share of the variance between trials that each explains by itself.

Functional ANOVA on a random forest (Hutter et al. 2014, ICML), as Optuna has it. Pruned trials count with what they
would have come to. A setting that only some trials have is judged among those, beside everything else that they have.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from pipeline.tune.prune import Trial, estimate
from pipeline.tune.space import Axis
from pipeline.tune.study import Study, distribution

MIN_TRIALS = 8


def importance(study: Study) -> list[dict[str, Any]]:
    """`param`, `share`, `among` whom, and of how many trials; the most important first. Empty for too few trials."""
    told = [(t, estimate(t, study.best, study.about.sign)) for t in study.trials if t.state in ("finished", "pruned")]
    known = [(trial, value) for trial, value in told if value is not None and trial.raw]
    found = []
    for condition in dict.fromkeys(axis.condition for axis in study.space.axes):
        wanted = [axis for axis in study.space.axes if axis.condition == condition]
        having = [(t, v) for t, v in known if all(axis.name in t.raw for axis in wanted)]
        if len(having) < MIN_TRIALS or len({value for _, value in having}) < 2:
            continue
        shared = [axis for axis in study.space.axes if all(axis.name in trial.raw for trial, _ in having)]
        varied = [axis for axis in shared if len({repr(trial.raw[axis.name]) for trial, _ in having}) > 1]
        shares = _shares(having, varied)
        among = f"trials with {condition}" if condition else "all trials"
        found += [{"param": axis.name, "share": shares[axis.name], "among": among, "n": len(having)}
                  for axis in wanted if axis.name in shares]  # fmt: skip
    return sorted(found, key=lambda entry: -entry["share"])


def _shares(having: list[tuple[Trial, float]], axes: list[Axis]) -> dict[str, float]:
    study = optuna.create_study()
    for trial, value in having:
        params = {axis.name: trial.raw[axis.name] for axis in axes}
        distributions = {axis.name: distribution(axis) for axis in axes}
        study.add_trial(create_trial(value=value, params=params, distributions=distributions))
    names = [axis.name for axis in axes]
    if not names:
        return {}
    shares = FanovaImportanceEvaluator(seed=0).evaluate(study, params=names)  # not made to add up to 1
    return {name: float(share) for name, share in shares.items()}
