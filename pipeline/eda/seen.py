"""Everything that the first look measured, in one place, and how its images are named on the page.

In: what the modules of this room found. Out: `Seen`, which `findings` puts into words.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.competition.contract import Competition
from pipeline.eda.duplicates import NearPair


@dataclass(frozen=True)
class Seen:
    """Everything that was measured. Row numbers count training rows first, then test rows."""

    competition: Competition
    train: np.ndarray
    test: np.ndarray
    exact: list[list[int]]
    near: list[NearPair]
    heap: int  # size of the largest heap of look-alikes, where it is too large to be one of copies; else 0
    compared: bool
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

    @cached_property
    def across(self) -> list[tuple[int, int]]:
        """(a training image, a test image that is a copy of it), each test image once."""
        n = len(self.train)
        pairs = [(members[0], other) for members in self.exact if members[0] < n for other in members if other >= n]
        pairs += [(pair.a, pair.b) for pair in self.near if pair.a < n <= pair.b]
        return [(a, b) for b, a in sorted({b: a for a, b in reversed(pairs)}.items())]

    @cached_property
    def conflicting_copies(self) -> list[tuple[int, ...]]:
        """Training copies that bear different labels: exact ones, and near ones of two groups.

        Within a group near-duplicates may differ in just what the label is about (a person with a mask and without).
        """
        n, rows = len(self.train), self.competition.train_rows
        pairs = [(p.a, p.b) for p in self.near if p.b < n and self.apart(p.a, p.b)]
        sets = [tuple(i for i in members if i < n) for members in [*self.exact, *pairs]]
        return [members for members in sets if len({rows[i]["label"] for i in members}) > 1]
