"""Is the test set like the training set? Adversarial validation, against what chance and memory alone would give.

In: facts of training and test images, units of the training rows. Out: an AUC with a 95 % interval, and the AUC that
two halves of the TRAINING set reach by the same procedure. The second figure is what makes the first one readable: a
classifier that tells images apart recognises persons, and where test persons are others than training persons an AUC
above 0.5 says nothing about a shift (Rabanser, Günnemann & Lipton 2019, "Failing Loudly", for the test itself).
"""

from typing import Any

import numpy as np

MAX_ROWS = 4_000
MIN_ROWS = 40  # of each side; with fewer no shift could be told from chance
N_NULL = (6, 20)  # comparisons of training parts: few where they take long, many where they cost nothing
N_TREES = 50
K = 3


def features(facts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """((N, F) float32, a name a column) of what the store knows of each image without decoding it again."""
    formats = sorted(set(facts["format"].tolist()))
    modes = sorted(set(facts["mode"].tolist()))
    columns: dict[str, np.ndarray] = {
        "width": np.log(facts["width"].astype(np.float64)),
        "height": np.log(facts["height"].astype(np.float64)),
        "aspect": np.log(facts["width"] / facts["height"]),
        "brightness": facts["brightness"],
        "contrast": facts["contrast"],
        "sharpness": np.log(np.maximum(facts["blur"], 1e-7)),
        "format": np.searchsorted(formats, facts["format"]),
        "mode": np.searchsorted(modes, facts["mode"]),
    }
    names = list(columns)
    channels = facts["mean"].astype(np.float64)
    spread = np.sqrt(np.maximum(facts["sq"].astype(np.float64) - channels**2, 0))
    colour = facts["colour"].reshape(len(facts), -1)
    names += ["colour"] * (channels.shape[1] + spread.shape[1]) + ["colours in places"] * colour.shape[1]
    matrix = np.column_stack([*columns.values(), channels, spread, colour])
    return matrix.astype(np.float32), names


def measure_shift(train: np.ndarray, test: np.ndarray, of_row: np.ndarray, seed: int) -> dict[str, Any]:
    """train, test: facts. of_row: (N,) int, units of the training rows (`grouping.units`)."""
    from scipy.stats import t
    from sklearn.metrics import roc_auc_score

    nothing = {"auc": 0.5, "low": 0.5, "high": 0.5, "null_low": 0.5, "null_high": 0.5, "features": []}
    if min(len(train), len(test)) < MIN_ROWS:
        why = "there is no test set" if not len(test) else f"fewer than {MIN_ROWS} images on a side"
        return nothing | {"verdict": "not measured", "why_not": why}
    rng = np.random.default_rng(seed)
    units = np.array([f"{unit:09}" for unit in of_row.tolist()])
    others = rng.permutation(len(test))[: max(MAX_ROWS - len(train), MAX_ROWS // 2)]
    kept = _whole_groups(units, MAX_ROWS - len(others), rng)
    matrix, names = features(np.concatenate([train[kept], test[others]]))
    x_train, x_test, units = matrix[: len(kept)], matrix[len(kept) :], units[kept]
    test_units = np.array([f"test {i}" for i in range(len(others))])  # nobody says who is who in the test set
    probs, y, codes, weights = _told_apart(x_train, x_test, units, test_units, seed)
    auc, low, high = _auc_by_group(y, probs, codes, rng)

    share = len(others) / (len(kept) + len(others))
    null = []
    n_null = int(np.clip(12_000 // (len(kept) + len(others)), *N_NULL))
    for n in range(n_null):
        members = rng.permutation(np.unique(units))
        pretended = np.isin(units, members[: max(1, round(share * len(members)))])
        if pretended.all() or not pretended.any():
            return nothing | {"verdict": "not measured", "why_not": "the training rows are of too few groups"}
        alone = np.array([f"test {i}" for i in range(int(pretended.sum()))])
        part, rest = x_train[pretended], x_train[~pretended]
        probs, y, _, _ = _told_apart(rest, part, units[~pretended], alone, seed + n + 1)
        null.append(roc_auc_score(y, probs))
    # where one more such draw would fall in 95 of 100 cases, by Student's t
    reach = float(t.ppf(0.975, n_null - 1) * np.std(null, ddof=1) * np.sqrt(1 + 1 / n_null))
    null_low, null_high = float(np.mean(null)) - reach, min(1.0, float(np.mean(null)) + reach)
    by_name = {name: float(weights[[n == name for n in names]].sum()) for name in dict.fromkeys(names)}
    ranked = sorted(by_name.items(), key=lambda item: -item[1])[:6]
    return {
        "auc": round(auc, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "null_low": round(max(0.0, null_low), 4),
        "null_high": round(null_high, 4),
        "verdict": "shifted" if low > max(null_high, 0.5) else "alike",
        "features": [[name, round(weight, 3)] for name, weight in ranked],
        "why_not": "",
    }


def _whole_groups(units: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """About `n` rows, as whole groups: a group of which half the rows are left out is remembered half as well."""
    order = rng.permutation(np.unique(units))
    sizes = dict(zip(*np.unique(units, return_counts=True), strict=True))
    n_groups = int((np.cumsum([sizes[unit] for unit in order]) <= n).sum())
    return np.flatnonzero(np.isin(units, order[: max(n_groups, 2)]))


def _told_apart(
    first: np.ndarray, second: np.ndarray, first_units: np.ndarray, second_units: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(P(second) of each row by a forest not trained on it, 0 or 1, code of its group, weight of each feature)"""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    x = np.concatenate([first, second])
    y = np.repeat([0, 1], [len(first), len(second)])
    codes = np.unique(np.concatenate([first_units, second_units]), return_inverse=True)[1]
    probs = np.zeros(len(y))
    weights = np.zeros(x.shape[1])
    for trained, held in StratifiedGroupKFold(K, shuffle=True, random_state=seed).split(x, y, codes):
        # leaves of 5 rows remember persons less than anything that fits closer
        forest = ExtraTreesClassifier(N_TREES, min_samples_leaf=5, random_state=seed, class_weight="balanced")
        forest.fit(x[trained], y[trained])
        told = forest.predict_proba(x[held])[:, -1]
        probs[held] = told if len(forest.classes_) == 2 else float(forest.classes_[0])  # few groups: one side alone
        weights += forest.feature_importances_ / K
    return probs, y, codes, weights


def _auc_by_group(
    y: np.ndarray, probs: np.ndarray, codes: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """AUC with a 95 % interval by bootstrap over groups."""
    from sklearn.metrics import roc_auc_score

    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    draws = []
    for _ in range(200):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if 0 < y[rows].sum() < len(rows):
            draws.append(roc_auc_score(y[rows], probs[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(roc_auc_score(y, probs)), float(low), float(high)
