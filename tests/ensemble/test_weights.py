"""Weights of runs: the optimum by grid search and closed forms, greedy selection by scikit-learn's own metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_sample_weight

from pipeline.config.metric import parse_metric
from pipeline.ensemble.combine import spread
from pipeline.ensemble.weights import Rows, equal, greedy, simplex


def rows_of(outputs, targets, metric="log_loss", kind="class", average="probs", groups=None) -> Rows:
    n = len(targets)
    of_row = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    rule = parse_metric(metric, kind, tuple(map(str, range(np.shape(outputs[0])[1]))))
    return Rows([spread(np.asarray(p), average, kind) for p in outputs], targets, of_row, rule, kind, average)


def member(rng, targets, n_classes, skill, noise=1.0) -> np.ndarray:
    return softmax(skill * np.eye(n_classes)[targets] + noise * rng.normal(size=(len(targets), n_classes)), axis=1)


def grid(n: int, steps: int) -> np.ndarray:
    """All weights of n members in multiples of 1 / steps."""
    sums = np.stack(np.meshgrid(*[np.arange(steps + 1)] * (n - 1), indexing="ij"), axis=-1).reshape(-1, n - 1)
    sums = sums[sums.sum(axis=1) <= steps]
    return np.column_stack([sums, steps - sums.sum(axis=1)]) / steps


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([greedy, simplex, equal]),
    st.integers(1, 7),
    st.sampled_from([
        ("macro_f1", "class", "probs"), ("log_loss", "class", "logits"), ("accuracy", "class", "vote"),
        ("auc", "class", "ranks"), ("macro_f1", "multilabel", "logits"), ("rmse", "regression", "probs"),
        ("quadratic_kappa", "ordinal", "probs"),
    ]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_weights_are_none_below_zero_and_sum_to_one(seed, fit, n, how):
    metric, kind, average = how
    rng = np.random.default_rng(seed)
    targets = {"multilabel": rng.integers(2, size=(10, 3)), "regression": rng.normal(size=10)}.get(
        kind, rng.integers(3, size=10)
    )
    outputs = rng.normal(size=(n, 10, 1)) if kind == "regression" else rng.dirichlet(np.ones(3), size=(n, 10))
    weights = fit(rows_of(outputs, targets, metric, kind, average))
    assert weights.shape == (n,) and (weights >= 0).all() and weights.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("average", ["probs", "logits"])
@pytest.mark.parametrize(("n", "steps"), [(2, 1000), (3, 100)])
@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "macro_f1", "balanced_accuracy"])
def test_simplex_finds_the_least_loss_that_a_grid_of_all_weights_holds(average, n, steps, metric):
    rng = np.random.default_rng(n)
    targets = rng.choice(3, size=150, p=[0.7, 0.2, 0.1])
    outputs = [member(rng, targets, 3, skill, noise) for skill, noise in ((2.0, 1.0), (1.5, 1.0), (0.8, 1.5))[:n]]
    balanced = metric in ("macro_f1", "balanced_accuracy")  # there each class counts alike
    each = compute_sample_weight("balanced", targets) if balanced else np.ones(len(targets))

    def losses(weights: np.ndarray) -> np.ndarray:
        """(G,) of weights (G, n)."""
        space = np.stack(outputs) if average == "probs" else np.log(outputs)
        mean = np.einsum("gm,mnc->gnc", weights, space)
        logs = np.log(mean) if average == "probs" else log_softmax(mean, axis=2)
        return -np.average(logs[:, np.arange(len(targets)), targets], weights=each, axis=1)

    found = simplex(rows_of(outputs, targets, metric, average=average))
    [reached], tried = losses(found[None]), losses(grid(n, steps))
    assert reached <= tried.min() + 1e-7
    assert np.abs(found - grid(n, steps)[tried.argmin()]).max() < 0.03
    assert reached < losses(np.full((1, n), 1 / n))[0] - 1e-4  # equal weights are not it, or this would say nothing
    if average == "probs":
        mean = np.average(outputs, axis=0, weights=found)
        assert reached == pytest.approx(sk.log_loss(targets, mean, sample_weight=each))


def test_simplex_counts_classes_alike_where_the_metric_does():
    """One run knows the frequent class, the other the rare one: nine rows to one, or class against class."""
    targets = np.repeat([0, 1], [180, 20])
    frequent, rare = np.tile([0.9, 0.1], (200, 1)), np.tile([0.1, 0.9], (200, 1))
    by_rows = simplex(rows_of([frequent, rare], targets, "accuracy"))
    by_classes = simplex(rows_of([frequent, rare], targets, "macro_f1"))
    # the mean says 0.1 + 0.8 w for the first class, whose best value is its share of the loss
    assert by_rows == pytest.approx([1, 0], abs=1e-3)
    assert by_classes == pytest.approx([0.5, 0.5], abs=1e-3)


def test_simplex_of_several_labels_is_the_optimum_of_scikit_learns_loss():
    rng = np.random.default_rng(5)
    targets = rng.integers(2, size=(120, 3))
    signs = 2 * targets - 1
    logits = [signs * skill + rng.normal(size=(120, 3)) * noise for skill, noise in ((1.0, 1.0), (1.0, 1.5))]
    found = simplex(rows_of([expit(z) for z in logits], targets, "macro_f1", "multilabel", "logits"))
    tried = grid(2, 200)

    def loss(weights) -> float:
        p = expit(np.average(logits, axis=0, weights=weights))
        return float(np.mean([sk.log_loss(targets[:, c], p[:, c]) for c in range(3)]))

    values = [loss(weights) for weights in tried]
    assert loss(found) <= min(values) + 1e-7 and found == pytest.approx(tried[int(np.argmin(values))], abs=0.01)
    assert 0.55 < found[0] < 0.99  # neither the start nor a corner


@pytest.mark.parametrize(("own", "expected"), [(0.5, None), (4.0, [0.0, 1.0])])
def test_simplex_of_numbers_is_least_squares_within_its_bounds(own, expected):
    rng = np.random.default_rng(6)
    truth = rng.normal(size=200)
    a, b = truth + own * rng.normal(size=200), truth + 0.8 * rng.normal(size=200)
    if expected is not None:
        a = b + 2 * (b - truth)  # worse in the same direction: it would want a weight below 0
    w = float(np.clip(((truth - b) @ (a - b)) / ((a - b) @ (a - b)), 0, 1))
    found = simplex(rows_of([a[:, None], b[:, None]], truth, "rmse", "regression"))
    assert found == pytest.approx([w, 1 - w], abs=1e-4)
    assert found == pytest.approx(expected, abs=1e-6) if expected is not None else 0.6 < found[0] < 0.9


def test_simplex_leaves_out_what_is_noise_and_shares_out_what_is_level():
    rng = np.random.default_rng(7)
    targets = rng.integers(3, size=400)
    good = member(rng, targets, 3, 3)
    noise = rng.dirichlet(np.ones(3), 400)
    weights = simplex(rows_of([noise, good, noise[::-1]], targets, average="logits"))
    assert weights[1] > 0.85
    assert simplex(rows_of([good, good], targets)) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss", "auc"])
def test_greedy_takes_the_good_run_and_leaves_noise(metric):
    rng = np.random.default_rng(8)
    targets = rng.integers(3, size=150)
    noise = [rng.dirichlet(np.ones(3), 150) for _ in range(2)]
    weights = greedy(rows_of([noise[0], member(rng, targets, 3, 4), noise[1]], targets, metric))
    assert weights[1] > 0.75 and weights.argmax() == 1


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_greedy_takes_nothing_else_beside_what_is_always_right(metric):
    targets = np.arange(60) % 2
    right, unsure = np.eye(2)[targets] * 0.98 + 0.01, np.full((60, 2), 0.5)
    assert greedy(rows_of([unsure, right, unsure], targets, metric)).tolist() == [0, 1, 0]


def test_greedy_shares_out_weights_where_each_run_knows_what_the_other_does_not():
    """One is right on the first half of the rows, the other on the second; their mean is right on all."""
    targets = np.arange(200) % 2
    knows = np.arange(200) < 100
    right, wrong = np.eye(2)[targets] * 0.8 + 0.1, np.eye(2)[targets] * -0.1 + 0.55
    first, second = np.where(knows[:, None], right, wrong), np.where(knows[:, None], wrong, right)
    assert greedy(rows_of([first, second], targets, "accuracy")).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("metric", "average"), [("log_loss", "probs"), ("log_loss", "logits"), ("accuracy", "probs")])
def test_where_all_rows_are_one_group_greedy_is_caruanas_selection_step_by_step(metric, average):
    """No resample changes anything then, so all bags are the selection that is done here with scikit-learn."""
    rng = np.random.default_rng(9)
    targets = rng.integers(3, size=60)
    outputs = [member(rng, targets, 3, 1.5, 1.2) for _ in range(4)]
    space = np.stack(outputs) if average == "probs" else np.log(outputs)
    best, best_taken, taken = -np.inf, [], []
    for _ in range(20):
        values = []
        for i in range(4):
            mean = space[[*taken, i]].mean(axis=0)
            p = mean if average == "probs" else softmax(mean, axis=1)
            values.append(sk.accuracy_score(targets, p.argmax(1)) if metric == "accuracy" else -sk.log_loss(targets, p))
        taken.append(int(np.argmax(values)))
        if max(values) > best:
            best, best_taken = max(values), list(taken)
    expected = np.bincount(best_taken, minlength=4) / len(best_taken)
    assert len(set(best_taken)) > 1  # a choice of several, or this would say little
    rows = rows_of(outputs, targets, metric, average=average, groups=np.full(60, "all"))
    assert greedy(rows) == pytest.approx(expected)


def test_greedy_finds_the_good_ones_of_many_and_its_seed_is_all_that_moves_it():
    rng = np.random.default_rng(10)
    targets = rng.integers(2, size=80)
    outputs = [member(rng, targets, 2, 2.5 if i in (2, 5) else 0.0) for i in range(7)]
    rows = rows_of(outputs, targets, "log_loss")
    weights = greedy(rows, 1)
    assert weights[[2, 5]].sum() >= 0.6 and set(np.argsort(weights)[-2:]) == {2, 5}  # one bag in seven draws neither
    assert (greedy(rows, 1) == weights).all() and (greedy(rows, 2) != weights).any()


def test_some_of_the_rows_are_the_same_rows_of_every_member():
    rng = np.random.default_rng(11)
    targets = np.arange(9) % 3
    outputs = rng.dirichlet(np.ones(3), size=(2, 9))
    groups = np.array([f"g{i // 3}" for i in range(9)])
    rows = rows_of(outputs, targets, groups=groups)
    kept = np.array([True, False, False, True, True, False, False, False, True])
    some = rows.of(kept)
    assert some.targets.tolist() == [0, 0, 1, 2] and some.units.tolist() == [0, 1, 1, 2]
    assert (some.outputs([0.25, 0.75]) == (0.25 * outputs[0] + 0.75 * outputs[1])[kept]).all()
    assert equal(rows_of([outputs[0]] * 3, targets)).tolist() == [1 / 3] * 3
