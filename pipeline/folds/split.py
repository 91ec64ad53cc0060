"""The split: fixed once, before any model, and the same for everybody.

In: the competition's training rows, sets of duplicate images and the `folds` settings. Out: the folds table
(`image_id, fold, label, group`, each training row once, sorted by id; with repeats `fold_1`, `fold_2`, ... besides) and
its hash. The split is a function of the set of rows, not of their order, so an equal table that was downloaded again
gives the same folds. `group` is what was kept whole: the declared group, joined with others where duplicates tie them,
or the set of duplicates. It is empty for a row by itself.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition.contract import WHERE, Competition, labels_of, stratified_by
from pipeline.competition.grouping import Sets, merged_groups, units
from pipeline.config.data import Folds
from pipeline.config.mistakes import Mistake, Mistakes, nearest
from pipeline.folds.balance import share_out
from pipeline.kept import sealed

COLUMNS = ["image_id", "fold", "label", "group"]
ALWAYS_TRAINED = -1  # the fold of rows that a hold-out never validates


@dataclass(frozen=True)
class Split:
    """One model's split. number: from 0 over all repeats; fold, repeat: which one it is."""

    number: int
    repeat: int
    fold: int
    column: str

    def sides(self, table: pd.DataFrame, image_ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(rows to train on, rows to validate): indices into `image_ids`."""
        fold_of = dict(zip(table["image_id"], table[self.column], strict=True))
        folds = np.array([fold_of[image_id] for image_id in image_ids])
        return np.flatnonzero(folds != self.fold), np.flatnonzero(folds == self.fold)


def fold_columns(table: pd.DataFrame) -> list[str]:
    """`fold`, and `fold_1`, ... of further repeats."""
    return [column for column in table.columns if column == "fold" or column.startswith("fold_")]


def splits(table: pd.DataFrame) -> list[Split]:
    """One for each model that the table asks for, repeats one after the other."""
    found: list[Split] = []
    for repeat, column in enumerate(fold_columns(table)):
        folds = sorted(int(fold) for fold in table[column].unique() if fold != ALWAYS_TRAINED)
        found += [Split(len(found) + i, repeat, fold, column) for i, fold in enumerate(folds)]
    return found


def check_folds(competition: Competition, settings: Folds, duplicates: Sets = ()) -> list[Mistake]:
    """Columns to stratify by that are not there, and classes too small to stand in each fold's validation part."""
    if settings.file != "none" or not competition.train_rows:
        return []
    mistakes = []
    if settings.stratify != "off":
        valid = _stratifiable(competition)
        for name in settings.stratify:
            if name not in valid:
                told = f"found {name!r}{nearest(name, valid)}"
                mistakes.append(Mistake("folds.stratify", told, f"valid: off, or some of {', '.join(valid)}", "folds"))
    group_of = merged_groups(competition, duplicates)
    of_row = units((row["image_id"] for row in competition.train_rows), group_of)
    units_of: dict[str, set[int]] = {}
    for row, unit in zip(competition.train_rows, of_row.tolist(), strict=True):
        for label in labels_of(row):
            if label in competition.classes:  # else a mistake of its own
                units_of.setdefault(label, set()).add(unit)
    where, needed = ("folds.holdout", 2) if settings.holdout != "off" else ("folds.k", settings.k)
    if settings.stratify == "off":
        n = len(set().union(*units_of.values()))
        if n < needed:
            told, valid = f"needs {needed} groups or rows, and there are {n}", f"valid: 2 to {n}"
            mistakes.append(Mistake(where, told, valid, "folds"))
        return mistakes
    small = {label: len(members) for label, members in units_of.items() if len(members) < needed}
    if small:
        what = "groups" if competition.has_groups else "rows"
        named = ", ".join(f"{label!r} ({n})" for label, n in sorted(small.items(), key=lambda item: item[1])[:10])
        told = f"found {needed}, more than the {what} of class {named}"
        if settings.holdout != "off":
            told = f"needs two {what} of each class, one on either side; of class {named} there are fewer"
        smallest = min(small.values())
        within = f"2 to {smallest}" if smallest >= 2 else f"no k at all until that class has two {what}"
        within = within if settings.holdout == "off" else f"two {what} of each class"
        mistakes.append(Mistake(where, told, f"valid: {within}; or folds.stratify=off", "folds"))
    return mistakes


def make_folds(competition: Competition, settings: Folds, duplicates: Sets = ()) -> pd.DataFrame:
    """The folds table: each group and each set of duplicates in one fold, shares as even as that allows."""
    rows = sorted(competition.train_rows, key=lambda row: row["image_id"])
    group_of = merged_groups(competition, duplicates)
    groups = [group_of[row["image_id"]] for row in rows]
    unit_of = units([row["image_id"] for row in rows], group_of)
    indicators = _indicators(rows, settings)
    n_units = int(unit_of.max()) + 1
    starts = np.searchsorted(np.sort(unit_of), np.arange(n_units))
    vectors = np.add.reduceat(indicators[np.argsort(unit_of, kind="stable")], starts, axis=0, dtype=np.int32)
    held_out = settings.holdout if settings.holdout != "off" else 0.0
    shares = np.array([held_out, 1 - held_out]) if held_out else np.full(settings.k, 1 / settings.k)
    table: dict[str, Any] = {"image_id": [row["image_id"] for row in rows]}
    for repeat in range(settings.repeats):
        fold = share_out(vectors, shares, np.random.default_rng([settings.seed, repeat]))[unit_of]
        table[f"fold_{repeat}" if repeat else "fold"] = np.where(fold == 1, ALWAYS_TRAINED, fold) if held_out else fold
    if held_out and len(set(table["fold"])) < 2:
        lost = "validate" if held_out < 0.5 else "train on"
        found = f"found {held_out:g}, and of {n_units:,} groups or rows none is left to {lost}"
        raise Mistakes([Mistake("folds.holdout", found, "valid: a share that leaves some on either side", "folds")])
    frame = pd.DataFrame(table | {"label": [row["label"] for row in rows], "group": groups})
    return frame[[*COLUMNS, *fold_columns(frame)[1:]]]


def _stratifiable(competition: Competition) -> list[str]:
    own = {"image_id", "path", "label", "group", WHERE}
    columns = [key for key in competition.train_rows[0] if key not in own and ":" not in key]
    return ["class", *competition.parts, *(column for column in columns if column not in competition.parts)]


def _indicators(rows: list[dict[str, str]], settings: Folds) -> np.ndarray:
    """(N, I) of 0 and 1: a column of ones for the number of rows, then one for each value that is to be shared out."""
    names = () if settings.stratify == "off" else settings.stratify
    blocks = [np.ones((len(rows), 1), np.uint8)]
    for name in names:
        said = [labels_of(row) if name == "class" else (stratified_by(row, name),) for row in rows]
        place = {value: i for i, value in enumerate(sorted({value for values in said for value in values}))}
        block = np.zeros((len(rows), len(place)), np.uint8)
        for i, values in enumerate(said):  # one a row, or as many as it has labels
            block[i, [place[value] for value in values]] = 1
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def write_folds(folds: pd.DataFrame, path: Path) -> str:
    """Writes the table and returns its hash, which everything trained on it carries."""
    with sealed(path) as temporary:
        folds.to_csv(temporary, index=False, lineterminator="\n")
    return folds_hash(path)


def read_folds(path: Path) -> pd.DataFrame:
    """The table, with ids, labels and groups as the strings they are."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.astype(dict.fromkeys(fold_columns(table), "int64"))


def folds_hash(path: Path) -> str:
    """16 hex digits of SHA-256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
