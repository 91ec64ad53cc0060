"""The proof: a folds table against the competition's own rows, declared groups and sets of duplicates.

In: a table, whoever made it. Out: `Audit`, figures as plain data, or `Mistakes` naming everything that is wrong.
Nothing is taken from the table's own `group` column, so a wrong merge or an edited file is found.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition.contract import Competition, labels_of
from pipeline.competition.grouping import Sets, merged_groups, units
from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.folds.split import ALWAYS_TRAINED, fold_columns, splits

SHOWN_CLASSES = 8


@dataclass(frozen=True)
class Audit:
    """All as plain data, for the receipt and MLflow."""

    n_rows: int
    n_validated: int  # each exactly once in every repeat
    n_models: int
    n_repeats: int
    n_groups: int  # declared, none of them on both sides
    n_duplicate_sets: int  # none of them on both sides
    n_merged: int  # groups as they were kept whole, of several rows, after duplicates had joined some
    group_sizes: dict[str, int]  # size -> how many
    folds: list[dict[str, Any]]  # repeat, fold, rows, groups, and counts by class
    deviation: float  # the largest difference of a class's share in a fold from its share in all rows
    deviation_at: str  # where that is
    absent: list[str]  # classes that a fold lacks: "class 8 in fold 2"

    def metrics(self) -> dict[str, float]:
        """Numbers for the tracker."""
        sizes = [fold["rows"] for fold in self.folds]
        figures = {"n_rows": self.n_rows, "n_validated": self.n_validated, "n_folds": self.n_models}
        figures |= {"n_groups": self.n_groups, "n_duplicate_sets": self.n_duplicate_sets}
        figures |= {"smallest_fold": min(sizes), "largest_fold": max(sizes)}
        return {**{k: float(v) for k, v in figures.items()}, "largest_share_deviation": self.deviation}


def audit_folds(
    table: pd.DataFrame, competition: Competition, duplicates: Sets = (), where: str = "folds.csv"
) -> Audit:
    """Raises `Mistakes` with everything that is wrong: rows, labels, groups or duplicates on both sides."""
    wrong = _rows_wrong(table, competition)
    if wrong:  # without the right rows nothing else can be judged
        raise Mistakes(Mistake(where, found, f"valid: {valid}", valid) for found, valid in wrong)
    members: dict[str, list[str]] = {}
    if competition.has_groups:
        for row in competition.train_rows:
            if row["group"]:
                members.setdefault(row["group"], []).append(row["image_id"])
    for column in fold_columns(table):
        fold_of = dict(zip(table["image_id"], table[column], strict=True))
        wrong += _split_sets(members.items(), fold_of, "group", "each group on one side", column)
        named = [(f"{ids[0]!r} and its duplicates", list(ids)) for ids in duplicates]
        valid = "each set of duplicates on one side (or folds.duplicates=off)"
        wrong += _split_sets(named, fold_of, "set", valid, column)
    if wrong:
        raise Mistakes(Mistake(where, found, f"valid: {valid}", valid) for found, valid in wrong)
    return _figures(table, competition, duplicates)


def _rows_wrong(table: pd.DataFrame, competition: Competition) -> list[tuple[str, str]]:
    """(found, valid) for rows that are missing, foreign, double, in no fold, or labelled otherwise."""
    known = {row["image_id"]: row["label"] for row in competition.train_rows}
    ids = table["image_id"]
    once = "each training row once"
    given = set(ids)
    wrong = [(f"image {image_id!r} stands twice", once) for image_id in ids[ids.duplicated()].unique()]
    wrong += [(f"image {image_id!r} is no training image", once) for image_id in ids[~ids.isin(known)]]
    wrong += [(f"training image {image_id!r} is missing", once) for image_id in known if image_id not in given]
    if "label" in table:
        labels = zip(ids, table["label"], strict=True)
        valid = "the competition's own labels"
        wrong += [(f"image {i!r} has label {label!r}", valid) for i, label in labels if known.get(i, label) != label]
    strange = sorted({c for row in competition.train_rows for c in labels_of(row)} - set(competition.classes))
    wrong += [(f"label {label!r} is no class", "labels of the competition's classes") for label in strange]
    columns = fold_columns(table)
    if len(columns) > 1 and (table[columns] == ALWAYS_TRAINED).to_numpy().any():
        wrong.append(("repeats with rows that are in no fold (-1)", "a hold-out, or repeats that validate every row"))
    for column in columns:
        folds = table[column]
        present = sorted(int(fold) for fold in folds.unique() if fold != ALWAYS_TRAINED)
        if present != list(range(len(present))) or not present:
            wrong.append((f"column {column} holds folds {present}", "folds 0, 1, 2, ... without a gap"))
        elif len(present) > 1 and (folds == ALWAYS_TRAINED).any():
            image_id = ids[folds == ALWAYS_TRAINED].iloc[0]
            wrong.append((f"image {image_id!r} is in no fold", "each row validated once; -1 only beside one fold, 0"))
        elif len(present) == 1 and not (folds == ALWAYS_TRAINED).any():
            wrong.append((f"column {column} has one fold and nothing to train on", "two folds, or -1 to train on"))
    return wrong


def _split_sets(sets: Any, fold_of: dict[str, int], what: str, valid: str, column: str) -> list[tuple[str, str]]:
    wrong = []
    for name, ids in sets:
        folds = sorted({int(fold_of[i]) for i in ids if i in fold_of})
        if len(folds) > 1:
            at = "" if column == "fold" else f" of {column}"
            wrong.append((f"{what} {name} is in folds {', '.join(map(str, folds))}{at}", valid))
    return wrong


def _figures(table: pd.DataFrame, competition: Competition, duplicates: Sets) -> Audit:
    group_of = merged_groups(competition, duplicates)
    unit_of_row = units(table["image_id"], group_of)
    labels = {row["image_id"]: labels_of(row) for row in competition.train_rows}
    classes = list(competition.classes)
    place = {name: c for c, name in enumerate(classes)}
    # one entry for each label of a row, which may have several or none; a label that is no class raises
    each = [(i, place[label]) for i, image_id in enumerate(table["image_id"]) for label in labels[image_id]]
    rows, codes = np.array(each, dtype=int).reshape(-1, 2).T
    overall = np.bincount(codes, minlength=len(classes)) / len(table)
    models = splits(table)
    folds: list[dict[str, Any]] = []
    worst, at, absent = 0.0, "nowhere", []
    for split in models:
        held = (table[split.column] == split.fold).to_numpy()
        counts = np.bincount(codes[held[rows]], minlength=len(classes))
        apart = np.abs(counts / held.sum() - overall)
        name = f"fold {split.fold}" + (f" of repeat {split.repeat}" if len(models) > 1 and split.repeat else "")
        if apart.max() > worst:
            worst, at = float(apart.max()), f"class {classes[int(apart.argmax())]} in {name}"
        absent += [f"class {classes[c]} in {name}" for c in np.flatnonzero((counts == 0) & (overall > 0))]
        lost = (np.bincount(codes[~held[rows]], minlength=len(classes)) == 0) & (counts > 0)
        absent += [f"class {classes[c]} in all that {name} trains on" for c in np.flatnonzero(lost)]
        by_class = dict(zip(classes, counts.tolist(), strict=True))
        folds.append({"repeat": split.repeat, "fold": split.fold, "rows": int(held.sum()),
                      "groups": len(np.unique(unit_of_row[held])), "classes": by_class})  # fmt: skip
    sizes = Counter(Counter(group for group in group_of.values() if group).values())
    return Audit(
        n_rows=len(table),
        n_validated=int((table["fold"] != ALWAYS_TRAINED).sum()),
        n_models=len(models),
        n_repeats=max(split.repeat for split in models) + 1,
        n_groups=len({row.get("group") or "" for row in competition.train_rows} - {""}),
        n_duplicate_sets=len(duplicates),
        n_merged=sum(n for size, n in sizes.items() if size > 1),
        group_sizes={str(size): sizes[size] for size in sorted(sizes)},
        folds=folds,
        deviation=worst,
        deviation_at=at,
        absent=absent,
    )


def audit_lines(audit: Audit, classes: Sequence[str]) -> list[str]:
    """The audit as a person reads it: what is proved, then a table of the folds."""
    once = (
        "each validated exactly once"
        if audit.n_validated == audit.n_rows
        else f"{audit.n_validated:,} of them validated, once"
    )
    if audit.n_repeats > 1:
        once += f" in each of {audit.n_repeats} repeats"
    lines = [f"{audit.n_rows:,} rows, {once}"]
    if audit.n_groups:
        alone = audit.n_rows - sum(int(size) * n for size, n in audit.group_sizes.items())
        told = f"; {alone:,} rows have no group and stand by themselves" if alone else ""
        lines.append(f"0 of {audit.n_groups:,} groups on both sides{told}")
    copies = f"0 of {audit.n_duplicate_sets:,} sets of duplicates on both sides"
    lines.append(copies if audit.n_duplicate_sets else "no sets of duplicates to keep together")
    lines.append(f"class shares off by {audit.deviation:.2%} at most ({audit.deviation_at})")
    if audit.absent:
        more = f" and {len(audit.absent) - 4} more" if len(audit.absent) > 4 else ""
        lines.append(f"a fold lacks a class: {', '.join(audit.absent[:4])}{more}")
    totals = {name: sum(fold["classes"][name] for fold in audit.folds) for name in classes}
    rarest = sorted(classes, key=lambda name: totals[name])[:SHOWN_CLASSES]
    shown = [name for name in classes if name in rarest]
    head = "images a class" if len(shown) == len(classes) else f"images of the {len(shown)} rarest classes"
    units = "groups" if audit.n_merged or audit.n_groups else "rows"
    width = [max(5, len(_cut(name)) + 1) for name in shown]
    lines.append(f"{'fold':>6}{'images':>9}{units:>9}   {head}")
    lines.append(" " * 27 + "".join(f"{_cut(name):>{w}}" for name, w in zip(shown, width, strict=True)))
    for fold in audit.folds[:20]:
        name = f"{fold['repeat']}.{fold['fold']}" if audit.n_repeats > 1 else str(fold["fold"])
        counts = "".join(f"{fold['classes'][c]:>{w},}" for c, w in zip(shown, width, strict=True))
        lines.append(f"{name:>6}{fold['rows']:>9,}{fold['groups']:>9,}   {counts}")
    if len(audit.folds) > 20:
        lines.append(f"{'...':>6}{len(audit.folds) - 20:>9} more")
    return lines


def _cut(name: str) -> str:
    return name if len(name) <= 9 else name[:8] + "…"
