"""Scores, always from whole arrays: targets and outputs of every row that counts.

No metric here can be fed a batch at a time, because a mean of batch scores is another number: macro F1 averaged over
batches of 32 is off by about 0.03 on 18 classes and moves with the batch size.

targets: (N,) class indices; multilabel (N, C) of 0 and 1; regression (N,) numbers. outputs: (N, C) probabilities;
regression (N, 1). Each metric is a function of a weight per row, so that the score (all weights 1) and its bootstrap
(how often each row was drawn) are one piece of code. The tests judge every one of them by scikit-learn.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from pipeline.config.metric import Metric, by_scale, parse_metric

Weighted = Callable[[np.ndarray], float]  # (N,) weights of the rows -> score
NO_GUESS = -np.inf  # output of a class that a cell does not name: no place among the best is its


def score(metric: str | Metric, targets: np.ndarray, outputs: np.ndarray, kind: str = "class") -> float:
    """One number from all rows. kind: of target, as in `competition.target`."""
    return weighted(parse_metric(metric, kind), targets, outputs, kind)(np.ones(len(targets)))


def decisions(outputs: np.ndarray, kind: str) -> np.ndarray:
    """What is answered: (N,) class indices, (N, C) of 0 and 1 for multilabel, (N,) numbers for regression.

    Ordinal classes are answered by the median of their distribution: the mode may lie at the far end of the scale.
    """
    if kind == "multilabel":
        return (outputs > 0.5).astype(int)
    if kind == "regression":
        return outputs[:, 0]
    if kind == "ordinal":
        below = outputs.cumsum(axis=1)[:, :-1] < 0.5
        return below.sum(axis=1)
    return outputs.argmax(axis=1)


def weighted(metric: Metric, targets: np.ndarray, outputs: np.ndarray, kind: str) -> Weighted:
    """The score as a function of the rows' weights, with all that does not depend on them done once."""
    return judged(metric, outputs, kind)(targets)


def judged(metric: Metric, outputs: np.ndarray, kind: str) -> Callable[[np.ndarray], Weighted]:
    """`weighted` as a function of the targets: what the outputs alone decide is done once, for many targets."""
    outputs = as_in_cells(metric, outputs, kind)
    if metric.kind == "log_loss":
        return lambda targets: _log_loss(targets, outputs, kind)
    if metric.kind in ("auc", "mean_average_precision"):
        orders = [np.argsort(-outputs[:, c], kind="stable") for c in range(outputs.shape[1])]
        return lambda targets: _ranking(metric, targets, outputs, orders, kind)
    if metric.kind in ("top_#_accuracy", "map_at_#"):
        best = np.argsort(-outputs, axis=1, kind="stable")[:, : int(metric.number)]
        best = np.where(np.take_along_axis(outputs, best, axis=1) > NO_GUESS, best, outputs.shape[1])
        return lambda targets: _at_k(metric, targets, best, kind)
    answers = decisions(outputs, kind)
    values = np.array(metric.values or range(outputs.shape[1]), dtype=float)
    if by_scale(metric.name, kind) and len(metric.values) != outputs.shape[1]:
        raise ValueError(
            f"{metric} counts by values, has {len(metric.values)}, and there are {outputs.shape[1]} classes"
        )
    if kind == "ordinal" and metric.kind in ("rmse", "mae"):
        return lambda targets: _errors(metric, values[targets], values[answers])
    if metric.kind in ("rmse", "mae", "r2"):
        return lambda targets: _errors(metric, targets.astype(float), answers.astype(float))
    if kind == "multilabel":
        return lambda targets: _multilabel(metric, targets.astype(bool), answers.astype(bool))
    return lambda targets: _from_confusion(metric, targets, answers, values)


def as_in_cells(metric: Metric, outputs: np.ndarray, kind: str) -> np.ndarray:
    """(N, C) float64: what a submission's cells keep of the outputs, as `Metric.hard` and `Metric.positive` say."""
    outputs = outputs.astype(np.float64, copy=False)
    if metric.hard:
        answers = decisions(outputs, kind)
        held = answers == 1 if answers.ndim == 2 else np.eye(outputs.shape[1], dtype=bool)[answers]
        return np.where(held, 1.0, NO_GUESS if metric.judges == "best" else 0.0)
    if metric.positive is not None and metric.judges == "probabilities":
        p = of_positive(outputs, metric.positive).astype(np.float64)
        return np.stack([1 - p, p] if metric.positive else [p, 1 - p], axis=1)
    return outputs


