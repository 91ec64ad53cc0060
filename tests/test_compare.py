"""Paired comparisons: judged by theory, by planted gains, and by how often noise is taken for a gain."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from pipeline.compare import compare, verdict
from pipeline.crossval import oof_interval
from pipeline.stages import record
from pipeline.tracking.browse import Run


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
    assert c.difference == pytest.approx(change.mean()) and (c.n_rows, c.n_units) == (n, n)
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


def resampled(values: np.ndarray, groups: list[str], seed: int = 1, n: int = 3000) -> np.ndarray:
    """Means of `values` over resamples, written without the product: each draw is a list of row numbers."""
    rows_of: dict[tuple[str, int], list[int]] = {}
    for row, group in enumerate(groups):
        rows_of.setdefault((group, -1) if group else ("", row), []).append(row)
    members, rng = list(rows_of.values()), np.random.default_rng(seed)
    drawn = []
    for _ in range(n):
        rows = [row for i in rng.integers(len(members), size=len(members)) for row in members[i]]
        drawn.append(values[rows].mean())
    return np.array(drawn)


@pytest.mark.parametrize("how", ["no groups", "a few copies", "half", "all"])
def test_intervals_are_those_of_an_independent_bootstrap_whoever_has_a_group(how):
    """Of a score and of a difference; a table of an older version has "" or NaN for a row without a group."""
    rng, n = np.random.default_rng(5), 420
    grouped = {"no groups": 0, "a few copies": 12, "half": 210, "all": n}[how]
    groups = [f"copies {row // 6}" if row < grouped else "" for row in range(n)]
    luck = {group: rng.random() < 0.7 for group in groups}
    right = np.array([luck[g] if g else rng.random() < 0.7 for g in groups])
    better = right ^ (rng.random(n) < 0.1)
    targets = rng.integers(2, size=n)
    a, b = (table(targets, answered(rng, targets, one)) for one in (right, better))
    means = resampled(right.astype(float), groups)
    change = resampled(better.astype(float) - right, groups)
    for nothing in ("", float("nan")):
        folds = pd.DataFrame({"image_id": a["image_id"], "group": [group or nothing for group in groups]})
        interval = oof_interval(a, folds, "accuracy", "class")
        assert [interval.low, interval.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)
        c = compare(a, b, dict(zip(folds["image_id"], folds["group"], strict=True)), "accuracy", "class")
        assert [c.low, c.high] == pytest.approx(np.quantile(change, [0.025, 0.975]), abs=0.005)
        assert c.n_units == n - grouped + len(set(groups) - {""})


def test_two_copies_among_three_hundred_rows_do_not_make_the_rest_one_group():
    rng = np.random.default_rng(0)
    targets = rng.integers(2, size=302)
    oof = table(targets, answered(rng, targets, rng.random(302) < 0.8))
    folds = pd.DataFrame({"image_id": oof["image_id"], "group": [""] * 300 + ["copies of i300"] * 2})
    with_copies = oof_interval(oof, folds, "accuracy", "class")
    by_rows = oof_interval(oof, folds.assign(group=""), "accuracy", "class")
    assert with_copies.high - with_copies.low == pytest.approx(by_rows.high - by_rows.low, rel=0.1)


def test_an_interval_of_an_older_version_is_made_again_from_its_table_or_left_out(tmp_path, monkeypatch):
    """The runs bear no tag that says how they were resampled; the second is a blend, whose rows no table holds."""
    rng = np.random.default_rng(0)
    targets = rng.integers(2, size=302)
    oof = table(targets, answered(rng, targets, rng.random(302) < 0.8))
    folds = pd.DataFrame({"image_id": oof["image_id"], "group": [""] * 300 + ["copies"] * 2})
    oof.to_parquet(tmp_path / "oof.parquet")
    folds.to_csv(tmp_path / "folds.csv", index=False)
    monkeypatch.setattr("pipeline.tracking.runs.fetch", lambda run, name, folder: tmp_path / name)
    monkeypatch.setattr(record, "_rule", lambda settings: "accuracy")
    value = float((oof[["p_0", "p_1"]].to_numpy().argmax(axis=1) == targets).mean())
    metrics = {"oof_accuracy": value, "oof_accuracy_low": 0.5, "oof_accuracy_high": 1.0}
    old = Run("a", "cv", "FINISHED", datetime.now(UTC), {}, metrics)
    runs = [old, replace(old, tags={"cv_runs": "a b"}), replace(old, tags={"resampled": "units"})]
    settings = SimpleNamespace(competition=SimpleNamespace(metric="accuracy", target="class"))
    again, blend, new = record.by_units(runs, settings)
    interval = oof_interval(oof, folds, "accuracy", "class")
    assert (again.metrics["oof_accuracy_low"], again.metrics["oof_accuracy_high"]) == (interval.low, interval.high)
    assert record.scores_of(blend, "accuracy") == (f"{value:.4f}", "not comparable") and new.metrics == metrics
