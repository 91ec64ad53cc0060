"""Which rows are validated by which model: fixed once, before any model, and the same for everybody.

In: the competition's training rows and the `folds` settings. Out: the folds table (`image_id, fold, label, group`,
each training row once, sorted by id), its hash, and an audit in numbers. The split is a function of the set of rows,
not of their order, so an equal table that was downloaded again gives the same folds.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline.atomic import atomic
from pipeline.competition.contract import Competition
from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.config.settings import Folds

COLUMNS = ["image_id", "fold", "label", "group"]


def check_folds(competition: Competition, settings: Folds) -> list[Mistake]:
    """Classes too small to stand in each fold's validation part."""
    units: dict[str, set[str]] = {}
    for row in competition.train_rows:
        if row["label"] not in competition.classes:
            continue  # a mistake of its own
        units.setdefault(row["label"], set()).add(row["group"] if competition.has_groups else row["image_id"])
    small = {label: len(members) for label, members in units.items() if len(members) < settings.k}
    if not small:
        return []
    what = "groups" if competition.has_groups else "rows"
    named = ", ".join(f"{label!r} ({n})" for label, n in sorted(small.items(), key=lambda item: item[1])[:10])
    found = f"found {settings.k}, more than the {what} of class {named}"
    smallest = min(small.values())
    valid = f"valid: 2 to {smallest}" if smallest >= 2 else f"valid: no k at all until that class has two {what}"
    return [Mistake("folds.k", found, valid, "folds")]


def make_folds(competition: Competition, settings: Folds) -> pd.DataFrame:
    """The folds table. Stratified by label; where there are groups, each group is in one fold only."""
    train = competition.train.sort_values("image_id", ignore_index=True)
    groups = train["group"] if competition.has_groups else pd.Series("", index=train.index, dtype=str)
    splitter = StratifiedGroupKFold if competition.has_groups else StratifiedKFold
    by_group = groups if competition.has_groups else None
    split = splitter(settings.k, shuffle=True, random_state=settings.seed).split(train, train["label"], by_group)
    fold = np.full(len(train), -1)
    for k, (_, valid) in enumerate(split):
        fold[valid] = k
    folds = pd.DataFrame({"image_id": train["image_id"], "fold": fold, "label": train["label"], "group": groups})
    audit_folds(folds, settings.k)
    return folds


def audit_folds(folds: pd.DataFrame, k: int) -> dict[str, float]:
    """Figures of a folds table. Raises `Mistakes` if a row is not in exactly one fold, or a group not."""
    wrong: list[tuple[str, str]] = []
    twice = folds["image_id"][folds["image_id"].duplicated()]
    wrong += [(f"image {image_id!r} stands twice", "each training row once") for image_id in twice.unique()]
    nowhere = folds["image_id"][~folds["fold"].isin(range(k))]
    wrong += [(f"image {image_id!r} is in no fold", f"folds 0 to {k - 1}") for image_id in nowhere]
    grouped = folds[folds["group"] != ""]
    spread = grouped.groupby("group")["fold"].nunique()
    wrong += [(f"group {g!r} is in {n} folds", "each group in one fold") for g, n in spread[spread > 1].items()]
    if wrong:
        raise Mistakes(Mistake("folds.csv", found, f"valid: {valid}", valid) for found, valid in wrong)
    shares = pd.crosstab(folds["label"], folds["fold"], normalize="columns")
    overall = folds["label"].value_counts(normalize=True)
    sizes = folds["fold"].value_counts()
    return {
        "n_folds": float(k),
        "n_groups": float(grouped["group"].nunique()),
        "smallest_fold": float(sizes.min()),
        "largest_fold": float(sizes.max()),
        "largest_share_deviation": float(shares.sub(overall, axis=0).abs().to_numpy().max()),
    }


def write_folds(folds: pd.DataFrame, path: Path) -> str:
    """Writes the table and returns its hash, which everything trained on it carries."""
    with atomic(path) as temporary:
        folds[COLUMNS].to_csv(temporary, index=False, lineterminator="\n")
    return folds_hash(path)


def read_folds(path: Path) -> pd.DataFrame:
    """The table, with ids, labels and groups as the strings they are."""
    strings = {"image_id": str, "label": str, "group": str}
    return pd.read_csv(path, dtype={**strings, "fold": "int64"}, keep_default_na=False)


def folds_hash(path: Path) -> str:
    """16 hex digits of SHA-256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
