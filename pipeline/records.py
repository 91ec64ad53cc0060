"""What is kept of each epoch, and what is decided from it alone: the best epoch, whether to stop, how lucky `best` was.

Functions of the whole history and of nothing else, so a resumed run decides as the first one would have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.config.metric import Metric
from pipeline.config.training import Train


@dataclass(frozen=True)
class FoldRun:
    """Which model of a cross-validation this is."""

    number: int  # of the fold, from 0, on over repeats
    n_folds: int
    seed: int


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of one fold came to; epochs count from 1."""

    fold: int  # counts from 0, on over repeats
    n_folds: int
    seed: int
    epoch: int
    epochs: int
    train_loss: float  # mean over the rows, as trained on (augmented, smoothed, mixed)
    valid_loss: float  # log loss of the validation rows; root mean squared error for a regression
    score: float  # the competition's metric over all validation rows
    lr: float  # of the epoch's first step, for one effective batch
    grad_norm: float  # mean over the steps, before clipping
    images_per_s: float
    seconds: float
    lrs: dict[str, float] = field(default_factory=dict)  # of each group of parameters, at the epoch's first step
    more_scores: dict[str, float] = field(default_factory=dict)  # by further metrics, likewise over all validation rows
    memory_mb: float = 0.0  # the most that was used so far: of the GPU, or of this process
    is_last: bool = False  # of its fold


def best_epoch(history: Sequence[EpochRecord], metric: Metric) -> int:
    """The first epoch that no other beats."""
    best = history[0]
    for record in history[1:]:
        if metric.better(record.score, best.score):
            best = record
    return best.epoch


def is_over(history: Sequence[EpochRecord], config: Train, metric: Metric) -> bool:
    """Whether early stopping has had enough."""
    if config.early_stopping == "off" or not history:
        return False
    return history[-1].epoch - best_epoch(history, metric) >= config.early_stopping


def optimism(curves: Sequence[Sequence[float]], metric: Metric) -> float | None:
    """By how much `select: best` flatters itself: mean over folds of its score above an honestly chosen epoch's.

    Each fold's epoch is chosen honestly by the mean curve of the other folds, none of whose validation rows are its
    own: so folds of one split and one seed. curves: (folds, epochs) scores; where early stopping ended a fold, its
    curve is shorter. None for fewer than two folds. Positive: `best` looks better than it is.
    """
    if len(curves) < 2:
        return None
    table = np.full((len(curves), max(len(curve) for curve in curves)), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[: len(curve)] = curve
    sign = 1.0 if metric.greater_is_better else -1.0
    flattered = []
    for fold, of_fold in enumerate(curves):
        curve, others = np.array(of_fold), np.delete(table, fold, axis=0)[:, : len(of_fold)]
        told = ~np.isnan(others).all(axis=0)  # epochs that another fold reached as well
        honest = int(np.argmax(sign * np.nanmean(others[:, told], axis=0)))
        flattered.append(sign * (np.max(sign * curve) * sign - curve[honest]))
    return float(np.mean(flattered))
