"""Pseudo-labels that cannot leak: what one fold's models are sure of, lent to that fold's training alone.

A test row that all folds' models label together carries what every fold's validation rows taught some of them, so that
a model trained on it is scored on rows it has heard of. Here fold k's label comes from fold k's models, which never saw
fold k's validation rows; another fold may label the same image otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.metrics import decisions
from pipeline.train import TrainingData


@dataclass(frozen=True)
class Lent:
    """Test rows that one split's models learn from. places: of them among the test rows."""

    places: np.ndarray  # (M,)
    targets: torch.Tensor  # (M,) or (M, C), as `train.TrainingData` has them
    confidence: np.ndarray  # (M,)
    images: torch.Tensor  # (M, px, px, C) uint8, through the preprocessing
    pixels: Callable[[int], np.ndarray]  # place among the test rows -> whole image
    keys: np.ndarray  # (M,) uint64, from augment.image_keys

    def joined(self, data: TrainingData, train_rows: np.ndarray) -> tuple[TrainingData, np.ndarray]:
        """The data with these rows behind its own, and what is trained on: its rows and these."""
        n = len(data.targets)

        def pixels(row: int) -> np.ndarray:
            return data.pixels(row) if row < n else self.pixels(int(self.places[row - n]))

        more = replace(
            data,
            images=torch.cat([data.images, self.images]),
            pixels=pixels,
            targets=torch.cat([data.targets, self.targets.to(data.targets.dtype)]),
            train_targets=torch.cat([data.train_targets, self.targets.to(data.train_targets.dtype)]),
            image_ids=np.concatenate([data.image_ids, np.array([f"test row {place + 1}" for place in self.places])]),
            keys=np.concatenate([data.keys, self.keys]),
        )
        return more, np.concatenate([train_rows, n + np.arange(len(self.places))])


def confident(outputs: np.ndarray, kind: str, threshold: float, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(places, targets, confidence) of the rows whose answer is at least `threshold` probable, at most `most` of them.

    outputs: (N, C) of one fold's models. With several labels a row, each of them must be as sure, as present or as
    absent. The surest come first; places ascend again at the end, so that the order says nothing.
    """
    answers = decisions(outputs, kind)
    if kind == "multilabel":
        sure = np.maximum(outputs, 1 - outputs).min(axis=1)
    else:
        sure = outputs[np.arange(len(outputs)), answers]
    good = np.flatnonzero(sure >= threshold)
    chosen = np.sort(good[np.argsort(-sure[good], kind="stable")][:most])
    return chosen, answers[chosen], sure[chosen]
