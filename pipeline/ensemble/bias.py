"""A shift of each class's log-probability, for metrics that count answers: what a threshold is for two classes.

Macro F1 wants rare classes answered more often than their probability says; how much more can be tuned on out-of-fold
rows, and is easily tuned to noise, so `blends` keeps it only where cross-fitting finds more than that.
"""

from dataclasses import replace

import numpy as np
from scipy.special import expit, logit

from pipeline.config.metric import Metric, parse_metric
from pipeline.metrics import from_label_counts, from_margins, weighted

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
    answered = None
    if kind != "ordinal" and rule.kind in ("f", "accuracy", "balanced_accuracy", "top_#_accuracy"):
        answered = (_Labels if kind == "multilabel" else _Answered)(logs, best, targets, rule)
    for _ in range(PASSES):
        before = best_value
        for c in range(len(best)):
            for step in STEPS:
                tried = best.copy()
                tried[c] += step
                tried_value = sign * answered.score(c, tried[c]) if answered else value(tried)
                if tried_value > best_value + LEAST:
                    best, best_value = tried, tried_value
                    if answered:
                        answered.take(c, best)
        if best_value <= before + LEAST:
            break
    return best if kind == "multilabel" else best - best.mean()


class _Answered:
    """What each row is answered, kept up to date while one class's shift changes: a try costs N, not N times C.

    A row's answer is the best of the shifted class and of the best other one, the first of equals, as by `argmax`.
    """

    def __init__(self, logs: np.ndarray, bias: np.ndarray, targets: np.ndarray, rule: Metric):
        self.logs, self.targets, self.n_classes = logs, targets, logs.shape[1]
        # the best of one class is its answer: top-1 accuracy is accuracy
        self.rule = rule if rule.kind in ("f", "balanced_accuracy") else replace(rule, kind="accuracy")
        self.true = np.bincount(targets, minlength=self.n_classes).astype(float)
        self.best = np.zeros((len(targets), 2), int)  # the two most probable classes of each row
        self.values = np.zeros((len(targets), 2))  # and their shifted logs
        self._rank(np.arange(len(targets)), bias)

    def _rank(self, rows: np.ndarray, bias: np.ndarray) -> None:
        for part in np.array_split(rows, max(1, len(rows) * self.n_classes // 10_000_000)):
            moved, at = self.logs[part] + bias, np.arange(len(part))
            for place in range(2):
                self.best[part, place] = first = moved.argmax(axis=1)
                self.values[part, place] = moved[at, first]
                moved[at, first] = -np.inf

    def _with(self, c: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
        """((N,) answers, (N,) logs of class c) where class c is shifted so."""
        column, own = self.logs[:, c].astype(float) + shift, self.best[:, 0] == c
        other, value = (np.where(own, second, first) for first, second in (self.best.T, self.values.T))
        return np.where((column > value) | ((column == value) & (c < other)), c, other), column

    def score(self, c: int, shift: float) -> float:
        answers, _ = self._with(c, shift)
        counts = np.bincount(answers, minlength=self.n_classes).astype(float)
        hits = np.bincount(answers[answers == self.targets], minlength=self.n_classes).astype(float)
        return from_margins(self.rule, hits, self.true, counts)

    def take(self, c: int, bias: np.ndarray) -> None:
        """bias: as it is from now on, with another shift of class c."""
        _, column = self._with(c, bias[c])
        self._rank(np.flatnonzero((self.best == c).any(axis=1) | (column >= self.values[:, 1])), bias)


class _Labels:
    """`_Answered` where each row has several labels: one label's shift moves that label's answers alone."""

    def __init__(self, logs: np.ndarray, bias: np.ndarray, targets: np.ndarray, rule: Metric):
        self.logs, self.truth, self.rule = logs, targets.astype(bool), rule
        self.answers = np.empty(logs.shape, bool)
        for c in range(logs.shape[1]):
            self.answers[:, c] = self._column(c, bias[c])
        self.n_wrong = (self.answers != self.truth).sum(axis=1)
        tables = (self.truth & self.answers, self.truth, self.answers)
        self.counts = [table.sum(axis=0).astype(float) for table in tables]

    def _column(self, c: int, shift: float) -> np.ndarray:
        return expit(self.logs[:, c].astype(float) + shift) > 0.5

    def score(self, c: int, shift: float) -> float:
        answers, truth = self._column(c, shift), self.truth[:, c]
        if self.rule.kind == "accuracy":
            n_wrong = self.n_wrong - (self.answers[:, c] != truth) + (answers != truth)
            return float((n_wrong == 0).mean())
        hits, true, answered = (counts.copy() for counts in self.counts)
        hits[c], answered[c] = (answers & truth).sum(), answers.sum()
        return from_label_counts(self.rule, hits, true, answered)

    def take(self, c: int, bias: np.ndarray) -> None:
        answers, truth = self._column(c, bias[c]), self.truth[:, c]
        self.n_wrong += (answers != truth).astype(int) - (self.answers[:, c] != truth)
        self.answers[:, c] = answers
        self.counts[0][c], self.counts[2][c] = (answers & truth).sum(), answers.sum()


def _logs(outputs: np.ndarray, kind: str) -> np.ndarray:
    tiny = np.finfo(np.float32).tiny
    return logit(outputs.clip(1e-7, 1 - 1e-7)) if kind == "multilabel" else np.log(outputs.clip(tiny, None))


def _shifted(logs: np.ndarray, bias: np.ndarray, kind: str) -> np.ndarray:
    moved = logs + bias
    if kind == "multilabel":
        return expit(moved)
    powers = np.exp(moved - moved.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
