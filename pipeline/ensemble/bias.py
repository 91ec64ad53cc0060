"""A shift of each class's log-probability, for metrics that count answers: what a threshold is for two classes.

Macro F1 wants rare classes answered more often than their probability says; how much more can be tuned on out-of-fold
rows, and is easily tuned to noise, so `blends` keeps it only where cross-fitting finds more than that.
"""

import numpy as np
from scipy.special import expit, logit

from pipeline.config.metric import Metric, parse_metric
from pipeline.metrics import weighted

DECIDES = ("f", "accuracy", "balanced_accuracy", "quadratic_kappa")  # kinds of metric that look at answers alone
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the logarithm of the prior that is taken away, to begin with
STEPS = (-1.0, -0.5, -0.25, -0.1, 0.1, 0.25, 0.5, 1.0)  # tried for one class after the other
PASSES = 3  # over all classes
LEAST = 1e-9  # gain of a step that is taken


def can_be_shifted(metric: str | Metric, kind: str) -> bool:
    """Whether a shift can matter to the metric."""
    rule = parse_metric(metric, kind)
    if kind == "ordinal" and rule.kind in ("mae", "rmse"):
        return True
    return kind != "regression" and (rule.kind in DECIDES or (rule.kind, rule.number) == ("top_#_accuracy", 1))


def apply_bias(outputs: np.ndarray, bias: np.ndarray, kind: str) -> np.ndarray:
    """outputs (N, C) -> (N, C): log p + bias, normalised; with several labels each one's logit + its bias.

    An empty bias does nothing.
    """
    return _shifted(_logs(outputs, kind), bias, kind) if len(bias) else outputs


def fit_bias(outputs: np.ndarray, targets: np.ndarray, metric: str | Metric, kind: str) -> np.ndarray:
    """(C,) shifts that make the metric best, by coordinate ascent from the best share of the log-prior.

    The start is logit adjustment after the fact, with its tau chosen among `SHARES` (Menon et al. 2021,
    arXiv 2007.07314, section 4.1). The mean shift of classes is 0, as only differences mean anything to them.
    """
    rule, logs, everything = parse_metric(metric, kind), _logs(outputs, kind), np.ones(len(targets))
    sign = 1 if rule.greater_is_better else -1

    def value(bias: np.ndarray) -> float:
        return sign * weighted(rule, targets, _shifted(logs, bias, kind), kind)(everything)

    counts = targets.sum(axis=0) if kind == "multilabel" else np.bincount(targets, minlength=outputs.shape[1])
    prior = (counts + 1) / (len(targets) + 1 if kind == "multilabel" else (counts + 1).sum())
    prior_logs = logit(prior.clip(1e-6, 1 - 1e-6)) if kind == "multilabel" else np.log(prior)
    starts = [-share * prior_logs for share in SHARES]
    best = max(starts, key=value)  # the first of equals: the smallest shift
    best_value = value(best)
    for _ in range(PASSES):
        before = best_value
        for c in range(len(best)):
            for step in STEPS:
                tried = best.copy()
                tried[c] += step
                if (tried_value := value(tried)) > best_value + LEAST:
                    best, best_value = tried, tried_value
        if best_value <= before + LEAST:
            break
    return best if kind == "multilabel" else best - best.mean()


def _logs(outputs: np.ndarray, kind: str) -> np.ndarray:
    tiny = np.finfo(np.float32).tiny
    return logit(outputs.clip(1e-7, 1 - 1e-7)) if kind == "multilabel" else np.log(outputs.clip(tiny, None))


def _shifted(logs: np.ndarray, bias: np.ndarray, kind: str) -> np.ndarray:
    moved = logs + bias
    if kind == "multilabel":
        return expit(moved)
    powers = np.exp(moved - moved.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
