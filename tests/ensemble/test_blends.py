"""Which blend: no row may have a say in its own answer, noise is left alone, and what is better is found."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from pipeline.config.metric import parse_metric
from pipeline.ensemble.blends import choose, parts_of
from pipeline.ensemble.combine import spread
from pipeline.ensemble.weights import Rows


def member(rng, targets, n_classes, skill, noise=1.0, prior=0.0) -> np.ndarray:
    return softmax(prior + skill * np.eye(n_classes)[targets] + noise * rng.normal(size=(len(targets), n_classes)), 1)


def rows_of(outputs, targets, metric="macro_f1", kind="class", average="probs", groups=None) -> Rows:
    of_row = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rule = parse_metric(metric, kind, tuple(map(str, range(np.shape(outputs[0])[1]))))
    return Rows([spread(p, average, kind) for p in outputs], targets, of_row, rule, kind, average)


@pytest.fixture
def quick(monkeypatch):
    """Fewer resamples, bags and picks: how wide an interval is matters here, its third digit does not."""
    monkeypatch.setattr("pipeline.compare.N_RESAMPLES", 300)
    monkeypatch.setattr("pipeline.ensemble.weights.BAGS", 5)
    monkeypatch.setattr("pipeline.ensemble.weights.PICKS", 6)
    monkeypatch.setattr("pipeline.metrics.bootstrap_interval.__defaults__", ("class", 20, 0))


def drawn(kind: str, n: int = 75) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """(members, targets, other targets)"""
    rng = np.random.default_rng(0)
    if kind == "multilabel":
        targets = (rng.random((n, 3)) < [0.1, 0.3, 0.6]).astype(int)
        logits = [np.log([0.1, 0.4, 0.9]) + (2 * targets - 1) * skill + rng.normal(size=(n, 3)) for skill in (0.5, 0.7)]
        return [expit(z) for z in logits], targets, 1 - targets
    if kind == "regression":
        targets = rng.normal(size=n)
        return [(targets + rng.normal(size=n))[:, None] for _ in range(3)], targets, targets[::-1] * 3 + 1
    targets = rng.choice(3, size=n, p=[0.6, 0.3, 0.1])
    outputs = [member(rng, targets, 3, skill, 1.0, np.log([0.6, 0.3, 0.1])) for skill in (1.5, 1.0, 1.0)]
    return outputs, targets, (targets + 1 + rng.integers(2, size=n)) % 3


@pytest.mark.parametrize("blend", ["equal", "greedy", "simplex"])
@pytest.mark.parametrize(
    ("metric", "kind", "average"),
    [
        ("macro_f1", "class", "probs"), ("balanced_accuracy", "class", "vote"), ("accuracy", "class", "logits"),
        ("macro_f1", "multilabel", "probs"), ("quadratic_kappa", "ordinal", "probs"), ("log_loss", "class", "probs"),
        ("rmse", "regression", "probs"),
    ],
)  # fmt: skip
def test_what_a_fold_is_answered_does_not_depend_on_its_targets(quick, metric, kind, average, blend):
    """Its targets are all changed: its own cross-fitted outputs stay as they were, bit by bit, and others do not."""
    members, targets, others = drawn(kind)
    folds = np.arange(len(targets)) % 5
    inside = folds == 3
    changed = targets.copy()
    changed[inside] = others[inside]
    before, after = (
        choose(rows_of(members, some, metric, kind, average), folds, blend, "on", 0) for some in (targets, changed)
    )
    names = [one.name for one in before.candidates]
    assert names == [one.name for one in after.candidates] and before.chosen.name == after.chosen.name
    shifted = [f"{blend} + bias"] if metric not in ("log_loss", "rmse") else []
    assert names == list(dict.fromkeys(["equal", blend])) + shifted
    for one, other in zip(before.candidates, after.candidates, strict=True):
        assert np.array_equal(one.outputs[inside], other.outputs[inside])
        assert np.isfinite(one.outputs).all()
        if one.name != "equal":  # others do, or the targets would matter to nobody, and this would be no test
            assert not np.array_equal(one.outputs[~inside], other.outputs[~inside])


@pytest.mark.parametrize("blend", ["greedy", "simplex"])
def test_nor_does_it_where_there_is_one_fold_alone_and_parts_of_it_are_made(quick, blend):
    members, targets, others = drawn("class")
    groups = np.array([f"g{i // 3}" for i in range(len(targets))])
    folds = np.zeros(len(targets), int)
    for part in parts_of(folds, groups)[:2]:
        changed = np.where(part, others, targets)
        before, after = (
            choose(rows_of(members, some, groups=groups), folds, blend, "on", 0) for some in (targets, changed)
        )
        for one, other in zip(before.candidates[1:], after.candidates[1:], strict=True):
            assert np.array_equal(one.outputs[part], other.outputs[part])
            assert not np.array_equal(one.outputs[~part], other.outputs[~part])


def test_each_fold_is_answered_by_weights_of_the_other_folds_worked_by_hand(quick):
    """Fold 0 holds what the first run knows, fold 1 what the second one does: fitted there, applied here, all wrong."""
    targets = np.arange(80) % 2
    folds = (np.arange(80) >= 40).astype(int)
    right, wrong = np.eye(2)[targets] * 0.8 + 0.1, np.eye(2)[1 - targets] * 0.8 + 0.1
    first = np.where(folds[:, None] == 0, right, wrong)
    second = np.where(folds[:, None] == 1, right, wrong)
    for blend in ("greedy", "simplex"):
        found = choose(rows_of([first, second], targets, "accuracy"), folds, blend, "off", 0).chosen
        # simplex stops on its way to the corner within its tolerance
        assert np.allclose(found.outputs, wrong, atol=1e-3) and found.score == 0


def test_without_folds_whole_groups_are_shared_out_evenly():
    groups = np.array([f"person {i}" for i in np.random.default_rng(0).integers(23, size=200)])
    parts = parts_of(np.full(200, 3), groups)
    assert len(parts) == 5 and (np.sum(parts, axis=0) == 1).all()
    own = [set(groups[part]) for part in parts]
    assert sum(map(len, own)) == len(set(groups)) and set().union(*own) == set(groups)
    assert {len(some) for some in own} <= {4, 5}
    alone = parts_of(np.zeros(12), np.arange(12))
    assert (np.sum(alone, axis=0) == 1).all() and sorted(part.sum() for part in alone) == [2, 2, 2, 3, 3]


def test_folds_are_the_parts_where_there_are_some():
    folds = np.array([2, 0, 2, 1, 0])
    parts = parts_of(folds, np.array(["a", "a", "b", "b", "c"]))
    assert [np.flatnonzero(part).tolist() for part in parts] == [[1, 4], [3], [0, 2]]


def test_one_group_alone_has_nothing_to_be_fitted_on_and_is_answered_by_equal_weights(quick):
    members, targets, _ = drawn("class", 30)
    groups = np.full(30, "all of them")
    assert len(parts_of(np.zeros(30), groups)) == 1
    found = choose(rows_of(members, targets, groups=groups), np.zeros(30, int), "greedy", "on", 0)
    for one in found.candidates:
        assert np.allclose(one.outputs, np.mean(members, axis=0))


@pytest.mark.parametrize(("metric", "by_group"), [("accuracy", False), ("accuracy", True), ("log_loss", False)])
def test_runs_that_differ_by_noise_alone_keep_equal_weights(quick, metric, by_group):
    """20 draws of three runs of one quality. Each fits its weights to luck, which must not be taken for a gain."""
    kept = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        unit = np.arange(120) // 4 if by_group else np.arange(120)
        targets = rng.integers(2, size=120)[unit]
        common = 0.8 * rng.normal(size=(120, 2))[unit]
        outputs = [
            softmax(np.eye(2)[targets] + common + 0.8 * rng.normal(size=(120, 2))[unit], axis=1) for _ in range(3)
        ]
        groups = np.array([f"g{i}" for i in unit]) if by_group else None
        found = choose(rows_of(outputs, targets, metric, groups=groups), unit % 3, "auto", "off", seed)
        assert [one.name for one in found.candidates] == ["equal", "greedy", "simplex"]
        assert any(one.weights != pytest.approx([1 / 3] * 3, abs=0.02) for one in found.candidates[1:])
        kept += found.chosen.name == "equal" and found.chosen.weights == pytest.approx([1 / 3] * 3)
    assert kept >= 19


def test_a_bias_of_classes_that_need_none_is_seldom_kept(quick):
    fitted = kept = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        targets = rng.integers(3, size=100)
        found = choose(rows_of([member(rng, targets, 3, 1.5)], targets), np.arange(100) % 4, "auto", "auto", 0)
        moved = found.candidates[1]
        assert moved.name == "equal + bias"
        fitted += moved.seen > found.candidates[0].seen
        kept += bool(found.chosen.bias)
    assert kept <= 2 and fitted >= 15  # on the rows that it is fitted on it nearly always looks like a gain


def test_scores_of_what_was_fitted_to_noise_are_those_of_noise(quick):
    """Targets that nothing can tell: fitting and scoring on the same rows looks better than chance, crossing does not."""
    seen, crossed = [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        targets = rng.integers(4, size=60)
        found = choose(
            rows_of([rng.dirichlet(np.ones(4), 60)], targets, "accuracy"), np.arange(60) % 5, "auto", "on", 0
        )
        seen.append(found.chosen.seen)
        crossed.append(found.chosen.score)
    error = np.std(crossed, ddof=1) / 25**0.5
    assert np.mean(seen) > 0.25 + 0.05 and np.mean(crossed) < 0.25 + 3 * error


@pytest.mark.parametrize(("metric", "judge"), [("accuracy", sk.accuracy_score), ("log_loss", sk.log_loss)])
def test_a_run_of_noise_is_weighed_down_and_the_gain_is_scikit_learns(quick, metric, judge):
    rng = np.random.default_rng(1)
    targets = rng.integers(3, size=150)
    good, noise = member(rng, targets, 3, 2.5), softmax(3 * rng.normal(size=(150, 3)), axis=1)
    found = choose(rows_of([good, noise], targets, metric), np.arange(150) % 5, "auto", "off", 0, ["good", "noise"])
    chosen = found.chosen
    assert chosen.name in ("greedy", "simplex") and chosen.weights[0] > 0.8 and chosen.gain_low > 0
    answer = (lambda p: p.argmax(1)) if metric == "accuracy" else (lambda p: p / p.sum(1, keepdims=True))
    own, reference = judge(targets, answer(chosen.outputs)), judge(targets, answer((good + noise) / 2))
    assert chosen.score == pytest.approx(own) and found.candidates[0].score == pytest.approx(reference)
    assert chosen.gain == pytest.approx(abs(own - reference))
    assert chosen.against == "equal" and "better than equal ones by more than noise" in found.reason
    assert [single.name for single in found.singles] == ["good", "noise"]
    assert [single.score for single in found.singles] == pytest.approx(
        [judge(targets, answer(p)) for p in (good, noise)]
    )


def test_a_bias_that_rare_classes_need_is_kept_with_its_cross_fitted_score(quick):
    rng = np.random.default_rng(2)
    share = np.array([0.75, 0.15, 0.1])
    targets = rng.choice(3, size=800, p=share)
    output = member(rng, targets, 3, 1.5, 1.0, 1.5 * np.log(share))
    folds = np.arange(800) % 4
    found = choose(rows_of([output], targets), folds, "auto", "auto", 0)
    plain = sk.f1_score(targets, output.argmax(1), average="macro")
    crossed = sk.f1_score(targets, found.chosen.outputs.argmax(1), average="macro")
    assert found.chosen.bias and found.chosen.bias[2] > found.chosen.bias[0]
    assert found.chosen.score == pytest.approx(crossed) and found.chosen.gain == pytest.approx(crossed - plain)
    assert crossed > plain + 0.05 and "helps beyond noise" in found.reason
    off = choose(rows_of([output], targets), folds, "auto", "off", 0)
    assert off.chosen.bias == () and len(off.candidates) == 1 and off.reason == "one run, as it is"


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_no_bias_is_tried_for_a_metric_of_order_or_confidence(quick, metric):
    members, targets, _ = drawn("class", 40)
    found = choose(rows_of(members[:1], targets, metric), np.arange(40) % 2, "auto", "on", 0)
    assert found.chosen.bias == () and [one.name for one in found.candidates] == ["equal"]
    assert np.array_equal(found.chosen.outputs, members[0])


@pytest.mark.parametrize("blend", ["equal", "greedy", "simplex"])
def test_a_blend_that_is_asked_for_is_taken_whatever_it_is_worth(quick, blend):
    members, targets, _ = drawn("class", 60)
    told = []
    found = choose(rows_of(members, targets), np.arange(60) % 3, blend, "on", 0, tell=told.append)
    assert found.chosen.name == f"{blend} + bias" and found.chosen.against == blend
    assert blend == "equal" or f"{blend} weights, as asked" in found.reason
    assert "a bias for each class, as asked" in found.reason
    assert [one.name for one in found.candidates] == list(dict.fromkeys(["equal", blend, f"{blend} + bias"]))
    assert len(told) == (blend != "equal") + 1 and all("3 times over" in line for line in told)
    assert sum(found.chosen.weights) == pytest.approx(1) and len(found.chosen.bias) == 3


def test_one_run_alone_is_not_weighed():
    members, targets, _ = drawn("class", 30)
    found = choose(rows_of(members[:1], targets), np.arange(30) % 3, "simplex", "off", 0)
    assert found.chosen.weights == (1.0,) and found.singles == [] and len(found.candidates) == 1


@pytest.mark.parametrize(("n_rivals", "blend"), [(2, "auto"), (1, "greedy")])
def test_the_interval_of_a_gain_is_wider_where_the_luckiest_of_two_would_be_taken(n_rivals, blend):
    """Against McNemar's variance of the difference of two accuracies: 97.5 % with two rivals, 95 % with one."""
    rng = np.random.default_rng(5)
    targets = rng.integers(2, size=900)
    first, second = (member(rng, targets, 2, skill, 1.2) for skill in (1.0, 0.5))
    found = choose(rows_of([first, second], targets, "accuracy"), np.arange(900) % 2, blend, "off", 0)
    one = found.candidates[1]
    change = (one.outputs.argmax(1) == targets).astype(float) - ((first + second).argmax(1) == targets)
    half = {1: 1.9600, 2: 2.2414}[n_rivals] * change.std() / 900**0.5
    assert len(found.candidates) == 1 + n_rivals and one.gain == pytest.approx(change.mean())
    assert (one.gain_high - one.gain_low) / 2 == pytest.approx(half, rel=0.06)
