"""Is one run better than another, or is it luck? A paired comparison on the same rows and folds.

In: two out-of-fold tables and the groups of their rows. Out: the difference of the scores with an interval, and what
it means in words. Paired, because both runs meet the same hard images: the difference varies much less than either
score does. One fold of 540 people has a standard deviation of about 0.025 macro F1, so most gains that are told of a
single split lie inside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.competition.grouping import units
from pipeline.config.metric import Metric, parse_metric
from pipeline.crossval import arrays_of
from pipeline.metrics import resamples, weighted

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """Of run b with run a: differences are positive where b is better, also where less is better."""

    score_a: float
    score_b: float
    difference: float
    low: float  # interval of the difference, 95 % where nothing else was asked, by units
    high: float
    chance: float  # share of the resamples in which b is not better
    by_fold: dict[int, float]  # each fold's own difference
    n_rows: int
    n_units: int  # what was resampled: groups and rows without one

    @property
    def is_told_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def align(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in a's order. Raises ValueError where they hold other rows, targets or folds."""
    if set(a["image_id"]) != set(b["image_id"]):
        only = len(set(a["image_id"]) ^ set(b["image_id"]))
        raise ValueError(f"the runs validated other images: {only:,} are in one of them only")
    b = b.set_index("image_id").loc[a["image_id"]].reset_index()
    for name in [column for column in a.columns if column.startswith("target")] + ["fold"]:
        if name not in b or not np.array_equal(a[name].to_numpy(), b[name].to_numpy()):
            what = "were split into other folds" if name == "fold" else "have other labels"
            raise ValueError(f"the runs' images {what}, so their scores cannot be compared in pairs")
    return a, b


def compare(
    a: pd.DataFrame, b: pd.DataFrame, group_of: Mapping[str, str], metric: str | Metric, kind: str, seed: int = 0,
    level: float = 0.95,
) -> Comparison:  # fmt: skip
    """a, b: out-of-fold tables as in `crossval`. group_of: image_id -> group, as `grouping.units` takes it.

    The interval is the percentile interval of the difference over resamples of whole units, the same ones for both
    (the cluster bootstrap of `metrics.bootstrap_interval`, paired). level: of the interval. Raises
    ValueError as `align` does.
    """
    a, b = align(a, b)
    rule = parse_metric(metric, kind)
    sign = 1 if rule.greater_is_better else -1
    of_a, of_b = (weighted(rule, *arrays_of(table), kind) for table in (a, b))
    of_row = units(a["image_id"], group_of)
    n, folds = len(a), a["fold"].to_numpy()
    drawn = [sign * (of_b(weights) - of_a(weights)) for weights in resamples(of_row, N_RESAMPLES, seed)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    everything = np.ones(n)
    score_a, score_b = of_a(everything), of_b(everything)
    in_fold = {int(fold): (folds == fold).astype(float) for fold in np.unique(folds)}
    return Comparison(
        score_a=score_a,
        score_b=score_b,
        difference=sign * (score_b - score_a),
        low=float(low),
        high=float(high),
        chance=float(np.mean(np.array(drawn) <= 0)),
        by_fold={fold: sign * (of_b(weights) - of_a(weights)) for fold, weights in in_fold.items()},
        n_rows=n,
        n_units=int(of_row.max()) + 1,
    )


def verdict(c: Comparison, name_a: str, name_b: str, metric: str) -> list[str]:
    """The comparison in words. Names as the user gave or MLflow shows them."""
    better, worse = (name_b, name_a) if c.difference >= 0 else (name_a, name_b)
    n_for = sum((value > 0) == (c.difference > 0) for value in c.by_fold.values() if value)
    spread = float(np.std(list(c.by_fold.values()), ddof=1)) if len(c.by_fold) > 1 else float("nan")
    interval = f"95 % interval {c.low:+.4f} to {c.high:+.4f}"
    lines = [f"{metric} {c.score_a:.4f} and {c.score_b:.4f}: difference {c.difference:+.4f} ({interval})"]
    if len(c.by_fold) > 1:
        each = ", ".join(f"{value:+.4f}" for value in c.by_fold.values())
        lines.append(f"by fold {each}; standard deviation {spread:.4f}")
    if not c.difference and c.low == c.high == 0:
        return [*lines, "both answer alike: there is nothing to choose between"]
    if c.is_told_apart:
        said = f"more than noise: {better} is better than {worse}, in {n_for} of {len(c.by_fold)} folds"
        return [*lines, said + (" (a choice among many runs is luckier than this: see it on fresh seeds)")]
    needed = (c.high - c.low) / 2
    return [*lines, f"not more than noise: {better} looks better, and on these rows a difference below about "
            f"{needed:.4f} cannot be told from luck"]  # fmt: skip
