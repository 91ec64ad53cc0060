"""The first look, whole: from tables and facts of images to findings and to the duplicates that folds keep together.

In: a `Competition`, facts of its images (from the store; nothing is decoded here), content hashes. Out: `Look`: the
findings as plain data for `findings.json` and the page, and the duplicates for the folds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.competition.contract import Competition, labels_of
from pipeline.competition.grouping import merged_groups, units
from pipeline.config.data import Eda
from pipeline.eda.duplicates import copies, exact_sets
from pipeline.eda.findings import findings
from pipeline.eda.groups import possible_groups
from pipeline.eda.pictures import describe_images, outliers
from pipeline.eda.seen import Seen
from pipeline.eda.shift import measure_shift
from pipeline.eda.shortcuts import measure_shortcuts
from pipeline.eda.tables import conflicts, describe_tables

N_SAMPLES = 8


@dataclass(frozen=True)
class Look:
    """findings: as in `findings.json`. duplicates: sets of ids that show one picture, as in `duplicates.json`.

    `exact` and `copies` hold training rows, for the folds: [[id, ...], ...]. `with_test` holds each set that has test
    rows: {"kind": "exact" or "copies", "ids": training rows first, "n_train": how many these are}.
    """

    findings: dict[str, Any]
    duplicates: dict[str, list]


def look(
    competition: Competition,
    train: np.ndarray,
    test: np.ndarray,
    contents: Sequence[str],
    settings: Eda,
    px: int,
    step: Callable[[str], None],
) -> Look:
    """train, test: facts in the order of the rows. contents: hashes of both. px: the model's input. step: told what is
    done next."""
    n_train = len(train)
    facts = np.concatenate([train, test])
    step("looking for copies")
    exact = exact_sets(contents, facts["pixels"])
    copied = copies(facts["thumb"], exact)
    ids = [row["image_id"] for row in (*competition.train_rows, *competition.test_rows)]
    named = _named({"exact": exact, "copies": copied}, ids, n_train)
    group_of = merged_groups(competition, [*named["exact"], *named["copies"]])
    together = units(ids[:n_train], group_of)
    step("looking for groups that nobody declared")
    suspects = possible_groups(competition, train["thumb"], train["colour"], together, settings.seed)
    step("comparing the training set with the test set")
    shift = measure_shift(train, test, together, settings.seed)

    step("looking for what tells the label without the picture")
    shortcuts = measure_shortcuts(competition, train, test, together, settings.seed)

    seen = Seen(
        competition=competition,
        train=train,
        test=test,
        exact=exact,
        copies=copied,
        conflicts=conflicts(competition),
        outliers=outliers(facts),
        shift=shift,
        possible_groups=suspects,
        shortcuts=shortcuts,
        px=px,
    )
    data = describe_tables(competition) | {"images": describe_images(train, test), "shift": shift}
    data |= {"possible_groups": suspects, "shortcuts": shortcuts, "duplicates": _figures(seen)}
    return Look(data | {"findings": findings(seen), "samples": _samples(competition)}, named)


def _named(sets: dict[str, list[list[int]]], ids: list[str], n_train: int) -> dict[str, list]:
    """Sets of rows as `duplicates.json` has them."""
    named: dict[str, list] = {kind: [] for kind in (*sets, "with_test")}
    for kind, several in sets.items():
        for rows in several:
            names = [ids[row] for row in rows]
            n = sum(row < n_train for row in rows)
            if n > 1:
                named[kind].append(names[:n])
            if n < len(rows):
                named["with_test"].append({"kind": kind, "ids": names, "n_train": n})
    return named


def _figures(seen: Seen) -> dict[str, int]:
    """The copies in numbers."""
    exact, copied = seen.of_train(seen.exact), seen.of_train(seen.copies)
    return {
        "exact_sets": len(exact),
        "exact_rows": sum(map(len, exact)),
        "copy_sets": len(copied),
        "copy_rows": sum(map(len, copied)),
        "across_train_test": len(seen.across),
        "conflicting": len(seen.conflicting_copies),
    }


def _samples(competition: Competition) -> list[dict[str, Any]]:
    """A few images of each class, of as many groups as there are, the same ones each time."""
    by_class: dict[str, list[tuple[int, str]]] = {name: [] for name in competition.classes}
    n_of_group: dict[tuple[str, str], int] = {}
    for row in sorted(competition.train_rows, key=lambda row: row["image_id"]):
        for label in labels_of(row):
            key = label, row.get("group") or row["image_id"]
            n_of_group[key] = n_of_group.get(key, 0) + 1
            by_class[label].append((n_of_group[key], row["image_id"]))
    samples = []
    for name, members in by_class.items():
        ranked = sorted(members, key=lambda member: member[0])  # first one of every group, then second ones
        first = [member for member in ranked if member[0] == ranked[0][0]]
        spread = first[:: max(1, len(first) // N_SAMPLES)] if len(first) >= N_SAMPLES else ranked
        samples.append({"class": name, "images": [f"train:{image_id}" for _, image_id in spread[:N_SAMPLES]]})
    return samples
