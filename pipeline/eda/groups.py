"""Groups that nobody declared: persons, patients, photos or sessions that show in ids, folders or columns.

In: the competition and thumbnails of its training images. Out: candidates with evidence. That ids share a prefix is no
proof (`img_1`, `img_2`); that images which share it look more alike than images of the same class which do not is. Such
a group leaks when folds split it, and the score then promises what the leaderboard will not keep.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.competition.contract import PART, RAW, TEXT, WHERE, Competition
from pipeline.competition.grouping import MISSING, units

MIN_GROUPS = 10
MIN_AUC = 0.6  # lower end of the interval, from which on likeness counts as evidence
MAX_PAIRS = 4_000


def possible_groups(
    competition: Competition, thumbs: np.ndarray, colours: np.ndarray, known: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """Candidates whose members look alike, the best first. known: (N,) units that folds keep whole already."""
    rows = competition.train_rows
    labels = np.array([row["label"] for row in rows])
    appearance = _appearance(thumbs, colours)
    found: list[dict[str, Any]] = []
    seen: set[tuple] = set()
    for what, setting, values in _candidates(competition):
        group_of = {str(i): "" if value in MISSING else value for i, value in enumerate(values)}
        codes = units(group_of, group_of)
        signature = tuple(_first_of(codes).tolist())  # the same partition under another name is told once
        if signature in seen or not _could_be_groups(codes, labels):
            continue
        seen.add(signature)
        auc = _likeness(appearance, codes, labels, known, seed)
        if auc and auc[1] >= MIN_AUC:
            n_groups = int(codes.max()) + 1
            figures = {"n_groups": n_groups, "mean_size": round(len(rows) / n_groups, 2)}
            interval = {"auc": round(auc[0], 3), "low": round(auc[1], 3), "high": round(auc[2], 3)}
            found.append({"what": what, **figures, **interval, "setting": setting})
    return sorted(found, key=lambda candidate: -candidate["low"])


def _candidates(competition: Competition) -> Iterator[tuple[str, str, list[str]]]:
    """(what it is, the setting that would declare it, its value for each row)"""
    rows = competition.train_rows
    own = {"image_id", "path", "label", "group", WHERE}
    columns = [key for key in rows[0] if key not in own and not key.startswith((PART, TEXT))] if rows else []
    for key in columns:
        column = key.removeprefix(RAW)
        yield f"column {column!r}", f"competition.group_column: {column}", [row.get(key, "") for row in rows]
    ids = [row["image_id"] for row in rows]
    for separator in "_-./ @":
        for where, pattern in (
            ("first", f"^([^{re.escape(separator)}]+){re.escape(separator)}"),
            ("last", f"^(.+){re.escape(separator)}[^{re.escape(separator)}]+$"),
        ):
            matches = [re.search(pattern, image_id) for image_id in ids]
            if all(matches):
                yield (
                    f"ids up to the {where} {separator!r}",
                    f"competition.group_pattern: '{pattern}'",
                    [match[1] for match in matches if match],
                )
    folders = [os.path.dirname(row["path"]) for row in rows]
    yield "folders of the images", "competition.group_column (a column that names the folder)", folders


def _first_of(codes: np.ndarray) -> np.ndarray:
    """For each row the first row of its group: equal for equal partitions."""
    first = np.full(codes.max(initial=0) + 1, len(codes))
    np.minimum.at(first, codes, np.arange(len(codes)))
    return first[codes]


def _could_be_groups(codes: np.ndarray, labels: np.ndarray) -> bool:
    """Some groups of some rows each, and not merely the label by another name."""
    n, sizes = len(codes), np.bincount(codes)
    if len(sizes) < MIN_GROUPS or len(sizes) > n / 1.1 or sizes.max() > n / 4:
        return False
    of_label = len(set(zip(codes.tolist(), labels.tolist(), strict=True))) == len(set(labels.tolist()))
    return bool((sizes[codes] > 1).mean() >= 0.3) and not of_label


def _appearance(thumbs: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(N, F) float32: what an image looks like, whatever its size and sharpness. Rows of norm 1: products compare."""
    grey = thumbs.reshape(len(thumbs), 8, 4, 8, 4, -1).mean(axis=(2, 4, 5)).reshape(len(thumbs), -1)
    grey = grey - grey.mean(axis=1, keepdims=True)
    grey /= np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6)
    tint = colours.reshape(len(colours), -1).astype(np.float64)
    tint = (tint - tint.mean(axis=0)) / np.maximum(tint.std(axis=0), 1e-6)
    tint /= np.maximum(np.linalg.norm(tint, axis=1, keepdims=True), 1e-6)
    return np.concatenate([grey, tint], axis=1).astype(np.float32) / np.sqrt(2)


def _likeness(
    appearance: np.ndarray, codes: np.ndarray, labels: np.ndarray, known: np.ndarray, seed: int
) -> tuple[float, float, float] | None:
    """AUC with interval: a pair of one group is more alike than a pair of the same label from two groups.

    Only pairs that no known group holds together count: what is declared already needs no second declaration. None
    where there are too few such pairs.
    """
    rng = np.random.default_rng(seed)
    of_group: dict[int, list[int]] = {}
    for row, code in enumerate(codes.tolist()):
        of_group.setdefault(code, []).append(row)
    of_label = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    within: list[tuple[int, int, int]] = []
    for code in rng.permutation(len(of_group)).tolist():
        members = of_group[code]
        pairs = [(a, b) for i, a in enumerate(members[:12]) for b in members[i + 1 : 12] if known[a] != known[b]]
        chosen = rng.permutation(len(pairs))[:8].tolist()
        within += [(*pairs[i], code) for i in chosen]
        if len(within) >= MAX_PAIRS:
            break
    if len({code for *_, code in within}) < MIN_GROUPS:
        return None
    alike, other, group = [], [], []
    for a, b, code in within:
        stranger = int(rng.choice(of_label[labels[b]]))
        if codes[stranger] != code:
            alike.append(float(appearance[a] @ appearance[b]))
            other.append(float(appearance[a] @ appearance[stranger]))
            group.append(code)
    if len(alike) < 2 * MIN_GROUPS:
        return None
    return _auc_by_group(np.array(alike), np.array(other), np.array(group), rng)


def _auc_by_group(
    alike: np.ndarray, other: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """P(alike > other) over all pairs of pairs, with a 95 % bootstrap interval over groups."""
    ranks = np.argsort(np.argsort(np.concatenate([other, alike]), kind="stable"), kind="stable")[len(other) :]
    below = (ranks - np.argsort(np.argsort(alike, kind="stable"), kind="stable")) / len(other)  # per alike pair
    codes = np.unique(group, return_inverse=True)[1]
    sums, counts = np.bincount(codes, below), np.bincount(codes)
    draws = rng.integers(0, len(sums), (400, len(sums)))
    values = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(below.mean()), float(low), float(high)