def of_positive(outputs: np.ndarray, place: int) -> np.ndarray:
    """(N,) float32, the probability of one of two classes, as a cell holds it."""
    return (outputs[:, place] / outputs.sum(axis=1)).astype(np.float32)


def _from_confusion(metric: Metric, targets: np.ndarray, answers: np.ndarray, values: np.ndarray) -> Weighted:
    """What a (C, C) table of counts, targets in rows, is enough for: 30 to 90 times as fast as scikit-learn's calls.

    values: (C,) of the classes on their scale.
    """
    n_classes = len(values)
    if metric.kind != "quadratic_kappa":  # the margins are enough, and grow with the classes, not with their square
        right = np.where(targets == answers, answers, n_classes)

        def of_margins(weights: np.ndarray) -> float:
            counts = [np.bincount(of, weights, n_classes + 1)[:n_classes] for of in (right, targets, answers)]
            return from_margins(metric, *counts)

        return of_margins
    cells = targets * n_classes + answers
    distances = (values[:, None] - values) ** 2

    def value(weights: np.ndarray) -> float:
        confusion = np.bincount(cells, weights=weights, minlength=n_classes**2).reshape(n_classes, n_classes)
        true, answered = confusion.sum(axis=1), confusion.sum(axis=0)
        by_chance = (distances * np.outer(true, answered)).sum() / confusion.sum()
        return float(1 - (distances * confusion).sum() / by_chance) if by_chance else 1.0

    return value


def from_margins(metric: Metric, hits: np.ndarray, true: np.ndarray, answered: np.ndarray) -> float:
    """Accuracy, balanced accuracy or F, from counts a class: (C,) right answers, rows of the class, answers."""
    if metric.kind == "accuracy":
        return float(hits.sum() / true.sum())
    if metric.kind == "balanced_accuracy":
        return float((hits[true > 0] / true[true > 0]).mean())
    return _f_beta(metric, hits, true, answered)


def _f_beta(metric: Metric, hits: np.ndarray, true: np.ndarray, answered: np.ndarray) -> float:
    """From counts a class: (C,) right answers, rows of the class, answers. Averaged over the classes that occur."""
    square = metric.number**2
    if metric.average == "micro":
        hits, true, answered = hits.sum(keepdims=True), true.sum(keepdims=True), answered.sum(keepdims=True)
    occurs = true + answered > 0
    if not occurs.any():
        return 0.0
    values = (1 + square) * hits[occurs] / (square * true[occurs] + answered[occurs])
    return float(np.average(values, weights=true[occurs] if metric.average == "weighted" and true.any() else None))


def _multilabel(metric: Metric, truth: np.ndarray, answers: np.ndarray) -> Weighted:
    """truth, answers: (N, C) booleans."""
    right = (truth == answers).all(axis=1).astype(float)
    tables = [table.astype(float) for table in (truth & answers, truth, answers)]
    if metric.kind == "accuracy":
        return lambda weights: float(weights @ right / weights.sum())

    return lambda weights: from_label_counts(metric, *(weights @ table for table in tables))


def from_label_counts(metric: Metric, hits: np.ndarray, true: np.ndarray, answered: np.ndarray) -> float:
    """F of several labels a row, from (C,) counts. scikit-learn counts a label that nobody has or gets as 0."""
    occurs = true + answered > 0
    if metric.average == "macro" and not occurs.all():
        return _f_beta(metric, hits, true, answered) * float(occurs.mean())
    return _f_beta(metric, hits, true, answered)


def _errors(metric: Metric, targets: np.ndarray, answers: np.ndarray) -> Weighted:
    error = np.abs(targets - answers)

    def value(weights: np.ndarray) -> float:
        if metric.kind == "mae":
            return float(np.average(error, weights=weights))
        square = float(np.average(error**2, weights=weights))
        if metric.kind == "rmse":
            return square**0.5
        mean = np.average(targets, weights=weights)
        variance = float(np.average((targets - mean) ** 2, weights=weights))
        return 1 - square / variance if variance else float(not square)

    return value


def _log_loss(targets: np.ndarray, outputs: np.ndarray, kind: str) -> Weighted:
    """Mean over rows (and labels) of -log of what the truth was given; clipped as in scikit-learn."""
    tiny = float(np.finfo(np.float64).eps)
    if kind == "multilabel":
        p = outputs.clip(tiny, 1 - tiny)
        rows = -np.log(np.where(targets.astype(bool), p, 1 - p)).mean(axis=1)
    else:
        rows = -np.log((outputs[np.arange(len(targets)), targets] / outputs.sum(axis=1)).clip(tiny, 1 - tiny))
    return lambda weights: float(np.average(rows, weights=weights))


