"""Shifts of classes: torch does the arithmetic, and where they should lead is known by hand, by theory or by search."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from pipeline.config.metric import parse_metric
from pipeline.ensemble.bias import LEAST, PASSES, STEPS, apply_bias, can_be_shifted, fit_bias
from pipeline.metrics import score

NUMBERS = st.integers(0, 2**32 - 1)


@given(NUMBERS)
@settings(max_examples=30, deadline=None)
def test_a_shift_is_added_to_the_logits_as_torch_does_it(seed):
    rng = np.random.default_rng(seed)
    p, bias = torch.from_numpy(rng.dirichlet(np.ones(4), 8)).clip(1e-6, 1 - 1e-6), rng.normal(size=4) * 3
    of_classes = (p.log() + torch.from_numpy(bias)).softmax(dim=1)
    assert np.allclose(apply_bias(p.numpy(), bias, "class"), of_classes.numpy())
    assert np.allclose(apply_bias(p.numpy(), bias + 5, "class"), of_classes.numpy())  # only differences mean anything
    of_labels = (p.logit() + torch.from_numpy(bias)).sigmoid()
    assert np.allclose(apply_bias(p.numpy(), bias, "multilabel"), of_labels.numpy())


def test_no_shift_leaves_every_bit():
    p = np.random.default_rng(0).dirichlet(np.ones(3), 9)
    assert apply_bias(p, np.empty(0), "class") is p
    assert np.allclose(apply_bias(p, np.zeros(3), "class"), p)
    sure = np.array([[1.0, 0.0, 0.0]])
    assert np.isfinite(apply_bias(sure, np.array([0.0, 3.0, 0.0]), "class")).all()
    assert np.isfinite(apply_bias(sure, np.array([0.0, 3.0, 0.0]), "multilabel")).all()


@pytest.mark.parametrize("metric", ["macro_f1", "micro_f1", "weighted_f1", "macro_f2", "accuracy"])
@pytest.mark.parametrize("kind", ["class", "multilabel"])
def test_metrics_that_count_answers_can_be_shifted(metric, kind):
    assert can_be_shifted(metric, kind)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        *((metric, kind) for metric in ("auc", "log_loss", "mean_average_precision") for kind in ("class", "multilabel")),
        *(("map_at_5", "class"), ("top_5_accuracy", "class")),
        *((metric, "regression") for metric in ("rmse", "mae", "r2")),
    ],
)  # fmt: skip
def test_metrics_of_order_or_confidence_and_numbers_never_are(metric, kind):
    assert not can_be_shifted(metric, kind)


def test_the_metrics_of_one_answer_a_row_can_be_shifted_too():
    assert can_be_shifted("balanced_accuracy", "class") and can_be_shifted("quadratic_kappa", "ordinal")


def test_a_rare_class_that_is_never_answered_is_found_worked_by_hand():
    """90 rows of A at (0.9, 0.1), 10 of B at (0.6, 0.4): all are answered A. A shift of B between log 1.5 and log 9
    answers every row right."""
    targets = np.repeat([0, 1], [90, 10])
    outputs = np.where(targets[:, None] == 0, [0.9, 0.1], [0.6, 0.4])
    assert sk.f1_score(targets, outputs.argmax(1), average="macro") == pytest.approx(0.5 * 180 / 190)
    bias = fit_bias(outputs, targets, "macro_f1", "class")
    assert np.log(1.5) < bias[1] - bias[0] < np.log(9) and bias.sum() == pytest.approx(0)
    assert (apply_bias(outputs, bias, "class").argmax(1) == targets).all()


def test_a_class_too_rare_for_small_steps_is_found_from_its_prior():
    """190 rows of A at (0.99, 0.01), 10 of B at (0.9, 0.1): nothing changes below a shift of log 9 = 2.2."""
    targets = np.repeat([0, 1], [190, 10])
    outputs = np.where(targets[:, None] == 0, [0.99, 0.01], [0.9, 0.1])
    for kind, truth in (("class", targets), ("multilabel", np.eye(2, dtype=int)[targets])):
        shifted = apply_bias(outputs, fit_bias(outputs, truth, "macro_f1", kind), kind)
        assert (shifted.argmax(1) == targets).all() and ((shifted[:, 1] > 0.5) == (targets == 1)).all()


def test_each_label_gets_a_threshold_of_its_own_worked_by_hand():
    """The first label needs a threshold between 0.2 and 0.3, the second between 0.6 and 0.8, the third is right."""
    has = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 1, 1]] * 10)
    outputs = np.where(has == 1, [0.3, 0.8, 0.9], [0.2, 0.6, 0.1])
    bias = fit_bias(outputs, has, "macro_f1", "multilabel")
    thresholds = 1 / (1 + np.exp(bias))
    assert 0.2 < thresholds[0] < 0.3 and 0.6 < thresholds[1] < 0.8 and 0.1 < thresholds[2] < 0.9
    assert ((apply_bias(outputs, bias, "multilabel") > 0.5) == has).all()


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy", "accuracy"])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_with_two_classes_it_comes_close_to_the_best_of_all_thresholds(metric, share):
    """Two normal distributions, the probabilities exact; every threshold is tried with scikit-learn."""
    rng = np.random.default_rng(int(share * 100))
    targets = (rng.random(500) < share).astype(int)
    x = rng.normal(size=500) + 1.5 * targets
    odds = share / (1 - share) * np.exp(1.5 * x - 1.5**2 / 2)
    p = odds / (1 + odds)
    judge = {
        "macro_f1": lambda answers: sk.f1_score(targets, answers, average="macro"),
        "balanced_accuracy": lambda answers: sk.balanced_accuracy_score(targets, answers),
        "accuracy": lambda answers: sk.accuracy_score(targets, answers),
    }[metric]
    outputs = np.stack([1 - p, p], axis=1)
    reached = judge(apply_bias(outputs, fit_bias(outputs, targets, metric, "class"), "class").argmax(1))
    best = max(judge((p > threshold).astype(int)) for threshold in np.quantile(p, np.linspace(0, 1, 200)))
    plain = judge(outputs.argmax(1))
    assert plain <= reached and reached > best - 0.01
    if metric != "accuracy":
        assert reached > plain + 0.02  # there was something to be gained


def test_on_rows_that_it_never_saw_it_reaches_what_theory_allows():
    """Balanced accuracy of exact probabilities: best where both classes' densities are equal, at Phi(d / 2)."""
    d, share = 2.0, 0.1
    rng = np.random.default_rng(4)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        targets = (rng.random(n) < share).astype(int)
        odds = share / (1 - share) * np.exp(d * (rng.normal(size=n) + d * targets) - d**2 / 2)
        return targets, np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)

    targets, outputs = drawn(3000)
    bias = fit_bias(outputs, targets, "balanced_accuracy", "class")
    assert bias[1] - bias[0] == pytest.approx(np.log(9), abs=0.7)
    fresh, of_fresh = drawn(100_000)
    shifted = sk.balanced_accuracy_score(fresh, apply_bias(of_fresh, bias, "class").argmax(1))
    assert shifted == pytest.approx(norm.cdf(d / 2), abs=0.008)
    assert sk.balanced_accuracy_score(fresh, of_fresh.argmax(1)) < norm.cdf(d / 2) - 0.05


