"""The score to expect of a submission on the test set, before anybody has scored it, and how far off it may be.

The out-of-fold score is that of one model a row. A submission is the mean of many models: better than each of them by
as much as they differ. In: outputs for out-of-fold and test rows, and the targets of the former. Out: `Expected`.

1. The squared error of a mean of models is exactly the mean error of the models less their spread around the mean
   (Krogh & Vedelsby 1995, NIPS 7, section 2). For probabilities that error is Brier's score. The models' error is known
   out of fold, and their spread on the test rows. Neither needs an answer. With several labels it holds label by label.
2. A temperature turns the mean into label probabilities under which it has just that error. For numbers: residuals of
   out-of-fold rows with a similar prediction, scaled to that error.
3. Labels drawn from these judge what is submitted, whatever it was made of (bias, logits, ranks, votes). Their mean is
   the expected score. The same recipe on the out-of-fold rows, whose score is known, shows its own error, which is
   subtracted.
4. The interval adds the luck of a test set of this size (the drawn scores, wider where rows of a unit err together) and
   the luck of the out-of-fold rows (a bootstrap of units).

It holds as far as test rows are like training rows. Copies of training rows in the test set score better than expected.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, softmax

from pipeline.config.metric import Metric
from pipeline.metrics import judged, resamples

MOST_DRAWS, FEWEST_DRAWS = 200, 50
WORK = 200_000_000  # cells (rows x outputs) of all draws together: large tables get fewer draws
CELLS = 4_000_000  # of one draw, where a score looks at whole tables; more rows are represented by a sample
N_RESAMPLES = 300
NEIGHBOURS = 40  # numbers: residuals come from the nearest N / 40 predictions on either side
TINY = 1e-7  # of probabilities
LEAST = float(np.finfo(float).tiny)  # of what is divided by: numbers may be of any scale


class Unknown(ValueError):
    """No score can be expected; the message says why."""


@dataclass(frozen=True)
class Expected:
    """A score of the test rows, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Answered:
    """Some rows as models answered them. means: (N, C), of the models' outputs. answers: (N, C), what is judged."""

    means: np.ndarray
    answers: np.ndarray

    def of(self, rows: np.ndarray) -> "Answered":
        answers = self.answers[rows]
        return Answered(answers if self.means is self.answers else self.means[rows], answers)


