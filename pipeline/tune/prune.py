"""When a trial is given up, and what it would have come to: pure functions of curves, with no store and no clock.

Scores here are the competition's, as they are; `sign` is -1 where less is better. All comparisons are made in pairs,
fold by fold and epoch by epoch, with the best finished trial: folds differ from each other much more than settings
do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from pipeline.config.tuning import Prune

MIN_OTHERS = 4  # trials to be compared with: a third of three is one


@dataclass
class Trial:
    """One setting and what is known of it. curves: scores by epoch of each fold, in the order they were trained."""

    number: int
    raw: dict[str, Any]  # by axis, as the store has it
    changes: dict[str, Any]  # by dotted key, as a file would have it
    identity: str  # of the whole settings (`space.searched`)
    n_epochs: int  # of one fold, as planned
    order: tuple[int, ...]  # of the folds
    state: str = "running"  # running, finished, pruned or failed
    why: str = ""
    value: float | None = None  # of all out-of-fold rows; of a finished one
    curves: dict[int, list[float]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)  # folds that were trained to their end
    seconds: float = 0.0
    is_baseline: bool = False
    inherited: str = ""  # name of the study that trained it
    driver: str = ""

    @property
    def n_trained(self) -> int:
        """Epochs, over all folds."""
        return sum(map(len, self.curves.values()))


def behind_within(trial: Trial, fold: int, others: Sequence[Trial], best: Trial, rule: Prune, sign: int) -> str:
    """Why the trial is given up at the last epoch of its curve on `fold`; empty: it goes on.

    Successive halving's question (Jamieson & Talwalkar 2016, arXiv 1502.07943), asked at every epoch: is it among the
    best `keep` of all that came so far, those counted that fell before?
    """
    epoch = len(trial.curves[fold])
    if rule.levels not in ("both", "epochs") or epoch < rule.min_epochs:
        return ""
    own = _lead(trial, epoch, best, sign)
    levels = [_lead(other, epoch, best, sign) for other in others if _counts(other, epoch) and other is not trial]
    if own is None or len(levels) < MIN_OTHERS:
        return ""
    n_better = sum(level is not None and level > own for level in levels)
    if n_better < rule.keep * (len(levels) + 1):
        return ""
    return f"fold {fold}, epoch {epoch}: behind {n_better} of {len(levels)} trials at the same epoch"


def behind_across(trial: Trial, best: Trial, rule: Prune, sign: int) -> str:
    """Why the trial is given up between two folds; empty: it goes on.

    Wilcoxon's signed-rank test of the folds' own scores against the best trial's (Optuna's WilcoxonPruner has the same
    test); never before two folds, and never where the mean is not behind.
    """
    folds = sorted(trial.done & best.done)
    if rule.levels not in ("both", "folds") or len(folds) < 2 or trial is best:
        return ""
    ahead = sign * np.array([trial.curves[fold][-1] - best.curves[fold][-1] for fold in folds])
    if not ahead.any() or ahead.mean() >= 0:
        return ""
    p = float(wilcoxon(ahead[ahead != 0], alternative="less", method="exact").pvalue)
    if p > rule.p:
        return ""
    return f"after {len(folds)} folds: behind trial {best.number} by {-ahead.mean():.4f} (Wilcoxon p {p:.2f})"


def estimate(trial: Trial, best: Trial | None, sign: int) -> float | None:
    """What a trial would come to: the best one's value and the mean lead over it, fold by fold at the same epoch."""
    if trial.value is not None:
        return trial.value
    if best is None or best.value is None:
        return None
    leads = [sign * (curve[-1] - best.curves[fold][len(curve) - 1]) for fold, curve in trial.curves.items()
             if curve and len(best.curves.get(fold, ())) >= len(curve)]  # fmt: skip
    return best.value + sign * float(np.mean(leads)) if leads else None


def best_of(trials: Sequence[Trial], sign: int) -> Trial | None:
    """The finished trial with the best value; of equals the first."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    return max(finished, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)


def _counts(other: Trial, epoch: int) -> bool:
    """Whether a trial says something of this epoch: it got there, or fell before."""
    reached = any(len(curve) >= epoch for curve in other.curves.values())
    return reached or other.state == "pruned" or (other.state == "failed" and bool(other.curves))


def _lead(trial: Trial, epoch: int, best: Trial, sign: int) -> float | None:
    """Mean over the folds that reached the epoch of the lead over the best trial there; None: none did."""
    leads = [sign * (curve[epoch - 1] - best.curves[fold][epoch - 1]) for fold, curve in trial.curves.items()
             if len(curve) >= epoch and len(best.curves.get(fold, ())) >= epoch]  # fmt: skip
    return float(np.mean(leads)) if leads and math.isfinite(sum(leads)) else None