@given(NUMBERS, st.sampled_from(["macro_f1", "weighted_f2", "accuracy"]), st.sampled_from(["class", "multilabel"]))
@settings(max_examples=15, deadline=None)
def test_on_the_rows_it_is_fitted_on_it_never_loses(seed, metric, kind):
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, size=40) if kind == "class" else (rng.random((40, 3)) < [0.1, 0.5, 0.8]).astype(int)
    outputs = rng.dirichlet(np.ones(3), 40) if kind == "class" else rng.random((40, 3))
    bias = fit_bias(outputs, targets, metric, kind)

    def judged(p: np.ndarray) -> float:
        answers = p.argmax(1) if kind == "class" else (p > 0.5).astype(int)
        if metric == "accuracy":
            return float(sk.accuracy_score(targets, answers))
        average, beta = metric.split("_f")
        return float(sk.fbeta_score(targets, answers, beta=float(beta), average=average, zero_division=0))

    assert bias.shape == (3,) and judged(apply_bias(outputs, bias, kind)) >= judged(outputs) - 1e-12


def test_where_all_is_right_already_nothing_is_moved():
    targets = np.repeat(np.arange(3), [50, 20, 5])
    outputs = np.eye(3)[targets] * 0.7 + 0.1
    assert fit_bias(outputs, targets, "macro_f1", "class").tolist() == [0, 0, 0]
    has = np.eye(3, dtype=int)[targets]
    assert fit_bias(outputs, has, "macro_f1", "multilabel").tolist() == [0, 0, 0]


