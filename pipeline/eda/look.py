"""The first look, whole: from tables and facts of images to findings and to the duplicates that folds keep together.

In: a `Competition`, facts of its images (from the store; nothing is decoded here), content hashes. Out: `Look`: the
findings as plain data for `findings.json` and the page, and the duplicates for the folds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.competition.contract import Competition, labels_of
from pipeline.competition.grouping import merged_groups, sets_of, units
from pipeline.config.data import Eda
from pipeline.eda.duplicates import MIN_SIDE, NearPair, exact_sets, near_pairs
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
    """findings: as in `findings.json`. duplicates: `{"exact": [[id, ...]], "near": [[id, ...]]}`, of training rows."""

    findings: dict[str, Any]
    duplicates: dict[str, list[list[str]]]


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
    sides = np.minimum(facts["width"], facts["height"])
    step("looking for duplicates")
    exact = exact_sets(contents, facts["pixels"])
    near = near_pairs(facts["thumb"], sides, settings.near_bits, settings.near_correlation)
    near = _without_exact(near, exact)
    of_train = [[i for i in members if i < n_train] for members in exact]
    # Copies come in twos and threes. Where what looks alike makes one great heap (handwritten ones, blank slides), it
    # is no heap of copies, and to keep it together would ruin the folds for nothing. The other sets stay together.
    all_sets = sets_of(len(facts), [(pair.a, pair.b) for pair in near])
    heaped = {row for members in all_sets if len(members) > max(30, n_train // 20) for row in members}
    heap = max((len(members) for members in all_sets if members[0] in heaped), default=0)
    near = [pair for pair in near if pair.a not in heaped]
    near_sets = sets_of(n_train, [(pair.a, pair.b) for pair in near if pair.b < n_train])

    ids = [row["image_id"] for row in competition.train_rows]
    named = {
        "exact": [[ids[i] for i in members] for members in of_train if len(members) > 1],
        "near": [[ids[i] for i in members] for members in near_sets],
    }
    group_of = merged_groups(competition, [*named["exact"], *named["near"]])
    together = units(ids, group_of)
    step("looking for groups that nobody declared")
    suspects = possible_groups(competition, train["thumb"], train["colour"], together, settings.seed)
    step("comparing the training set with the test set")
    shift = measure_shift(train, test, together, settings.seed)

    step("looking for what tells the label without the picture")
    shortcuts = measure_shortcuts(competition, train, test, together, settings.seed)

    compared = bool((sides >= MIN_SIDE).mean() >= 0.5) if len(sides) else False
    seen = Seen(
        competition=competition,
        train=train,
        test=test,
        exact=exact,
        near=near,
        heap=heap,
        compared=compared,
        conflicts=conflicts(competition),
        outliers=outliers(facts),
        shift=shift,
        possible_groups=suspects,
        shortcuts=shortcuts,
        px=px,
    )
    data = describe_tables(competition) | {"images": describe_images(train, test), "shift": shift}
    data |= {"possible_groups": suspects, "shortcuts": shortcuts, "duplicates": _figures(seen, len(named["exact"]))}
    return Look(data | {"findings": findings(seen), "samples": _samples(competition)}, named)


def _figures(seen: Seen, n_exact: int) -> dict[str, Any]:
    """The duplicates in numbers."""
    why_not = "" if seen.compared else f"most images are smaller than {MIN_SIDE} px: copies and look-alikes are one"
    return {
        "exact_sets": n_exact,
        "near_pairs": sum(pair.b < len(seen.train) for pair in seen.near),
        "across_train_test": len(seen.across),
        "conflicting": len(seen.conflicting_copies),
        "compared": seen.compared,
        "why_not": why_not,
    }


def _without_exact(near: list[NearPair], exact: list[list[int]]) -> list[NearPair]:
    """Pairs that are not equal anyway."""
    set_of = {row: n for n, members in enumerate(exact) for row in members}
    return [p for p in near if p.a not in set_of or set_of[p.a] != set_of.get(p.b)]


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
