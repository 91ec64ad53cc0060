"""Scores against scikit-learn; intervals against what resampling must do."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.metric import parse_metric, scale
from pipeline.metrics import bootstrap_interval, decisions, score, weighted


def one_hot(predictions, n_classes):
    return np.eye(n_classes)[predictions]


def drawn_case(n_classes: int, n: int, seed: int):
    """(targets, probabilities with ties, how often each row was drawn)"""
    rng = np.random.default_rng(seed)
    targets = rng.integers(n_classes, size=n)
    probs = rng.integers(1, 6, (n, n_classes)).astype(float)
    times = rng.integers(0, 4, n)
    times[0] = max(times[0], 1)
    return targets, probs / probs.sum(axis=1, keepdims=True), times


def judged(metric: str, kind: str, targets, outputs, times) -> tuple[float, list[np.ndarray]]:
    """(ours, by weights; the resample row by row, for scikit-learn)"""
    rule = parse_metric(metric, kind, tuple(map(str, range(outputs.shape[1]))))
    mine = weighted(rule, targets, outputs, kind)(times.astype(float))
    rows = np.repeat(np.arange(len(targets)), times)
    return mine, [targets[rows], outputs[rows], decisions(outputs, kind)[rows]]


BY_ANSWER = {
    "macro_f1": lambda t, a: sk.f1_score(t, a, average="macro", zero_division=0),
    "micro_f1": lambda t, a: sk.f1_score(t, a, average="micro", zero_division=0),
    "weighted_f1": lambda t, a: sk.f1_score(t, a, average="weighted", zero_division=0),
    "macro_f2": lambda t, a: sk.fbeta_score(t, a, beta=2, average="macro", zero_division=0),
    "weighted_f0.5": lambda t, a: sk.fbeta_score(t, a, beta=0.5, average="weighted", zero_division=0),
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "quadratic_kappa": lambda t, a: sk.cohen_kappa_score(t, a, weights="quadratic", labels=range(8)),
}


@pytest.mark.parametrize("metric", BY_ANSWER)
@given(st.integers(2, 8), st.integers(1, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_scores_of_answers_are_scikit_learns_for_every_resample(metric, n_classes, n, seed):
    targets, probs, times = drawn_case(n_classes, n, seed)
    mine, [t, _, a] = judged(metric, "class", targets, probs, times)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # balanced accuracy speaks of classes that nobody has
        theirs = BY_ANSWER[metric](t, a)
    assert mine == pytest.approx(1.0 if np.isnan(theirs) else theirs, abs=1e-9)


@given(st.integers(3, 6), st.integers(30, 150), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_scores_of_probabilities_are_scikit_learns_for_every_resample(n_classes, n, seed):
    targets, probs, times = drawn_case(n_classes, n, seed)
    times[:n_classes], targets[:n_classes] = 1, np.arange(n_classes)  # scikit-learn wants every class
    labels = list(range(n_classes))
    mine, [t, p, _] = judged("log_loss", "class", targets, probs, times)
    assert mine == pytest.approx(sk.log_loss(t, p, labels=labels))
    mine, [t, p, _] = judged("auc", "class", targets, probs, times)
    assert mine == pytest.approx(sk.roc_auc_score(t, p, multi_class="ovr", average="macro", labels=labels))
    mine, [t, p, _] = judged("mean_average_precision", "class", targets, probs, times)
    assert mine == pytest.approx(sk.average_precision_score(one_hot(t, n_classes), p, average="macro"))
    untied = probs + np.random.default_rng(seed).random(probs.shape) * 1e-3
    mine, [t, p, _] = judged("top_2_accuracy", "class", targets, untied, times)
    assert mine == pytest.approx(sk.top_k_accuracy_score(t, p, k=2, labels=labels))


@given(st.integers(2, 6), st.integers(5, 120), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_scores_of_several_labels_are_scikit_learns(n_classes, n, seed):
    rng = np.random.default_rng(seed)
    truth, outputs = rng.integers(0, 2, (n, n_classes)), rng.random((n, n_classes)).round(1)
    truth[0], truth[1] = 0, 1
    times = np.maximum(rng.integers(0, 3, n), [1, 1, *[0] * (n - 2)])
    for metric, average, beta in (("macro_f1", "macro", 1), ("micro_f2", "micro", 2), ("weighted_f1", "weighted", 1)):
        mine, [t, _, a] = judged(metric, "multilabel", truth, outputs, times)
        assert mine == pytest.approx(sk.fbeta_score(t, a, beta=beta, average=average, zero_division=0))
    mine, [t, _, a] = judged("accuracy", "multilabel", truth, outputs, times)
    assert mine == pytest.approx(sk.accuracy_score(t, a))
    mine, [t, p, _] = judged("auc", "multilabel", truth, outputs, times)
    assert mine == pytest.approx(sk.roc_auc_score(t, p, average="macro"))
    mine, [t, p, _] = judged("mean_average_precision", "multilabel", truth, outputs, times)
    assert mine == pytest.approx(sk.average_precision_score(t, p, average="macro"))
    mine, [t, p, _] = judged("log_loss", "multilabel", truth, outputs, times)
    assert mine == pytest.approx(np.mean([sk.log_loss(t[:, c], p[:, c], labels=[0, 1]) for c in range(n_classes)]))


@given(st.integers(3, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_errors_of_numbers_are_scikit_learns(n, seed):
    rng = np.random.default_rng(seed)
    targets, outputs, times = rng.normal(50, 9, n), rng.normal(50, 9, (n, 1)), rng.integers(1, 4, n)
    for metric, judge in (("rmse", sk.root_mean_squared_error), ("mae", sk.mean_absolute_error), ("r2", sk.r2_score)):
        mine, [t, _, a] = judged(metric, "regression", targets, outputs, times)
        assert mine == pytest.approx(judge(t, a))


def test_mean_average_precision_at_k_by_hand():
    targets = np.array([2, 0, 1])
    outputs = np.array([[0.5, 0.2, 0.3], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4]])  # ranked second, first, third
    assert score("map_at_1", targets, outputs) == pytest.approx(1 / 3)
    assert score("map_at_2", targets, outputs) == pytest.approx((1 / 2 + 1) / 3)
    assert score("map_at_3", targets, outputs) == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)
    several = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])  # first row: ranks 1 and 2 hit; third: rank 3
    assert score("map_at_3", several, outputs, "multilabel") == pytest.approx((1 + 0 + 1 / 3) / 3)


def test_ordinal_classes_are_answered_by_the_median():
    outputs = np.array([[0.4, 0.25, 0.35], [0.6, 0.2, 0.2], [0.1, 0.2, 0.7]])
    assert decisions(outputs, "ordinal").tolist() == [1, 0, 2] and decisions(outputs, "class").tolist() == [0, 0, 2]
    rule = parse_metric("mae", "ordinal", ("low", "mid", "high"))
    assert score(rule, np.array([1, 0, 1]), outputs, "ordinal") == pytest.approx(1 / 3)


@given(st.sampled_from(["01234", "0124", "0346", "43210"]), st.integers(8, 80), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_scale_is_counted_by_its_values_and_not_by_its_places(classes, n, seed):
    """scikit-learn counts places, so it is given every step of the scale from 0 to 6."""
    targets, probs, times = drawn_case(len(classes), n, seed)
    steps = np.array([int(name) for name in classes])
    for kind in ("class", "ordinal"):
        truth, answers = (np.repeat(steps[of], times) for of in (targets, decisions(probs, kind)))
        mine = weighted(parse_metric("quadratic_kappa", kind, classes), targets, probs, kind)(times.astype(float))
        theirs = sk.cohen_kappa_score(truth, answers, weights="quadratic", labels=range(7))
        assert mine == pytest.approx(1.0 if np.isnan(theirs) else theirs, abs=1e-9)
    for metric, judge in (("mae", sk.mean_absolute_error), ("rmse", sk.root_mean_squared_error)):
        mine = weighted(parse_metric(metric, "ordinal", classes), targets, probs, "ordinal")(times.astype(float))
        assert mine == pytest.approx(judge(truth, answers))


def test_a_metric_of_distances_refuses_to_count_places():
    targets, outputs = np.array([0, 1]), np.eye(2)
    for metric, kind in (("quadratic_kappa", "class"), ("quadratic_kappa", "ordinal"), ("rmse", "ordinal")):
        with pytest.raises(ValueError, match="counts by values"):
            score(metric, targets, outputs, kind)
    assert score("accuracy", targets, outputs) == 1
    assert scale(["low", "high"]) == (0, 1) and scale(["1", "01"]) == (0, 1) and scale(["0", "0.5", "2"]) == (0, 0.5, 2)
    gapped, even = (parse_metric("quadratic_kappa", "class", names).described for names in ("0124", "1234"))
    assert gapped == "quadratic_kappa on 0, 1, 2, 4" and even == "quadratic_kappa"  # receipts of even scales hold


def test_macro_f1_by_hand():
    # class 0: 1 hit of 2 predicted and 1 true -> 2/3; class 1: 1 hit of 1 predicted and 2 true -> 2/3; class 2: 1
    targets, predictions = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2])
    assert score("macro_f1", targets, one_hot(predictions, 3)) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert score("accuracy", targets, one_hot(predictions, 3)) == 0.75


@pytest.mark.parametrize(
    ("name", "kind"), [("f1", "class"), ("macro_f0", "class"), ("rmse", "class"), ("auc", "regression")]
)
def test_a_metric_that_is_none_names_those_that_are(name, kind):
    with pytest.raises(ValueError, match=r"valid: .*(macro_f1|rmse)"):
        parse_metric(name, kind)


def test_directions():
    assert parse_metric("macro_f1", "class").better(0.6, 0.5) and not parse_metric("macro_f1", "class").better(0.5, 0.5)
    assert parse_metric("log_loss", "class").better(0.5, 0.6) and parse_metric("rmse", "regression").better(1, 2)


def test_the_interval_has_the_width_that_theory_gives():
    rng = np.random.default_rng(0)
    n, p = 2000, 0.8
    targets = rng.integers(2, size=n)
    predictions = np.where(rng.random(n) < p, targets, 1 - targets)
    interval = bootstrap_interval("accuracy", targets, one_hot(predictions, 2), np.arange(n))
    accuracy = (targets == predictions).mean()
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / n)
    assert interval.low == pytest.approx(accuracy - half, abs=0.004)
    assert interval.high == pytest.approx(accuracy + half, abs=0.004)


def test_rows_that_err_together_make_the_interval_wider():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 7)
    right = np.repeat(rng.random(100) < 0.8, 7)  # seven photos of a person, all right or all wrong
    targets = rng.integers(2, size=700)
    probs = one_hot(np.where(right, targets, 1 - targets), 2)
    by_row = bootstrap_interval("accuracy", targets, probs, np.arange(700))
    by_group = bootstrap_interval("accuracy", targets, probs, groups)
    ratio = (by_group.high - by_group.low) / (by_row.high - by_row.low)
    assert ratio == pytest.approx(np.sqrt(7), rel=0.15)


def test_the_interval_is_the_same_every_time():
    targets = np.array([0, 1, 1, 0, 1])
    probs = one_hot(np.array([0, 1, 0, 0, 1]), 2)
    alone = np.arange(5)
    assert bootstrap_interval("macro_f1", targets, probs, alone) == bootstrap_interval(
        "macro_f1", targets, probs, alone
    )