def test_a_class_that_no_row_has_is_no_obstacle():
    targets = np.repeat([0, 2], [30, 6])
    outputs = np.where(targets[:, None] == 0, [0.8, 0.1, 0.1], [0.5, 0.1, 0.4])
    bias = fit_bias(outputs, targets, "macro_f1", "class")
    assert np.isfinite(bias).all() and (apply_bias(outputs, bias, "class").argmax(1) == targets).all()
    label = np.stack([targets == 0, np.zeros(36, bool), np.ones(36, bool)], axis=1).astype(int)
    assert np.isfinite(fit_bias(outputs, label, "macro_f1", "multilabel")).all()


def test_ordered_classes_are_shifted_through_their_median():
    """Every second row of grade 2 is answered 1, as more than half of its probability lies below; kappa tells."""
    targets = np.repeat([0, 1, 2], [40, 40, 10])
    own = np.array([[0.8, 0.15, 0.05], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]])
    outputs = own[targets]
    median = lambda p: (p.cumsum(1)[:, :-1] < 0.5).sum(1)  # noqa: E731
    assert median(outputs)[-1] == 1
    bias = fit_bias(outputs, targets, parse_metric("quadratic_kappa", "ordinal", "012"), "ordinal")
    shifted = median(apply_bias(outputs, bias, "ordinal"))
    assert sk.cohen_kappa_score(targets, shifted, weights="quadratic") == pytest.approx(1)


def whole_search(outputs, targets, metric, kind) -> np.ndarray:
    """The same ascent, with the score of the whole table at each try."""
    n = len(targets)
    counts = targets.sum(axis=0) if kind == "multilabel" else np.bincount(targets, minlength=outputs.shape[1])
    prior = ((counts + 1) / (n + 1 if kind == "multilabel" else (counts + 1).sum())).clip(1e-6, 1)
    odds = np.log(prior / (1 - prior.clip(None, 1 - 1e-6))) if kind == "multilabel" else np.log(prior)

    def value(bias: np.ndarray) -> float:
        return score(metric, targets, apply_bias(outputs, bias, kind), kind)

    best = max([-share * odds for share in (0, 0.25, 0.5, 0.75, 1)], key=value)
    for _ in range(PASSES):
        before = value(best)
        for c in range(len(best)):
            for step in STEPS:
                tried = best + step * (np.arange(len(best)) == c)
                best = tried if value(tried) > value(best) + LEAST else best
        if value(best) <= before + LEAST:
            break
    return best if kind == "multilabel" else best - best.mean()


@pytest.mark.parametrize("kind", ["class", "multilabel"])
@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "micro_f2", "weighted_f0.5"])
@pytest.mark.parametrize("seed", range(4))
def test_one_column_at_a_time_finds_what_the_whole_table_finds(seed, metric, kind):
    rng = np.random.default_rng(seed)
    n, n_classes = int(rng.integers(40, 120)), int(rng.integers(2, 7))
    if kind == "class":
        targets = rng.choice(n_classes, size=n, p=rng.dirichlet(np.ones(n_classes)))
        outputs = rng.dirichlet(np.ones(n_classes), size=n) + 0.3 * np.eye(n_classes)[targets]
        outputs /= outputs.sum(axis=1, keepdims=True)
    else:
        targets = (rng.random((n, n_classes)) < 0.3).astype(int)
        outputs = (0.7 * rng.random((n, n_classes)) + 0.25 * targets).clip(0.01, 0.99)
    outputs = outputs.astype(np.float32) if seed % 2 else np.round(outputs, 1).clip(0.05)  # rounded: with many ties
    assert fit_bias(outputs, targets, metric, kind) == pytest.approx(whole_search(outputs, targets, metric, kind))


@pytest.mark.parametrize("kind", ["class", "multilabel"])
def test_a_thousand_classes_take_seconds(kind):
    """By the score of the whole table at each try this took hours."""
    rng = np.random.default_rng(0)
    targets = rng.integers(1000, size=1500)
    outputs = rng.random((1500, 1000), np.float32) + 0.5 * np.eye(1000, dtype=np.float32)[targets]
    truth = np.eye(1000, dtype=int)[targets] if kind == "multilabel" else targets
    started = time.process_time()
    fit_bias(outputs / (2 if kind == "multilabel" else outputs.sum(axis=1, keepdims=True)), truth, "macro_f1", kind)
    assert time.process_time() - started < 60
