"""Everything that the first look measured, in one place, and how its images are named on the page.

In: what the modules of this room found. Out: `Seen`, which `findings` puts into words.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.competition.contract import Competition


@dataclass(frozen=True)
class Seen:
    """Everything that was measured. Row numbers count training rows first, then test rows."""

    competition: Competition
    train: np.ndarray
    test: np.ndarray
    exact: list[list[int]]
    copies: list[list[int]]  # each with all rows of an exact set, or with none of them
    conflicts: list[dict[str, Any]]
    outliers: dict[str, np.ndarray]
    shift: dict[str, Any]
    possible_groups: list[dict[str, Any]]
    shortcuts: list[dict[str, Any]]
    px: int

    @cached_property
    def facts(self) -> np.ndarray:
        return np.concatenate([self.train, self.test])

    @property
    def rows(self) -> list[dict[str, str]]:
        return [*self.competition.train_rows, *self.competition.test_rows]

    def key(self, row: int) -> str:
        """`train:ID` or `test:ID`."""
        n = len(self.train)
        side, rows = ("train", self.competition.train_rows) if row < n else ("test", self.competition.test_rows)
        return f"{side}:{rows[row if row < n else row - n]['image_id']}"

    def caption(self, row: int) -> str:
        n = len(self.train)
        if row >= n:
            return f"{self.competition.test_rows[row - n]['image_id']}, test"
        mine = self.competition.train_rows[row]
        group = f", group {mine['group']}" if mine.get("group") else ""
        return f"{mine['image_id']}, {mine['label']}{group}"

    def apart(self, a: int, b: int) -> bool:
        """Whether no declared group holds two training rows together."""
        group = self.competition.train_rows[a].get("group")
        return not group or group != self.competition.train_rows[b]["group"]

    def of_train(self, sets: list[list[int]]) -> list[tuple[int, ...]]:
        """The training rows of each set that has several of them."""
        inside = (tuple(row for row in rows if row < len(self.train)) for rows in sets)
        return [rows for rows in inside if len(rows) > 1]

    @cached_property
    def across(self) -> list[tuple[int, int, bool]]:
        """(a training row, a test row with its picture, whether the pixels are equal), each test row once."""
        n = len(self.train)
        found: dict[int, tuple[int, int, bool]] = {}
        for sets, is_exact in ((self.exact, True), (self.copies, False)):
            for rows in sets:
                for row in rows if rows[0] < n else ():
                    if row >= n:
                        found.setdefault(row, (rows[0], row, is_exact))
        return [found[row] for row in sorted(found)]

    @cached_property
    def conflicting_copies(self) -> list[tuple[int, ...]]:
        """Sets of training rows with different labels: of equal pixels, and copies of two groups.

        Within a group copies may differ in just what the label is about (a person with a mask and without).
        """
        rows = self.competition.train_rows
        exact = [members for members in self.of_train(self.exact) if len({rows[i]["label"] for i in members}) > 1]
        listed = {row for members in exact for row in members}
        copies = []
        for members in self.of_train(self.copies):
            kinds = {(rows[i]["label"], rows[i].get("group", "")): i for i in members}
            pairs = combinations(kinds.values(), 2)
            if any(rows[a]["label"] != rows[b]["label"] and self.apart(a, b) for a, b in pairs):
                copies += [members] if not listed.issuperset(members) else []
        return [*exact, *copies]
