"""Scores, always from whole arrays: targets (N,) and probabilities (N, C) of every row that counts.

No metric here can be fed a batch at a time, because a mean of batch scores is another number: macro F1 averaged over
batches of 32 is off by about 0.03 on 18 classes and moves with the batch size.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

GREATER_IS_BETTER = {"macro_f1": True, "accuracy": True}


def score(metric: str, targets: np.ndarray, probs: np.ndarray) -> float:
    """One number from all rows. targets (N,) class indices, probs (N, C)."""
    predictions = probs.argmax(axis=1)
    if metric == "macro_f1":
        return float(f1_score(targets, predictions, average="macro", zero_division=0))
    if metric == "accuracy":
        return float(accuracy_score(targets, predictions))
    raise ValueError(f"metric {metric!r}; valid: {', '.join(GREATER_IS_BETTER)}")


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def bootstrap_interval(
    metric: str,
    targets: np.ndarray,
    probs: np.ndarray,
    groups: np.ndarray | None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """95 % percentile interval of `score` under resampling of whole groups (of rows where `groups` is None).

    Rows of one group (seven photos of one person) err together, so resampling rows would make the interval too
    narrow. Method: the cluster bootstrap, Davison & Hinkley 1997, section 3.8. groups: (N,) any labels.
    """
    n = len(targets)
    _, members = np.unique(groups if groups is not None else np.arange(n), return_inverse=True)
    n_groups = members.max() + 1
    n_classes = probs.shape[1]
    cells = targets * n_classes + probs.argmax(axis=1)  # each row's cell in the confusion matrix
    rng = np.random.default_rng(seed)
    scores = np.empty(n_resamples)
    for i in range(n_resamples):
        times_drawn = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        confusion = np.bincount(cells, weights=times_drawn[members], minlength=n_classes**2).reshape(
            n_classes, n_classes
        )
        scores[i] = _from_confusion(metric, confusion)
    low, high = np.quantile(scores, [0.025, 0.975])
    return Interval(float(low), float(high))


def _from_confusion(metric: str, confusion: np.ndarray) -> float:
    """The same score from a (C, C) table of counts, targets in rows: 30 to 90 times as fast as scikit-learn's call.

    Like scikit-learn, macro F1 is the mean over the classes that occur among targets or predictions.
    """
    hits = np.diag(confusion)
    if metric == "accuracy":
        return float(hits.sum() / confusion.sum())
    occurrences = confusion.sum(axis=0) + confusion.sum(axis=1)
    occurring = occurrences > 0
    return float((2 * hits[occurring] / occurrences[occurring]).mean())