def spreads(
    answers: Sequence[Sequence[np.ndarray]], numbers: Sequence[Sequence[int]], repeat_of: Sequence[int],
    times: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """(M, M, C): for weights w of M runs, `w @ spreads @ w` is the spread that the mean over all models takes away.

    An out-of-fold row is answered by one split of each repeat, every run and seed of it alike. So the spread is that of
    such small means around the mean of all, on the test rows. answers: for each run, each model's (N, C); numbers: the
    split of each; repeat_of: the repeat of each split; times: how many repeats validated each out-of-fold row.
    """
    n_rows, n_outputs = answers[0][0].shape
    repeats = np.array(repeat_of)
    n_repeats = int(repeats.max()) + 1
    within, between = np.zeros((2, len(answers), len(answers), n_outputs))
    step = max(1, CELLS // (len(answers) * len(repeats) * n_outputs))
    for start in range(0, n_rows, step):
        rows = slice(start, start + step)
        each = np.array([
            [np.mean([a[rows] for a, split in zip(of_run, of_split, strict=True) if split == s], axis=0, dtype=float)
             for s in range(len(repeats))] for of_run, of_split in zip(answers, numbers, strict=True)
        ])  # fmt: skip  # (M, splits, rows, C)
        of_repeat = np.stack([each[:, repeats == r].mean(axis=1) for r in range(n_repeats)], axis=1)
        apart = each - of_repeat[:, repeats]
        weight = 1 / (n_repeats * np.bincount(repeats)[repeats])
        within += np.einsum("s,isnc,jsnc->ijc", weight, apart, apart, optimize=True)
        apart = of_repeat - of_repeat.mean(axis=1, keepdims=True)
        between += np.einsum("isnc,jsnc->ijc", apart, apart, optimize=True) / n_repeats
    # of `times` repeats drawn from all: a mean of draws without replacement
    drawn = np.mean((n_repeats - times) / times) / max(n_repeats - 1, 1)
    return (within * np.mean(1 / times) + between * drawn) / n_rows


def expected_score(
    metric: Metric, kind: str, oof: Answered, targets: np.ndarray, units: np.ndarray, test: Answered,
    spread: np.ndarray, seed: int = 0,
) -> Expected:  # fmt: skip
    """targets, units: (N,) of the out-of-fold rows. spread: (C,), from `spreads`. Raises `Unknown`."""
    recipe = _Recipe(metric, kind, oof, targets, test, spread, seed)
    value = recipe.value()
    drawn, other = (recipe.drawn(recipe.test, 0.0, recipe.n_draws, other_rows=flag) for flag in (False, True))
    # of another test set of this size; of its labels alone where it has too few rows to draw others
    of_test = max(drawn - drawn.mean(), other - drawn - (other - drawn).mean(), key=np.std)
    weights = list(resamples(units[recipe.rows], N_RESAMPLES, seed))
    luck = np.array([recipe.score(w) for w in weights])
    deviation, luck = luck.std(), luck - luck.mean()
    # the models' error is known from these rows only, too
    errors = np.array([w @ recipe.errors / w.sum() for w in weights])
    step = errors.std(axis=0)
    along = (errors - recipe.error).sum(axis=1)
    by_step = (recipe.changed(step) - recipe.changed(-step)) / 2  # of the test rows' score and the other's
    luck = max(luck, luck + along / max(along.std(), LEAST) * (by_step[0] - by_step[1]), key=np.std)
    # a harder test set has more spread, and so less error where it has more: as if each row's spread varied by itself
    of_spread = abs(by_step[0]) * recipe.spread.sum() / max(step.sum(), LEAST) / len(test.means) ** 0.5
    of_test = of_test * (1 + of_spread / max(of_test.std(), LEAST))
    together = 1.0
    if len(np.unique(units)) < len(units):
        by_row = resamples(np.arange(len(recipe.rows)), N_RESAMPLES, seed)
        together = max(1.0, deviation / max(np.std([recipe.score(w) for w in by_row]), LEAST))
    of_test = of_test * together * (len(recipe.test.means) / len(test.means)) ** 0.5
    ends = np.quantile(value + of_test[:, None] + luck, [0.025, 0.975])
    return Expected(*(float(np.clip(end, *metric.span)) for end in (value, *ends)))


def expected_value(
    metric: Metric, kind: str, oof: Answered, targets: np.ndarray, test: Answered, spread: np.ndarray, seed: int = 0
) -> float:  # fmt: skip
    """The same without its interval, for candidates beside each other. Raises `Unknown`."""
    recipe = _Recipe(metric, kind, oof, targets, test, spread, seed)
    return float(np.clip(recipe.value(), *metric.span))


class _Recipe:
    """Steps 1 to 3 for one submission. rows: the out-of-fold rows that are looked at."""

    def __init__(
        self, metric: Metric, kind: str, oof: Answered, targets: np.ndarray, test: Answered, spread: np.ndarray,
        seed: int,
    ):  # fmt: skip
        self.kind, self.seed = kind, seed
        if not len(test.means):
            raise Unknown("there are no test rows")
        if not (np.isfinite(oof.means).all() and np.isfinite(test.means).all()):
            raise Unknown("some outputs are no finite numbers")
        n_outputs = test.means.shape[1]
        # what counts answers is quick for any number of rows; what orders or adds up whole tables is not
        by_answers = kind != "multilabel" and metric.kind in ("f", "accuracy", "balanced_accuracy", "quadratic_kappa")
        self.rows, test_rows = (
            some_rows(len(side.means), len(side.means) if by_answers else CELLS // n_outputs, seed)
            for side in (oof, test)
        )
        self.oof, self.test, self.targets = oof.of(self.rows), test.of(test_rows), targets[self.rows]
        self.errors = _errors(self.oof.means, self.targets, kind)
        self.error = self.errors.mean(axis=0)
        self.spread = spread if kind == "multilabel" else spread.sum(keepdims=True)
        if self.spread.sum() >= self.error.sum():
            raise Unknown(f"on the test rows the models differ by more (squared, {self.spread.sum():.4g}) than they "
                          f"err out of fold ({self.error.sum():.4g}): they are not like the training rows")  # fmt: skip
        self.n_draws = int(np.clip(
            WORK / (len(self.test.means) * (20 if by_answers else n_outputs)), FEWEST_DRAWS, MOST_DRAWS
        ))  # fmt: skip
        self.judged = {id(side): judged(metric, side.answers, kind) for side in (self.oof, self.test)}
        self.score = self.judged[id(self.oof)](self.targets)

    def value(self) -> float:
        """The expected score, less what the recipe errs by where the score is known."""
        of_test, of_oof = (self.drawn(side, 0.0, self.n_draws).mean() for side in (self.test, self.oof))
        return float(of_test - of_oof + self.score(np.ones(len(self.rows))))

    def changed(self, step: np.ndarray) -> np.ndarray:
        """(2,) scores drawn for test and out-of-fold rows, if the models' error were larger by `step`."""
        return np.array([self.drawn(side, step, self.n_draws // 4).mean() for side in (self.test, self.oof)])

    def drawn(self, side: Answered, step: np.ndarray | float, n: int, other_rows: bool = False) -> np.ndarray:
        """(n,) scores of a side's answers by targets drawn for its means. The same luck in every call.

        other_rows: of a resample of the rows each time, since another test set would be easier or harder.
        """
        rng = np.random.default_rng(self.seed)
        error = self.error + step
        if side is self.test:
            error = error - self.spread
        judge, everything = self.judged[id(side)], np.ones(len(side.means))
        if self.kind == "regression":
            draws = self._numbers(side, float(error[0]), n, rng)
        else:
            draws = _labels(side.means, _temperature(side.means, error, self.kind), self.kind, n, rng)
        if not other_rows:
            return np.array([judge(targets)(everything) for targets in draws])
        weights = resamples(np.arange(len(everything)), n, self.seed)
        return np.array([judge(targets)(times) for targets, times in zip(draws, weights, strict=True)])

    def _numbers(self, side: Answered, error: float, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Targets of a regression: the prediction and a residual of a row that was predicted alike."""
        order = np.argsort(self.oof.means[:, 0], kind="stable")
        residuals = (self.targets - self.oof.means[:, 0])[order] * (max(error, 0.0) / max(self.error[0], LEAST)) ** 0.5
        place = np.searchsorted(self.oof.means[order, 0], side.means[:, 0])
        reach = len(order) // NEIGHBOURS + 1
        for _ in range(n):
            other = place + rng.integers(-reach, reach, len(place))
            yield side.means[:, 0] + residuals[other.clip(0, len(order) - 1)]


def some_rows(n: int, most: int, seed: int) -> np.ndarray:
    """Indices of all rows, or of a sample of them."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).permutation(n)[:most])


def _errors(means: np.ndarray, targets: np.ndarray, kind: str) -> np.ndarray:
    """Squared error of each row: (N, C) for labels of their own, else (N, 1), summed over the classes."""
    if kind == "multilabel":
        return (means - targets) ** 2
    if kind == "regression":
        return (means - targets[:, None]) ** 2
    of_truth = means[np.arange(len(targets)), targets]
    return (np.einsum("nc,nc->n", means, means) - 2 * of_truth + 1)[:, None]


def _logs(means: np.ndarray, kind: str) -> np.ndarray:
    return logit(means.clip(TINY, 1 - TINY)) if kind == "multilabel" else np.log(means.clip(TINY))


def _tempered(logs: np.ndarray, temperature: np.ndarray, kind: str) -> np.ndarray:
    return expit(logs / temperature) if kind == "multilabel" else softmax(logs / temperature, axis=1)


def _temperature(means: np.ndarray, error: np.ndarray, kind: str) -> np.ndarray:
    """(C,) for labels of their own, else (1,): under the tempered means these have the expected squared error `error`.

    Newton's method for its logarithm, within a bracket, since the error rises with it; at an end of the bracket where
    no temperature gives so small or so large an error.
    """
    means = means[some_rows(len(means), CELLS // means.shape[1], 0)]
    logs, squares = _logs(means, kind), means * means
    low, high, log_t = np.full(len(error), np.log(0.02)), np.full(len(error), np.log(20)), np.zeros(len(error))
    for _ in range(40):
        scaled = logs / np.exp(log_t)
        probs = _tempered(logs, np.exp(log_t), kind)
        found = (squares + probs * (1 - 2 * means)).mean(axis=0)
        if kind == "multilabel":
            slope = ((2 * means - 1) * probs * (1 - probs) * scaled).mean(axis=0)
        else:
            centred = scaled - np.einsum("nc,nc->n", probs, scaled)[:, None]
            found, slope = found.sum(keepdims=True), 2 * (means * probs * centred).sum(axis=1).mean(keepdims=True)
        low, high = np.where(found < error, log_t, low), np.where(found < error, high, log_t)
        move = log_t + (error - found) / slope.clip(TINY)
        move = np.where((move > low) & (move < high), move, (low + high) / 2)
        if np.abs(move - log_t).max() < 1e-4:
            break
        log_t = move
    return np.exp(log_t)


def _labels(
    means: np.ndarray, temperature: np.ndarray, kind: str, n: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """n times labels of all rows: (N,) classes, or (N, C) of 0 and 1."""
    if kind == "multilabel":
        probs = _tempered(_logs(means, kind), temperature, kind)
        for _ in range(n):
            yield (rng.random(probs.shape) < probs).astype(int)
        return
    n_rows, n_classes = means.shape
    drawn = np.empty((n, n_rows), np.int32)
    step = max(1, CELLS // n_classes)
    for start in range(0, n_rows, step):
        part = means[start : start + step]
        row = np.arange(len(part))
        ends = _tempered(_logs(part, kind), temperature, kind).cumsum(axis=1)
        ends[:, -1] = 1.0
        # one search for all rows: row i's ends lie between i and i + 1
        place = np.searchsorted((ends + row[:, None]).ravel(), rng.random((n, len(part))) + row, side="right")
        drawn[:, start : start + step] = (place - row * n_classes).clip(0, n_classes - 1)
    yield from drawn
