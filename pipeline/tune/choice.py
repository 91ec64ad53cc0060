"""The honest choice: which of the best few trials to take, if any, and how lucky the best one was.

In: out-of-fold tables of the best few and of the baseline, all trained again by seeds that the search never saw. Out:
a choice with intervals, in words. The best of many trials is partly the luckiest of them; by fresh seeds its luck is
drawn anew, and compared in pairs on the same rows and folds the luck of the split falls on both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import t as student

from pipeline.compare import Comparison, compare
from pipeline.config.metric import Metric
from pipeline.tune.prune import Trial

LEVEL = 0.95  # of all intervals together (Bonferroni)


@dataclass(frozen=True)
class Confirmed:
    """One setting that was trained again. comparison: with the baseline; None of the baseline itself."""

    trial: Trial
    fresh: float
    comparison: Comparison | None
    is_chosen: bool = False

    @property
    def is_better(self) -> bool:
        return self.comparison is not None and self.comparison.low > 0


def candidates(trials: Sequence[Trial], top: int, sign: int) -> list[Trial]:
    """The best finished trials, the best first; without the baseline."""
    finished = [t for t in trials if t.state == "finished" and t.value is not None and not t.is_baseline]
    return sorted(finished, key=lambda t: (-sign * (t.value or 0.0), t.number))[:top]


def choose(
    baseline: tuple[Trial, pd.DataFrame],
    others: Sequence[tuple[Trial, pd.DataFrame]],
    group_of: Mapping[str, str],
    metric: str | Metric,
    kind: str,
    sign: int,
) -> list[Confirmed]:
    """The baseline, then the others, of which the best by fresh seeds is the chosen one, whether or not it is better.

    Intervals are of the difference from the baseline, at a level that holds for all at once, since one is picked. They
    hold two kinds of luck: which rows there are (resampled by groups), and how the same settings come out by another
    seed, which on few rows and few epochs is the larger one.
    """
    level = 1 - (1 - LEVEL) / max(len(others), 1)
    compared = [(t, compare(baseline[1], oof, group_of, metric, kind, level=level)) for t, oof in others]
    if not compared:
        return []
    noise, freedom = seed_noise(baseline[0], compared, sign)
    reach = float(student.ppf((1 + level) / 2, freedom)) * noise
    results = [(t, _widened(c, reach / math.sqrt(len(c.by_fold)))) for t, c in compared]
    best = max(range(len(results)), key=lambda i: (sign * results[i][1].score_b, -i))
    return [Confirmed(baseline[0], results[0][1].score_a, None)] + [
        Confirmed(trial, comparison.score_b, comparison, i == best) for i, (trial, comparison) in enumerate(results)
    ]


def seed_noise(baseline: Trial, compared: Sequence[tuple[Trial, Comparison]], sign: int) -> tuple[float, int]:
    """(standard deviation of one fold's difference from the baseline from seed to seed, its degrees of freedom)

    From the search's seed and the fresh ones, fold by fold, over all that were trained again; two draws differ by twice
    the variance of one. Where the choice is made on other folds, their rows differ as well, and the interval is rather
    too wide than too narrow.
    """
    squares = [
        (sign * (trial.final(fold) - baseline.final(fold)) - fresh) ** 2 / 2
        for trial, comparison in compared
        for fold, fresh in comparison.by_fold.items()
        if trial.curves.get(fold) and baseline.curves.get(fold)
    ]
    return (math.sqrt(sum(squares) / len(squares)), len(squares)) if squares else (0.0, 1)


def _widened(c: Comparison, reach: float) -> Comparison:
    """With an independent error of so much added to either side."""
    low, high = (c.difference - math.hypot(c.difference - c.low, reach), c.difference + math.hypot(
        c.high - c.difference, reach))  # fmt: skip
    return replace(c, low=low, high=high)


def verdict(confirmed: Sequence[Confirmed], metric: str, experiment: str, fresh_folds: bool) -> list[str]:
    """What came of it, in words; the first line is the answer."""
    chosen = next((c for c in confirmed if c.is_chosen), None)
    if chosen is None or chosen.comparison is None:
        return ["nothing to choose from: no trial but the experiment itself was trained on all folds"]
    c, n = chosen.comparison, len(confirmed) - 1
    where = "other folds and seeds" if fresh_folds else "the same folds and fresh seeds"
    numbers = f"{metric} {c.score_b:.4f} against {c.score_a:.4f} of {experiment}, on {where}"
    interval = f"{c.difference:+.4f} (95 % interval {c.low:+.4f} to {c.high:+.4f}"
    interval += f", for the best of {n} at once)" if n > 1 else ")"
    if chosen.is_better:
        n_for = sum(value > 0 for value in c.by_fold.values())
        return [f"trial {chosen.trial.number} is better by more than noise: {interval}",
                f"{numbers}; ahead in {n_for} of {len(c.by_fold)} folds"]  # fmt: skip
    needed = (c.high - c.low) / 2
    return [f"nothing beyond noise: trial {chosen.trial.number} comes to {interval}", numbers,
            f"on these rows a difference below about {needed:.4f} cannot be told from luck"]  # fmt: skip


def optimism(confirmed: Sequence[Confirmed], sign: int) -> str:
    """By how much the study's best flatters itself; empty where nothing was trained again."""
    others = [c for c in confirmed if c.comparison is not None and c.trial.value is not None]
    if not others:
        return ""
    gaps = [sign * ((c.trial.value or 0.0) - c.fresh) for c in others]
    naive = max(others, key=lambda c: sign * (c.trial.value or 0.0))
    gap = gaps[others.index(naive)]
    told = (f"The study's best, trial {naive.trial.number}, showed {naive.trial.value:.4f}; trained again it comes to "
            f"{naive.fresh:.4f}, so taken at its word it would look {gap:+.4f} better than it is")  # fmt: skip
    return told + (f" (mean of the best {len(others)}: {np.mean(gaps):+.4f})." if len(others) > 1 else ".")
