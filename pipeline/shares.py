"""Does a submission look like the competition? Its classes' shares against those of training and of the one before.

A wrong order of labels or another preprocessing moves shares far; a warning that names the classes saves a day's try.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SURE = 4.0  # standard errors
FAR = 1.25  # times as many, or as few
MOVED = 0.02  # of all rows, between two submissions


@dataclass(frozen=True)
class Moved:
    """A class whose share is not what it was. shares: before, now."""

    label: str
    before: float
    now: float


def shares(answers: np.ndarray, n_classes: int) -> np.ndarray:
    """(C,) of answers (N,) class indices, or (N, C) of 0 and 1."""
    if answers.ndim == 2:
        return answers.mean(axis=0)
    return np.bincount(answers, minlength=n_classes) / max(len(answers), 1)


def unlike_training(
    labels: Sequence[str], expected: np.ndarray, of_test: np.ndarray, n_expected: float, n_test: float
) -> list[Moved]:
    """Classes that the test rows are answered with much more often, or less, than training gives reason for.

    expected: (C,) shares among the out-of-fold answers, or the training rows. n: how many independent looks each set is
    (units, not rows, where rows of one group come together). Told where the difference is above both `SURE` standard
    errors and a factor of `FAR`: with many rows anything is significant, and with few anything is large.
    """
    a, b = max(n_expected, 1), max(n_test, 1)
    pooled = (a * expected + b * of_test) / (a + b)
    # a class that one side never saw has no spread to go by: one look's worth
    error = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / a + 1 / b), (1 / min(a, b)) ** 2))
    beyond = np.abs(of_test - expected) > SURE * error
    ratio = np.maximum(of_test, 1e-12) / np.maximum(expected, 1e-12)
    far = (ratio > FAR) | (ratio < 1 / FAR)
    return [Moved(labels[i], float(expected[i]), float(of_test[i])) for i in np.flatnonzero(beyond & far)]


def moved_since(labels: Sequence[str], before: np.ndarray, now: np.ndarray) -> list[Moved]:
    """Classes whose share of the same rows moved by more than `MOVED`, the furthest first."""
    distance = np.abs(now - before)
    order = np.argsort(-distance, kind="stable")
    return [Moved(labels[i], float(before[i]), float(now[i])) for i in order if distance[i] > MOVED]


def told(moved: Sequence[Moved], most: int = 5) -> str:
    """In words: the classes and both shares."""
    each = [f"{m.label} {100 * m.before:.1f} to {100 * m.now:.1f} %" for m in moved[:most]]
    return "; ".join(each) + (f"; and {len(moved) - most} more" if len(moved) > most else "")
