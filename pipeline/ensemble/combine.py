"""How several outputs for a row become one: means of probabilities, of logits, of ranks, and votes.

Each way is a mean in a space of its own, so that folds, seeds, views and runs are all averaged by one linear operation:
`spread` leads into the space, `settled` back to outputs. What `metrics.decisions` makes of the result is the answer.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.special import expit, logit
from scipy.stats import rankdata

from pipeline.metrics import decisions

Average = Literal["probs", "logits", "ranks", "vote"]
LEAST = 3e-8  # half a step of a float32 below 1: a sure yes and a sure no count alike, and neither is infinite
TIE = 1e-6  # what probabilities count beside votes: enough to settle a tie, too little to make a minority win


def spread(outputs: np.ndarray, average: Average, kind: str) -> np.ndarray:
    """outputs (N, C) of one model -> (N, C) float64 to be averaged. kind: of target.

    Ranks are those among these rows, from 1 / (N + 1) to N / (N + 1), equal outputs sharing the mean of theirs.
    """
    outputs = outputs.astype(np.float64)
    if average == "logits" and kind != "regression":
        if kind == "multilabel":
            return logit(outputs.clip(LEAST, 1 - LEAST))
        return np.log(outputs.clip(np.finfo(np.float32).tiny, None))
    if average == "ranks":
        return rankdata(outputs, axis=0) / (len(outputs) + 1)
    if average == "vote":
        votes = decisions(outputs, kind)
        if kind != "multilabel":
            votes = np.eye(outputs.shape[1])[votes]
        return (votes + TIE * outputs) / (1 + TIE)
    return outputs


def settled(mean: np.ndarray, average: Average, kind: str) -> np.ndarray:
    """(N, C) float64 outputs from a mean of what `spread` gave.

    Of logits: the normalised geometric mean of the probabilities, which is the softmax of the mean of the logits; with
    several labels the sigmoid of theirs.
    """
    if average == "logits" and kind == "multilabel":
        return expit(mean)
    if average == "logits" and kind != "regression":
        powers = np.exp(mean - mean.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    return mean  # of ranks: not of one row's sum, which would change the order within a class


def mixed(members: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N, C), the weighted mean of what `spread` gave for each member. The weights sum to 1."""
    total = np.zeros_like(members[0])
    for member, weight in zip(members, weights, strict=True):
        if weight:
            total += weight * member
    return total
