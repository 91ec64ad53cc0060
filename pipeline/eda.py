"""A first look at the competition: how many of what, and whether every image can be read.

In: a `Competition` and what the images room saw of each file. Out: facts as plain data (`findings.json`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.competition.contract import Competition, Row


def look(competition: Competition, train: list[dict], test: list[dict]) -> dict[str, Any]:
    """train, test: width, height, mode, format and brightness of each image, from `images.decode.describe`."""
    counts = Counter(row["label"] for row in competition.train_rows)
    class_counts = {name: counts[name] for name in competition.classes}
    smallest = min(class_counts.values(), default=0)
    return {
        "n_train": len(competition.train_rows),
        "n_test": len(competition.test_rows),
        "n_classes": len(competition.classes),
        "n_groups": len({row["group"] for row in competition.train_rows}) if competition.has_groups else 0,
        "class_counts": class_counts,
        "imbalance_ratio": max(class_counts.values(), default=0) / smallest if smallest else float("inf"),
        "train": _summary(train),
        "test": _summary(test),
    }


def _summary(seen: list[dict]) -> dict[str, Any]:
    """Sizes, modes and formats by how often they occur, and the mean brightness (0..1)."""
    return {
        "sizes": dict(Counter(f"{image['width']}x{image['height']}" for image in seen).most_common(20)),
        "modes": dict(Counter(image["mode"] for image in seen)),
        "formats": dict(Counter(image["format"] for image in seen)),
        "brightness": float(np.mean([image["brightness"] for image in seen])) if seen else 0.0,
    }


def examples(competition: Competition, n_per_class: int = 8) -> dict[str, Sequence[Row]]:
    """The first few rows of each class by id, for a picture of what the classes look like."""
    rows = sorted(competition.train_rows, key=lambda row: row["image_id"])
    return {name: [row for row in rows if row["label"] == name][:n_per_class] for name in competition.classes}
