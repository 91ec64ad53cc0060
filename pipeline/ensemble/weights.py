"""Weights of several runs, fitted on out-of-fold rows.

In: what `combine.spread` gave for each run, and the targets of the same rows. Out: weights of 0 or more that sum to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from pipeline.config.metric import Metric, parse_metric
from pipeline.ensemble.combine import Average, mixed, settled
from pipeline.metrics import resamples, weighted

BAGS = 10  # of greedy selection, whose weights are averaged
PICKS = 20  # at most, in one bag
MANY = 20  # runs, from which on a bag draws half of them, as in the paper


@dataclass(frozen=True)
class Rows:
    """Out-of-fold rows: what they are, and what each run says of them."""

    members: list[np.ndarray]  # (N, C) each, as `combine.spread` gave them
    targets: np.ndarray
    units: np.ndarray  # (N,) int, of `grouping.units`: what is resampled as one
    metric: str | Metric
    kind: str
    average: Average

    def of(self, rows: np.ndarray) -> "Rows":
        """Some of them; rows: booleans or indices."""
        members = [member[rows] for member in self.members]
        return replace(self, members=members, targets=self.targets[rows], units=self.units[rows])

    def outputs(self, weights: Sequence[float] | np.ndarray) -> np.ndarray:
        """(N, C) of the blend."""
        return settled(mixed(self.members, weights), self.average, self.kind)


Fit = Callable[[Rows], np.ndarray]


def equal(rows: Rows) -> np.ndarray:
    """One as much as another: the reference."""
    return np.full(len(rows.members), 1 / len(rows.members))


def greedy(rows: Rows, seed: int = 0) -> np.ndarray:
    """Selection with replacement by the competition's own metric, bagged: Caruana et al. 2004, ICML, sections 2.1-2.3.

    Each bag adds, one by one, the run that makes the mean best, begins with the best one, and keeps the selection at
    its best. A bag sees a resample of the units; of `MANY` runs or more it may choose among a random half. (The paper
    bags runs alone, of which it has thousands; half of five would hide the best from every other bag.)
    """
    metric, n = parse_metric(rows.metric, rows.kind), len(rows.members)
    sign = 1 if metric.greater_is_better else -1
    rng = np.random.default_rng(seed)
    total = np.zeros(n)
    for times in resamples(rows.units, BAGS, seed):
        allowed = np.sort(rng.permutation(n)[: (n + 1) // 2]) if n >= MANY else np.arange(n)
        counts, best, best_counts = np.zeros(n), -np.inf, np.zeros(n)
        mean = np.zeros_like(rows.members[0])
        for picked in range(PICKS):
            scores = []
            for i in allowed:
                outputs = settled((mean * picked + rows.members[i]) / (picked + 1), rows.average, rows.kind)
                scores.append(sign * weighted(metric, rows.targets, outputs, rows.kind)(times))
            taken = allowed[int(np.argmax(scores))]
            mean = (mean * picked + rows.members[taken]) / (picked + 1)
            counts[taken] += 1
            if max(scores) > best:
                best, best_counts = max(scores), counts.copy()
        total += best_counts / best_counts.sum()
    return total / total.sum()


def simplex(rows: Rows) -> np.ndarray:
    """Weights of the least loss among all that are 0 or more and sum to 1, by sequential quadratic programming.

    The loss is smooth where metrics are not: the log-loss (of squared errors for numbers), with every class counting
    alike where the metric's classes do. It is convex in the weights for means of probabilities and of logits.
    """
    n = len(rows.members)
    if n == 1:
        return np.ones(1)
    stack, of_row = np.stack(rows.members), _row_weights(rows)

    def loss(weights: np.ndarray) -> float:
        return float(of_row @ _losses(np.tensordot(weights, stack, axes=1), rows))

    found = minimize(loss, equal(rows), method="SLSQP", bounds=[(0, 1)] * n,
                     constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
                     options={"ftol": 1e-8, "maxiter": 200})  # fmt: skip
    weights = np.where(found.x < 1e-4, 0, found.x)
    # SLSQP may stop where it cannot go on; what it found must at least not be worse than where it began
    good = np.isfinite(weights).all() and weights.sum() > 0 and found.fun <= loss(equal(rows))
    return weights / weights.sum() if good else equal(rows)


def _row_weights(rows: Rows) -> np.ndarray:
    """(N,), sum 1: each row alike, or each class where the metric takes classes alike."""
    n = len(rows.targets)
    metric = parse_metric(rows.metric, rows.kind)
    if rows.kind in ("class", "ordinal") and (metric.average == "macro" or metric.kind == "balanced_accuracy"):
        counts = np.bincount(rows.targets)
        each = 1 / counts[rows.targets]
        return each / each.sum()
    return np.full(n, 1 / n)


def _losses(mean: np.ndarray, rows: Rows) -> np.ndarray:
    """(N,) of a mean of members."""
    outputs = settled(mean, rows.average, rows.kind)
    if rows.kind == "regression":
        return (outputs[:, 0] - rows.targets) ** 2
    tiny = 1e-12
    if rows.kind == "multilabel":
        p = outputs.clip(tiny, 1 - tiny)
        return -np.where(rows.targets.astype(bool), np.log(p), np.log(1 - p)).mean(axis=1)
    p = outputs[np.arange(len(outputs)), rows.targets] / outputs.sum(axis=1)
    return -np.log(p.clip(tiny, None))


FITS: dict[str, Callable[[Rows, int], np.ndarray]] = {
    "equal": lambda rows, seed: equal(rows),
    "greedy": greedy,
    "simplex": lambda rows, seed: simplex(rows),
}
