"""The expected score, judged by enumeration, by scikit-learn and by worlds whose truth is known."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, mean_squared_error

from pipeline.config.metric import parse_metric
from pipeline.expected import Answered, Unknown, expected_score, expected_value, spreads
from pipeline.metrics import bootstrap_interval, score


def brier(probs: np.ndarray, truth: np.ndarray) -> float:
    return float(((probs - truth) ** 2).sum(axis=1).mean())


def one_spread(models: np.ndarray) -> np.ndarray:
    """(C,) of the folds of one run. models: (k, N, C)."""
    return spreads([list(models)], [list(range(len(models)))], [0] * len(models), np.ones(7))[0, 0]


@pytest.mark.parametrize("n_repeats", [1, 2])
def test_the_error_of_the_mean_is_that_of_what_answers_a_row_out_of_fold_less_the_spread_whatever_the_answers(
    n_repeats,
):
    """Runs, weights, folds, repeats and seeds: every small mean that may answer a row is listed and scored."""
    rng = np.random.default_rng(0)
    repeat_of = [repeat for repeat in range(n_repeats) for _ in range(3)]
    seeds, weights = (2, 1), np.array([0.7, 0.3])
    numbers = [[split for _ in range(n) for split in range(len(repeat_of))] for n in seeds]
    answers = [[softmax(rng.normal(size=(11, 4)), axis=1) for _ in of_run] for of_run in numbers]
    of_split = [
        sum(
            w * np.mean([a for a, n in zip(each, of_run, strict=True) if n == split], axis=0)
            for w, each, of_run in zip(weights, answers, numbers, strict=True)
        )
        for split in range(len(repeat_of))
    ]
    choices = product(*[[s for s, r in enumerate(repeat_of) if r == repeat] for repeat in range(n_repeats)])
    small = [np.mean([of_split[s] for s in chosen], axis=0) for chosen in choices]
    truth = np.eye(4)[rng.integers(4, size=11)]
    each = spreads(answers, numbers, repeat_of, np.full(9, n_repeats))
    spread = np.einsum("i,ijc,j->c", weights, each, weights)
    whole = np.mean(of_split, axis=0)
    assert brier(whole, truth) == pytest.approx(np.mean([brier(s, truth) for s in small]) - spread.sum(), abs=1e-12)
    for c in range(4):  # label by label, too
        of_small = np.mean([mean_squared_error(truth[:, c], s[:, c]) for s in small])
        assert mean_squared_error(truth[:, c], whole[:, c]) == pytest.approx(of_small - spread[c], abs=1e-12)


def test_rows_of_repeated_hold_outs_are_answered_by_as_many_models_as_validated_them():
    rng = np.random.default_rng(1)
    models, truth = rng.normal(size=(3, 20, 1)), rng.normal(size=20)
    pairs = [(models[a] + models[b]) / 2 for a, b in ((0, 1), (0, 2), (1, 2))]
    errors = {1: np.mean([mean_squared_error(truth, m) for m in models]),
              2: np.mean([mean_squared_error(truth, m) for m in pairs])}  # fmt: skip
    for times in ([1, 1], [2, 2], [1, 2]):
        spread = spreads([list(models)], [[0, 1, 2]], [0, 1, 2], np.array(times))[0, 0, 0]
        expected = np.mean([errors[n] for n in times]) - spread
        assert mean_squared_error(truth, models.mean(axis=0)) == pytest.approx(expected, abs=1e-12)
    assert spreads([[models[0]]], [[0]], [0], np.ones(4))[0, 0, 0] == 0  # one model: nothing to gain


def world(seed: int, sharp: float, own: float, shared: float = 0.0, n: int = 400, n_test: int = 250, per_unit: int = 1):
    """(oof, targets, units, test of each of 5 models, answers): models see the true logits with noise, times `sharp`.

    shared: noise that all models of a row have in common, as after learning from the same labels.
    """
    rng = np.random.default_rng(seed)

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        units = np.arange(n) // per_unit
        logits = rng.normal(0, 1.5, (units.max() + 1, 4))[units] + np.log([0.5, 0.3, 0.15, 0.05])
        drawn = rng.random((units.max() + 1, 1))[units]
        targets = (drawn > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1).clip(0, 3)
        noise = rng.normal(0, shared, (n, 4)) + rng.normal(0, own, (5, n, 4))
        return softmax(sharp * (logits + noise), axis=2), targets

    models, targets = rows(n)
    test, answers = rows(n_test)
    return models[np.arange(n) % 5, np.arange(n)], targets, np.arange(n) // per_unit, test, answers


WORLDS = {
    "calibrated": (1.0, 0.5, 0.0, 1),
    "overconfident": (2.0, 1.0, 0.0, 1),
    "underconfident, far apart": (0.6, 1.2, 0.0, 1),
    "alike, as after the same pseudo-labels": (1.5, 0.3, 1.0, 1),
    "rows in units": (1.0, 0.8, 0.0, 5),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_interval_covers_where_that_of_the_out_of_fold_score_does_not(name):
    sharp, own, shared, per_unit = WORLDS[name]
    metric, covered, before, errors, gains = parse_metric("accuracy", "class"), 0, 0, [], []
    for seed in range(40):
        oof, targets, units, test, answers = world(seed, sharp, own, shared, per_unit=per_unit)
        mean = test.mean(axis=0)
        expected = expected_score(
            metric, "class", Answered(oof, oof), targets, units, Answered(mean, mean), one_spread(test)
        )
        truth = accuracy_score(answers, mean.argmax(axis=1))
        old = bootstrap_interval("accuracy", targets, oof, units, "class", 200)
        covered += expected.low <= truth <= expected.high
        before += old.low <= truth <= old.high
        errors.append(expected.value - truth)
        gains.append(truth - accuracy_score(targets, oof.argmax(axis=1)))
    assert covered >= 34 and covered > before  # of 40; 36 to 38 were seen, and 8 to 33 before
    assert abs(np.mean(errors)) < max(0.5 * np.mean(gains), 0.015)


def large(kind: str, seed: int = 3):
    """(oof, targets, test of each model, answers) of many rows, so that luck is small."""
    rng = np.random.default_rng(seed)
    if kind in ("class", "ordinal"):
        oof, targets, _, test, answers = world(seed, 1.0, 0.7, n=6000, n_test=6000)
        return oof, targets, test, answers
    if kind == "multilabel":
        logits = rng.normal(0, 2, (12000, 3)) - [0, 1, 3]
        truth = (rng.random(logits.shape) < expit(logits)).astype(int)
        models = expit(logits + rng.normal(0, 0.8, (5, 12000, 3)))
    else:
        signal = rng.normal(0, 3, 12000)
        truth = signal + rng.normal(0, 0.3 + 0.3 * np.abs(signal))  # errors grow with the number
        models = (signal + rng.normal(0, 1.5, (5, 12000)))[:, :, None]
    return models[np.arange(6000) % 5, np.arange(6000)], truth[:6000], models[:, 6000:], truth[6000:]


METRICS = {
    "class": ["macro_f1", "weighted_f2", "accuracy", "balanced_accuracy", "log_loss", "auc", "mean_average_precision",
              "map_at_2", "top_2_accuracy"],
    "ordinal": ["accuracy", "macro_f1", "log_loss"],
    "multilabel": ["macro_f1", "micro_f1", "accuracy", "log_loss", "auc", "mean_average_precision", "map_at_2"],
    "regression": ["rmse", "mae", "r2"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in METRICS.items() for name in names])
def test_what_averaging_gains_is_expected_for_every_metric_and_kind_of_target(kind, name):
    oof, targets, test, answers = large(kind)
    mean, metric = test.mean(axis=0), parse_metric(name, kind)
    value = expected_value(metric, kind, Answered(oof, oof), targets, Answered(mean, mean), one_spread(test))
    single, truth = score(name, targets, oof, kind), score(name, answers, mean, kind)
    # macro means of rare classes are moved least, since what the recipe errs by out of fold is subtracted
    share = 0.5 if name in ("accuracy", "log_loss", "auc", "rmse", "mae", "r2", "micro_f1") else 0.9
    assert abs(value - truth) < share * abs(truth - single)
    assert metric.better(value, single) and metric.better(truth, single)


@pytest.mark.parametrize("name", ["quadratic_kappa", "rmse", "mae"])
def test_ordered_classes_are_judged_by_their_median_and_values(name):
    oof, targets, test, answers = large("ordinal")
    mean, metric = test.mean(axis=0), replace(parse_metric(name, "ordinal"), values=(0.0, 1.0, 2.0, 3.0))
    value = expected_value(metric, "ordinal", Answered(oof, oof), targets, Answered(mean, mean), one_spread(test))
    single, truth = score(metric, targets, oof, "ordinal"), score(metric, answers, mean, "ordinal")
    assert abs(value - truth) < 0.65 * abs(truth - single)


def test_what_is_judged_is_what_is_submitted_whatever_it_was_made_of():
    """A shift that answers the rare class too often costs as much as it does on the answers."""
    oof, targets, test, answers = large("class")
    mean, metric, shift = test.mean(axis=0), parse_metric("accuracy", "class"), np.array([0.2, 1, 1, 20])
    value = expected_value(
        metric, "class", Answered(oof, oof * shift), targets, Answered(mean, mean * shift), one_spread(test)
    )
    truth = accuracy_score(answers, (mean * shift).argmax(axis=1))
    assert abs(value - truth) < 0.035 < accuracy_score(answers, mean.argmax(axis=1)) - truth


def test_one_model_gains_nothing_and_its_interval_holds_both_lucks():
    oof, targets, _, test, _ = world(0, 1.0, 0.5, n=2000, n_test=500)
    metric = parse_metric("accuracy", "class")
    one = expected_score(
        metric, "class", Answered(oof, oof), targets, np.arange(2000), Answered(test[0], test[0]), np.zeros(4)
    )
    p = accuracy_score(targets, oof.argmax(axis=1))
    assert one.value == pytest.approx(p, abs=0.015)
    assert (one.high - one.low) / 3.92 == pytest.approx((p * (1 - p) * (1 / 2000 + 1 / 500)) ** 0.5, rel=0.25)


def test_whole_units_widen_the_interval_and_the_same_call_gives_the_same():
    oof, targets, units, test, _ = world(0, 1.0, 0.5, n=2000, n_test=1000, per_unit=10)
    mean, metric = test.mean(axis=0), parse_metric("accuracy", "class")
    sides = Answered(oof, oof), targets
    by_unit, again, by_row = (
        expected_score(metric, "class", *sides, each, Answered(mean, mean), one_spread(test))
        for each in (units, units, np.arange(2000))
    )
    assert by_unit == again and by_unit.high - by_unit.low > 1.5 * (by_row.high - by_row.low)


@pytest.mark.parametrize("name", ["macro_f1", "auc", "log_loss", "accuracy", "map_at_2"])
@pytest.mark.parametrize("n_test", [1, 3])
def test_a_tiny_test_set_and_one_that_is_all_of_one_class_have_wide_intervals_within_the_span(name, n_test):
    oof, targets, units, test, _ = world(0, 1.0, 0.5)
    metric, sure = parse_metric(name, "class"), np.tile([0.97, 0.01, 0.01, 0.01], (50, 1))
    for mean in (test.mean(axis=0)[:n_test], sure):
        e = expected_score(metric, "class", Answered(oof, oof), targets, units, Answered(mean, mean), np.zeros(4))
        assert metric.span[0] <= e.low <= e.value <= e.high <= metric.span[1]


def test_models_that_differ_by_more_than_they_err_leave_no_number():
    oof, targets, units, test, _ = world(0, 1.0, 0.5)
    metric, mean = parse_metric("macro_f1", "class"), test.mean(axis=0)
    with pytest.raises(Unknown, match="not like the training rows"):
        expected_score(metric, "class", Answered(oof, oof), targets, units, Answered(mean, mean), np.full(4, 0.9))
    with pytest.raises(Unknown, match="no test rows"):
        expected_value(metric, "class", Answered(oof, oof), targets, Answered(mean[:0], mean[:0]), np.zeros(4))


@pytest.mark.parametrize("name", ["macro_f1", "auc", "top_5_accuracy"])
def test_many_rows_and_classes_are_sampled_and_come_to_the_same(name, monkeypatch):
    oof, targets, test, _ = large("class")
    mean, metric = test.mean(axis=0), parse_metric(name.replace("5", "2"), "class")
    sides = Answered(oof, oof), targets, Answered(mean, mean), one_spread(test)
    whole = expected_value(metric, "class", *sides)
    monkeypatch.setattr("pipeline.expected.CELLS", 8000)
    monkeypatch.setattr("pipeline.expected.WORK", 100)
    assert expected_value(metric, "class", *sides) == pytest.approx(whole, abs=0.02)


def test_numbers_of_any_scale_come_to_the_same():
    oof, targets, test, _ = large("regression")
    mean, metric, units = test.mean(axis=0), parse_metric("rmse", "regression"), np.arange(len(targets))
    ends = []
    for scale in (1.0, 1e-9):
        sides = Answered(scale * oof, scale * oof), scale * targets, units, Answered(scale * mean, scale * mean)
        e = expected_score(metric, "regression", *sides, one_spread(scale * test))
        ends.append(np.array([e.value, e.low, e.high]) / scale)
    assert ends[1] == pytest.approx(ends[0], rel=1e-6)
