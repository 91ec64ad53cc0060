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
from scipy.stats import rankdata, wilcoxon

from pipeline.config.tuning import Prune

MAX_COUNTED = 12  # pairs whose signs are counted out
MIN_KNOWN = 4  # folds of earlier trials, before they say how much ground is made up, or how far folds lie apart


@dataclass(eq=False)
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
    finals: dict[int, float] = field(default_factory=dict)  # their scores by the weights that were kept
    seconds: float = 0.0
    is_baseline: bool = False
    inherited: str = ""  # name of the study that trained it
    driver: str = ""

    def final(self, fold: int) -> float:
        """Of a whole fold: by the weights that were kept, which need not be the last epoch's."""
        return self.finals.get(fold, self.curves[fold][-1])

    @property
    def n_trained(self) -> int:
        """Epochs, over all folds."""
        return sum(map(len, self.curves.values()))


def behind_within(trial: Trial, others: Sequence[Trial], best: Trial, rule: Prune, sign: int) -> str:
    """Why the trial is given up at the last epoch of its curves; empty: it goes on.

    Earlier trials say how much ground is usually made up from this epoch to a fold's last (mean and spread), and how
    far the folds of one trial lie apart. Given up is what would have to be luckier than that by `margin` standard
    deviations to draw level with the best trial. So late risers get the time that late risers were seen to need.
    """
    if rule.levels not in ("both", "epochs"):
        return ""
    spread = fold_spread([other for other in others if other is not trial], best, sign)
    if spread is None:
        return ""
    ahead, variance, at = [], 0.0, ""
    for fold, curve in trial.curves.items():
        is_whole = fold in trial.done
        lead = _final_lead(trial, fold, best, sign) if is_whole else _lead(trial, fold, len(curve), best, sign)
        if lead is None:
            continue
        gain, doubt = (0.0, 0.0)
        if not is_whole and len(curve) < trial.n_epochs:
            known = _comebacks(others, trial, len(curve), best, sign)
            if len(curve) < rule.min_epochs or len(known) < MIN_KNOWN:
                return ""
            gain, doubt = float(np.mean(known)), float(np.var(known, ddof=1))
        ahead.append(lead + gain)
        variance += doubt + spread**2
        at = f"fold {fold}, epoch {len(curve)}"
    if not ahead:
        return ""
    expected, sd = float(np.mean(ahead)), math.sqrt(variance) / len(ahead)
    if expected + rule.margin * sd >= 0:
        return ""
    far = f", {-expected / sd:.1f} standard deviations" if sd else ""
    return f"{at}: would end {-expected:.4f} behind trial {best.number}{far}"


def fold_spread(trials: Sequence[Trial], best: Trial, sign: int) -> float | None:
    """Standard deviation of a trial's leads over the best one from fold to fold, over all trials; None: too few."""
    squares, freedom = 0.0, 0
    for trial in trials:
        leads = [_final_lead(trial, fold, best, sign) for fold in sorted(trial.done)]
        known = [lead for lead in leads if lead is not None]
        if trial is not best and len(known) >= 2:
            squares += float(np.var(known)) * len(known)
            freedom += len(known) - 1
    return math.sqrt(squares / freedom) if freedom >= MIN_KNOWN else None


def behind_across(trial: Trial, best: Trial, rule: Prune, sign: int) -> str:
    """Why the trial is given up between two folds; empty: it goes on.

    Wilcoxon's signed-rank test of the folds' own scores against the best trial's (Optuna's WilcoxonPruner has the same
    test); never before two folds, and never where the mean is not behind.
    """
    folds = sorted(trial.done & best.done)
    if rule.levels not in ("both", "folds") or len(folds) < 2 or trial is best:
        return ""
    ahead = sign * np.array([trial.final(fold) - best.final(fold) for fold in folds])
    if not ahead.any() or ahead.mean() >= 0:
        return ""
    p = signed_rank_p(ahead)
    if p > rule.p:
        return ""
    return f"after {len(folds)} folds: behind trial {best.number} by {-ahead.mean():.4f} (Wilcoxon p {p:.2f})"


def signed_rank_p(differences: np.ndarray) -> float:
    """One-sided: how likely ranks of what is ahead that sum to as little are, if each sign is as likely as the other.

    By counting all signs, ties included, which scipy's own exact tables do not know; by scipy for more than 12 pairs.
    """
    told = differences[differences != 0]
    if len(told) > MAX_COUNTED:
        return float(wilcoxon(told, alternative="less").pvalue)
    ranks = rankdata(abs(told))
    signs = np.arange(2 ** len(told))[:, None] >> np.arange(len(told)) & 1  # (2^n, n), every combination once
    return float(np.mean(signs @ ranks <= ranks[told > 0].sum()))


def estimate(trial: Trial, best: Trial | None, sign: int) -> float | None:
    """What a trial would come to: the best one's value and the mean lead over it, fold by fold at the same epoch."""
    if trial.value is not None:
        return trial.value
    if best is None or best.value is None:
        return None
    leads = [_final_lead(trial, fold, best, sign) if fold in trial.done else _lead(trial, fold, len(curve), best, sign)
             for fold, curve in trial.curves.items() if curve]  # fmt: skip
    known = [lead for lead in leads if lead is not None]
    return best.value + sign * float(np.mean(known)) if known else None


def best_of(trials: Sequence[Trial], sign: int) -> Trial | None:
    """The finished trial with the best value; of equals the first."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    return max(finished, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)


def _comebacks(others: Sequence[Trial], trial: Trial, epoch: int, best: Trial, sign: int) -> list[float]:
    """How much of its lead each fold of each other trial gained between this epoch and its last."""
    found = []
    for other in others:
        if other in (trial, best) or other.n_epochs != trial.n_epochs:
            continue
        for fold in sorted(other.done):
            early, late = _lead(other, fold, epoch, best, sign), _final_lead(other, fold, best, sign)
            if early is not None and late is not None and len(other.curves[fold]) > epoch:
                found.append(late - early)
    return found


def _lead(trial: Trial, fold: int, epoch: int, best: Trial, sign: int) -> float | None:
    """Over the best trial at the same epoch of the same fold; None where one of them did not get there.

    Of trainings that are planned for other numbers of epochs, at the same share of them: a schedule's middle is no end.
    """
    curve, of_best = trial.curves[fold], best.curves.get(fold, ())
    there = max(round(epoch * best.n_epochs / trial.n_epochs), 1)
    return sign * (curve[epoch - 1] - of_best[there - 1]) if len(curve) >= epoch and len(of_best) >= there else None


def _final_lead(trial: Trial, fold: int, best: Trial, sign: int) -> float | None:
    """Of whole folds, by the weights that were kept."""
    return sign * (trial.final(fold) - best.final(fold)) if fold in trial.done and fold in best.done else None
