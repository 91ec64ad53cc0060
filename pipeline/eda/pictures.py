"""What the images are like: sizes, formats, channels, distributions, and the ones that stand apart.

In: facts of images from the store. Out: plain data. Nothing is decoded here.
"""

from collections import Counter
from typing import Any

import numpy as np

N_BINS = 24
MEASURES = ("width", "height", "aspect", "brightness", "contrast", "sharpness")
FAR = 6.0  # robust standard deviations (from the median absolute deviation)


def measures(facts: np.ndarray) -> dict[str, np.ndarray]:
    """(N,) floats of each measure; sharpness is the logarithm of the Laplacian's variance, which spans decades."""
    return {
        "width": facts["width"].astype(float),
        "height": facts["height"].astype(float),
        "aspect": facts["width"] / facts["height"],
        "brightness": facts["brightness"].astype(float),
        "contrast": facts["contrast"].astype(float),
        "sharpness": np.log10(np.maximum(facts["blur"], 1e-7)).astype(float),
    }


def describe_images(train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """`{"train": ..., "test": ...}`, with common bin edges so that the two can be compared."""
    of = {"train": measures(train), "test": measures(test)}
    edges = {}
    for name in MEASURES:
        values = np.concatenate([of["train"][name], of["test"][name]])
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        edges[name] = np.linspace(low, high if high > low else low + 1, N_BINS + 1)
    return {side: _summary(facts, of[side], edges) for side, facts in (("train", train), ("test", test))}


def _summary(facts: np.ndarray, values: dict[str, np.ndarray], edges: dict[str, np.ndarray]) -> dict[str, Any]:
    if not len(facts):
        nothing = {"edges": [], "counts": [], "low": 0.0, "median": 0.0, "high": 0.0}
        empty = {"n": 0, "sizes": {}, "n_sizes": 0, "modes": {}, "formats": {}, "mean": [], "std": []}
        return empty | dict.fromkeys(MEASURES, nothing)
    sizes = Counter(zip(facts["width"].tolist(), facts["height"].tolist(), strict=True))
    mean = facts["mean"].astype(np.float64).mean(axis=0)
    variance = facts["sq"].astype(np.float64).mean(axis=0) - mean**2  # over all pixels, each image counting the same
    return {
        "n": len(facts),
        "sizes": {f"{w}x{h}": n for (w, h), n in sizes.most_common(20)},
        "n_sizes": len(sizes),
        "modes": dict(Counter(text(facts["mode"])).most_common()),
        "formats": dict(Counter(text(facts["format"])).most_common()),
        "mean": [round(float(v), 4) for v in mean],
        "std": [round(float(np.sqrt(max(v, 0))), 4) for v in variance],
        **{name: _histogram(values[name], edges[name]) for name in MEASURES},
    }


def _histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    counts, _ = np.histogram(values, bins=edges)
    return {
        "edges": [round(float(edge), 5) for edge in edges],
        "counts": counts.tolist(),
        "low": round(float(values.min()), 5),
        "median": round(float(np.median(values)), 5),
        "high": round(float(values.max()), 5),
    }


def outliers(facts: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that stand apart, the farthest first: `dark`, `bright`, `flat` (next to one colour) and `blurred`.

    Far from the rest by robust deviations and extreme in itself: in a set of dark photographs none is an outlier.
    """
    if len(facts) < 10:
        return {}
    of = measures(facts)
    depth = {name: (of[name] - np.median(of[name])) / _spread(of[name]) for name in ("brightness", "sharpness")}
    found = {
        "dark": _ranked(-depth["brightness"], of["brightness"] < 0.12),
        "bright": _ranked(depth["brightness"], of["brightness"] > 0.9),
        "flat": _ranked(-of["contrast"], of["contrast"] < 0.01, at_least=-1),
        "blurred": _ranked(-depth["sharpness"], of["contrast"] >= 0.01),
    }
    return {name: rows for name, rows in found.items() if len(rows)}


def _spread(values: np.ndarray) -> float:
    """The standard deviation that a normal distribution of this median absolute deviation has."""
    return float(max(1.4826 * np.median(np.abs(values - np.median(values))), 1e-3))


def _ranked(depth: np.ndarray, also: np.ndarray, at_least: float = FAR) -> np.ndarray:
    rows = np.flatnonzero((depth >= at_least) & also)
    return rows[np.argsort(-depth[rows], kind="stable")]


def text(column: np.ndarray) -> list[str]:
    """Strings of a column of fixed-size bytes or strings."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in column.tolist()]