def _at_k(metric: Metric, targets: np.ndarray, best: np.ndarray, kind: str) -> Weighted:
    """Of the k most probable classes: is the truth among them (top-k), and how far up (mean average precision at k).

    best: (N, k) their indices, the most probable first; C where a cell names none, which is a miss.
    """
    k = best.shape[1]
    if kind == "multilabel":
        hit = np.take_along_axis(np.pad(targets.astype(bool), ((0, 0), (0, 1))), best, axis=1)
        possible = targets.astype(bool).sum(axis=1)
    else:
        hit, possible = best == targets[:, None], np.ones(len(targets), int)
    if metric.kind == "top_#_accuracy":
        rows = hit.any(axis=1).astype(float)
    else:
        precision = hit.cumsum(axis=1) / np.arange(1, k + 1)
        rows = (precision * hit).sum(axis=1) / np.minimum(np.maximum(possible, 1), k)
    return lambda weights: float(np.average(rows, weights=weights))


def _ranking(
    metric: Metric, targets: np.ndarray, outputs: np.ndarray, orders: list[np.ndarray], kind: str
) -> Weighted:  # fmt: skip
    """Macro mean of the area under the ROC curve, or of the average precision, of each class against the rest.

    The area is over the classes that have both members and others, and one half where there is none. As in
    scikit-learn, the precision of a label that no row has is 0, and of one that every row has 1; of a class that does
    not occur it does not count, since classes, unlike labels, are drawn from a set that a fold may not hold whole.
    orders: for each class its rows, the most probable first.
    """
    truth = targets.astype(bool) if kind == "multilabel" else targets[:, None] == np.arange(outputs.shape[1])
    sorted_ = [outputs[order, c] for c, order in enumerate(orders)]
    ends = [np.append(np.flatnonzero(np.diff(values)), len(values) - 1) for values in sorted_]  # ties count together

    # one column holds no order of the other class
    counted = range(truth.shape[1]) if metric.positive is None else [metric.positive]

    def of_class(c: int, weights: np.ndarray) -> float:
        of_row = weights[orders[c]]
        members = truth[orders[c], c]
        hits = np.cumsum(of_row * members)[ends[c]]
        misses = np.cumsum(of_row * ~members)[ends[c]]
        if not hits[-1]:
            return 0.0 if metric.kind == "mean_average_precision" and kind == "multilabel" else np.nan
        if metric.kind == "auc":
            if not misses[-1]:
                return np.nan
            return float(np.trapezoid(np.append(0, hits), np.append(0, misses)) / hits[-1] / misses[-1])
        precision = hits / np.maximum(hits + misses, np.finfo(float).tiny)
        return float((np.diff(np.append(0, hits)) * precision).sum() / hits[-1])

    def value(weights: np.ndarray) -> float:
        values = np.array([of_class(c, weights) for c in counted])
        return float(np.nanmean(values)) if not np.isnan(values).all() else 0.5 * (metric.kind == "auc")

    return value


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def bootstrap_interval(
    metric: str | Metric,
    targets: np.ndarray,
    outputs: np.ndarray,
    units: np.ndarray,
    kind: str = "class",
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """95 % percentile interval of `score` under resampling of whole units.

    Rows of one unit (seven photos of one person) err together, so resampling rows would make the interval too
    narrow. Method: the cluster bootstrap, Davison & Hinkley 1997, section 3.8. units: (N,) int, of `grouping.units`.
    """
    value = weighted(parse_metric(metric, kind), targets, outputs, kind)
    scores = [value(weights) for weights in resamples(units, n_resamples, seed)]
    low, high = np.quantile(scores, [0.025, 0.975])
    return Interval(float(low), float(high))


def resamples(units: np.ndarray, n_resamples: int, seed: int) -> Generator[np.ndarray]:
    """(N,) weights of the rows, `n_resamples` times: how often each one's unit was drawn. units: (N,) int."""
    _, members = np.unique(units, return_inverse=True)
    n_units = members.max() + 1
    rng = np.random.default_rng(seed)
    for _ in range(n_resamples):
        times_drawn = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)
        yield times_drawn[members].astype(float)
