"""A blend as data: what leads from the outputs of its members to a submission, so that it can be done again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.ensemble.bias import apply_bias
from pipeline.ensemble.combine import Average, mixed, settled


@dataclass(frozen=True)
class Recipe:
    """weights: one a member. bias: one a class, or none."""

    average: Average
    weights: tuple[float, ...]
    bias: tuple[float, ...]

    def outputs(self, members: Sequence[np.ndarray], kind: str) -> np.ndarray:
        """members: what `combine.spread` gave for each, (N, C). (N, C) float64, by which ties of votes are settled."""
        mean = settled(mixed(members, self.weights), self.average, kind)
        return apply_bias(mean, np.array(self.bias), kind)
