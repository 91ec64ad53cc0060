"""How a tuning study, as plain data, is read by its page and its pictures: scores, orders, curves, scales of axes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

STATES = ("finished", "pruned", "running", "failed")  # in the order of the table


def worth(trial: Mapping[str, Any]) -> float:
    """Its score, of a pruned trial the estimate; NaN where it has none."""
    value = {"finished": trial["value"], "pruned": trial["estimate"]}.get(trial["state"])
    return float(value) if value is not None and math.isfinite(value) else math.nan


def ordered(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The finished trials, the best first, then the pruned ones by their estimates, then the rest."""
    sign = -1 if study["greater_is_better"] else 1

    def rank(trial: Mapping[str, Any]) -> tuple[int, float, int]:
        score = worth(trial)
        return STATES.index(trial["state"]), sign * score if math.isfinite(score) else math.inf, trial["number"]

    return sorted(study["trials"], key=rank)


def running_best(trials: Sequence[Mapping[str, Any]], greater_is_better: bool) -> np.ndarray:
    """(N,) the best finished score up to each trial; NaN before the first."""
    scores = np.array([worth(trial) if trial["state"] == "finished" else math.nan for trial in trials])
    return (np.fmax if greater_is_better else np.fmin).accumulate(scores)


def mean_curve(trial: Mapping[str, Any]) -> np.ndarray:
    """(epochs,) mean over the folds that reached the epoch; NaN where one of them has no number."""
    folds = [np.array(scores, dtype=float) for scores in trial["folds"].values()]
    longest = max(map(len, folds), default=0)
    table = [[fold[i] for fold in folds if len(fold) > i] for i in range(longest)]
    return np.array([np.mean(scores) if np.isfinite(scores).all() else math.nan for scores in table])


def baseline_score(study: Mapping[str, Any]) -> float:
    """NaN where the baseline has none."""
    return next((worth(t) for t in study["trials"] if t["is_baseline"] and t["state"] == "finished"), math.nan)


def window(study: Mapping[str, Any], values: np.ndarray) -> tuple[float, float]:
    """Ends of an axis for these scores and the baseline's; a few that are far worse, and would squeeze all others, are
    left outside."""
    finite = np.append(values, baseline_score(study))
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    low, lower, upper, high = np.quantile(finite, [0, 0.15, 0.85, 1])
    if study["greater_is_better"]:
        low = max(low, lower - 2 * (upper - lower))
    else:
        high = min(high, upper + 2 * (upper - lower))
    room = 0.06 * (high - low) or 0.01 * abs(high) or 0.01
    return float(low - room), float(high + room)


def shown(value: object) -> str:
    """A value of a parameter, as short as it may be and as an experiment file has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Scale:
    """Where values of a parameter stand between 0 and 1: on a line, on a log line, or side by side."""

    log: bool
    choices: tuple[str, ...]  # none of numbers
    low: float
    high: float

    def place(self, value: Any, number: int) -> float:
        """Of equal choices, trials stand a little apart, by their number: always the same way, no two of few alike."""
        if self.choices:
            return (self.choices.index(shown(value)) + 0.5 + 0.5 * (number * 0.618034 % 1 - 0.5)) / len(self.choices)
        low, high, value = (math.log(v) if self.log else float(v) for v in (self.low, self.high, value))
        return (value - low) / (high - low) if high != low else 0.5

    def ticks(self, n: int) -> list[tuple[float, str]]:
        """(place, text) of each choice, or of about n round numbers: 1, 2 and 5 of a decade where there is room."""
        if self.choices:
            return [((i + 0.5) / len(self.choices), choice) for i, choice in enumerate(self.choices)]
        low, high = sorted((self.low, self.high))
        if self.log:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            whole = [10.0**k for k in decades]
            fine = [v * m for v in whole for m in (1, 2, 5)]
            whole, fine = ([v for v in each if low / 1.001 <= v <= high * 1.001] for each in (whole, fine))
            values = (
                fine if 2 <= len(fine) <= n else whole[:: math.ceil(len(whole) / n)] if len(whole) > 1 else [low, high]
            )
        else:
            room = 1e-9 * (high - low)
            values = MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
            values = [v for v in values if low - room <= v <= high + room] or [low]
        return [(self.place(v, 0), f"{v:.4g}") for v in values]


def scale_of(spec: Mapping[str, Any], values: Sequence[Any]) -> Scale:
    """For all values of the range and the trials: a baseline or an inherited trial may lie outside of the range."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if spec["kind"] == "choice" or not numbers:
        known = [shown(value) for value in (*spec["choices"], *values)]
        return Scale(False, tuple(dict.fromkeys(known)), 0, 1)
    ends = [spec["low"], spec["high"], *values]
    return Scale(spec["log"] and min(ends) > 0, (), min(ends), max(ends))
