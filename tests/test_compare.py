"""Paired comparisons: judged by theory, by planted gains, and by how often noise is taken for a gain."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from pipeline.compare import compare, verdict


def table(targets: np.ndarray, answers: np.ndarray, n_classes: int = 2) -> pd.DataFrame:
    n = len(targets)
    probs = np.eye(n_classes)[answers] * 0.8 + 0.1
    columns = {"image_id": [f"i{k}" for k in range(n)], "fold": np.arange(n) % 5, "target": targets}
    return pd.DataFrame(columns | {f"p_{c}": probs[:, c] for c in range(n_classes)})


def answered(rng: np.random.Generator, targets: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.where(right, targets, 1 - targets)


def test_the_interval_is_that_of_paired_proportions():
    """The difference of two accuracies on the same rows: McNemar's variance."""
    rng = np.random.default_rng(0)
    n = 3000
    targets = rng.integers(2, size=n)
    hard = rng.random(n)
    right_a, right_b = hard < 0.80, (hard < 0.80) ^ (rng.random(n) < 0.05)
    c = compare(
        table(targets, answered(rng, targets, right_a)), table(targets, answered(rng, targets, right_b)), {},
        "accuracy", "class",
    )  # fmt: skip
    change = right_b.astype(float) - right_a
    half = 1.96 * change.std() / n**0.5
    assert c.difference == pytest.approx(change.mean()) and (c.n_rows, c.n_groups) == (n, n)
    assert (c.low, c.high) == (
        pytest.approx(c.difference - half, abs=1e-3),
        pytest.approx(c.difference + half, abs=1e-3),
    )
    for fold, difference in c.by_fold.items():
        assert difference == pytest.approx(change[np.arange(n) % 5 == fold].mean())


def test_noise_is_seldom_taken_for_a_gain_even_where_groups_err_together():
    """40 pairs of runs that differ by luck alone, whole groups of seven at a time: by rows, half would be `gains`."""
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(120), 7)
    groups = {f"i{k}": str(person) for k, person in enumerate(people)}
    taken = {"by group": 0, "by row": 0}
    for _ in range(40):
        targets = rng.integers(2, size=len(people))
        runs = [table(targets, answered(rng, targets, (rng.random(120) < 0.7)[people])) for _ in range(2)]
        taken["by group"] += compare(*runs, groups, "accuracy", "class").is_told_apart
        taken["by row"] += compare(*runs, {}, "accuracy", "class").is_told_apart
    assert taken["by group"] <= 6 < 12 <= taken["by row"]


def test_a_real_gain_is_found_and_directions_are_the_metrics():
    rng = np.random.default_rng(2)
    targets = rng.integers(2, size=1000)
    worse, better = (table(targets, answered(rng, targets, rng.random(1000) < p)) for p in (0.7, 0.9))
    for metric, judge in (("macro_f1", sk.f1_score), ("log_loss", sk.log_loss)):
        c = compare(worse, better, {}, metric, "class")
        assert c.is_told_apart and c.low > 0 and c.chance == 0 and set(c.by_fold) == set(range(5))
        assert "more than noise: B is better than A, in 5 of 5 folds" in verdict(c, "A", "B", metric)[-1]
        other = compare(better, worse, {}, metric, "class")
        assert (
            other.difference == pytest.approx(-c.difference)
            and "B is better than A" in verdict(other, "B", "A", metric)[-1]
        )
        if metric == "macro_f1":
            of = [judge(targets, t[["p_0", "p_1"]].to_numpy().argmax(1), average="macro") for t in (worse, better)]
            assert (c.score_a, c.score_b) == (pytest.approx(of[0]), pytest.approx(of[1]))


def test_small_gains_are_called_noise_with_what_could_have_been_seen():
    rng = np.random.default_rng(3)
    targets = rng.integers(2, size=540)
    right = rng.random(540) < 0.7
    again = right.copy()
    again[rng.choice(np.flatnonzero(right), 40, replace=False)] = False
    again[rng.choice(np.flatnonzero(~right), 44, replace=False)] = True
    c = compare(table(targets, answered(rng, targets, right)), table(targets, answered(rng, targets, again)), {},
                "macro_f1", "class")  # fmt: skip
    line = verdict(c, "A", "B", "macro_f1")[-1]
    assert not c.is_told_apart and line.startswith("not more than noise") and "below about 0.0" in line
    same = table(targets, targets)
    assert "both answer alike" in verdict(compare(same, same, {}, "macro_f1", "class"), "A", "B", "macro_f1")[-1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.iloc[1:], "other images: 1"),
        (lambda t: t.assign(fold=0), "other folds"),
        (lambda t: t.assign(target=0), "other labels"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, told):
    targets = np.arange(50) % 2
    own = table(targets, targets)
    with pytest.raises(ValueError, match=told):
        compare(own, change(own), {}, "accuracy", "class")


def test_rows_may_come_in_any_order():
    rng = np.random.default_rng(4)
    targets = rng.integers(2, size=200)
    a, b = (table(targets, answered(rng, targets, rng.random(200) < 0.8)) for _ in range(2))
    assert compare(a, b.sample(frac=1, random_state=0), {}, "accuracy", "class") == compare(
        a, b, {}, "accuracy", "class"
    )
