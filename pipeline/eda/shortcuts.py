"""What tells the label without the picture: a model that learns it has learned where a picture comes from.

In: rows, facts of their files, the units that folds keep whole. Out: for facts of the file, and for facts of its name
and place, the cross-validated score of gradient boosting by them alone, with a 95 % interval, beside the scores of
shuffled labels (Geirhos et al. 2020, "Shortcut learning in deep neural networks").
"""

import os
import re
from collections import Counter
from typing import Any

import numpy as np

from pipeline.competition.contract import VALUE, WHERE, Competition, Row, labels_of
from pipeline.eda.shift import _whole_groups

MAX_ROWS = 3_000
MAX_CLASSES = 12  # the commonest ones: each costs as many trees as the next
MIN_UNITS = 24
K = 3
N_NULL = (5, 12)  # shuffles: the first few, and all where the score is above those
OF_CONTENT = "bytes per pixel"  # follows from what a picture shows as well, so it decides nothing
Facts = dict[str, np.ndarray]  # name -> (N,) float64

SIZE = """A model sees it: in borders, and in how far an image was enlarged or squeezed. Crop all images to one shape by
the same steps, or hide it by random crops."""
CODING = """A model sees it in the traces of compression. Save all images again in one format, mode and quality, or blur
some."""
SOURCE = """The pixels do not hold it, but images of one source share more than this. Declare the source as a group, so
that folds test on sources that a model has not seen."""
ORDER = """No model sees it. Either the files are sorted by label, or neighbours belong together: then declare a group.
Where it holds for test images too, it is a leak: tell the organisers."""
NAMED = ("format", "colour mode", "camera", "other data", "words in the id", "folder")  # facts without an order
ADVICE = {  # what to do about the fact that tells most, and the setting; else ORDER
    **dict.fromkeys(("width", "height", "width to height"), (SIZE, "augment.crop_area: [0.5, 1]")),
    **dict.fromkeys(("JPEG quantisation", "format", "bits", "transparency"), (CODING, "augment.blur: 0.3")),
    **dict.fromkeys(("EXIF", "colour profile", "orientation", "camera", "other data"),
                    (SOURCE, "competition.group_column")),
    "colour mode": (CODING, "images.mode: L"),
}  # fmt: skip


def measure_shortcuts(
    competition: Competition, train: np.ndarray, test: np.ndarray, units: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """Two entries, `of` "the file" and "the name". train, test: facts. units: (N,) int, of the training rows.

    `told` says whether the interval of the score lies above what shuffled labels reach in 95 of 100 cases.
    """
    rng = np.random.default_rng(seed)
    y, names = _answers(competition)
    several = competition.target == "multilabel"
    usable = np.arange(len(y)) if several or y.ndim == 1 else np.flatnonzero(y.any(axis=1))
    kept = usable[_whole_groups(units[usable], MAX_ROWS, rng)] if len(usable) else usable
    codes = np.unique(units[kept], return_inverse=True)[1]
    others = rng.permutation(len(test))[:MAX_ROWS]
    rows = [competition.train_rows[i] for i in kept], [competition.test_rows[i] for i in others]
    sources = {"the file": _of_files(np.concatenate([train[kept], test[others]])), "the name": _of_names(*rows)}
    return [{"of": of, **_measured(facts, y[kept], codes, names, several, rng)} for of, facts in sources.items()]


def _answers(competition: Competition) -> tuple[np.ndarray, list[str]]:
    """((N,) numbers, or (N, C) whether a row has each of the commonest classes; their names)"""
    rows = competition.train_rows
    if competition.target == "regression":
        return np.array([float(row[VALUE]) for row in rows]), []
    counts = Counter(label for row in rows for label in labels_of(row))
    names = [name for name, n in counts.most_common(MAX_CLASSES) if n >= K]
    return np.array([[name in labels_of(row) for name in names] for row in rows], bool).reshape(len(rows), -1), names


def _of_files(facts: np.ndarray) -> Facts:
    width, height = facts["width"].astype(np.float64), facts["height"].astype(np.float64)
    extras = [set(text.decode().split()) for text in facts["extras"].tolist()]
    found = {"width": width, "height": height, "width to height": width / height}
    found[OF_CONTENT] = facts["n_bytes"] / (width * height)
    found["JPEG quantisation"] = facts["quantisation"].astype(np.float64)
    for name, key in (("EXIF", "exif"), ("colour profile", "icc_profile")):
        found[name] = np.array([key in names for names in extras], float)
    kinds = {"format": "format", "colour mode": "mode", "bits": "bits", "transparency": "has_alpha",
             "orientation": "orientation", "camera": "camera", "other data": "extras"}  # fmt: skip
    return found | {name: _codes(facts[key].tolist()) for name, key in kinds.items()}


def _of_names(train: list[Row], test: list[Row]) -> Facts:
    """Numbers only where all ids have as many; words and folders only as far as test rows have them too."""
    rows, n = [*train, *test], len(train)
    stems = [os.path.splitext(os.path.basename(row["image_id"]))[0] for row in rows]
    numbers = [re.findall(r"\d+", stem, re.ASCII) for stem in stems]
    n_numbers = {len(runs) for runs in numbers}
    found: Facts = {}
    for i in range(min(max(n_numbers, default=0), 3) if len(n_numbers) == 1 else 0):
        name = "number in the id" + (f", {i + 1} from the left" if i else "")
        found[name] = np.array([min(float(runs[i]), 1e300) for runs in numbers])
    stems = [re.sub(r"\d+", "#", stem, flags=re.ASCII) for stem in stems]
    folders = [os.path.dirname(row["path"]) for row in rows]
    for name, values in (("words in the id", stems), ("folder", folders)):
        valid = set(values[n:])
        found[name] = _codes([value if value in valid else "" for value in values])
    places = [row[WHERE].rpartition(":")[2] for row in train]
    if all(place.isdecimal() for place in places):  # a folder has no order of its own
        found["place in the table"] = np.array([float(place) for place in places])
    return found


def _codes(values: list) -> np.ndarray:
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.float64)


def _measured(
    facts: Facts, y: np.ndarray, units: np.ndarray, names: list[str], several: bool, rng: np.random.Generator
) -> dict[str, Any]:
    """The score by all facts that vary, and the fact that tells most. facts: of the rows of `y`, then of test rows."""
    from scipy.stats import t

    def score_by(chosen: list[str], answers: np.ndarray) -> tuple[float, np.ndarray]:
        sums = _sums(np.column_stack([facts[name][: len(y)] for name in chosen]), answers, units, several, rng)
        return float(_score(sums.sum(axis=0), y.ndim)), sums

    varying = [name for name, values in facts.items() if len(np.unique(values[: len(y)])) > 1]
    metric, n_units = "rank correlation" if y.ndim == 1 else "macro F1", int(units.max(initial=-1)) + 1
    found: dict[str, Any] = {"told": False, "metric": metric, "varying": varying, "why_not": ""}
    if n_units < MIN_UNITS or not varying or (y.ndim == 2 and y.shape[1] < 1 + (not several)):
        return found | {"why_not": "too few rows, groups or classes" if varying else "none varies"}
    chosen = [name for name in varying if name != OF_CONTENT]
    with_bytes, decides, chosen = score_by(varying, y)[0], bool(chosen), chosen or varying
    score, sums = score_by(chosen, y)
    draws = rng.multinomial(n_units, np.full(n_units, 1 / n_units), 300)
    low, high = np.nanquantile(_score(draws @ sums, y.ndim), [0.025, 0.975])
    null: list[float] = []
    while len(null) < N_NULL[0] or (len(null) < N_NULL[1] and decides and low > np.mean(null)):
        shuffled = np.empty_like(y)  # a unit's labels stay together
        shuffled[np.argsort(units, kind="stable")] = y[np.argsort(rng.permutation(n_units)[units], kind="stable")]
        null.append(score_by(chosen, shuffled)[0])
    # where one more shuffle would fall in 95 of 100 cases, by Student's t
    reach = t.ppf(0.975, len(null) - 1) * np.std(null, ddof=1) * np.sqrt(1 + 1 / len(null))
    figures = {"score": score, "low": low, "high": high, "null_low": np.mean(null) - reach,
               "null_high": np.mean(null) + reach, "score_with_bytes": with_bytes}  # fmt: skip
    found |= {key: round(float(value), 4) for key, value in figures.items()}
    if not decides or found["low"] <= found["null_high"]:
        return found
    ranked = sorted(((name, round(score_by([name], y)[0], 2)) for name in chosen), key=lambda pair: -pair[1])
    values = facts[ranked[0][0]]
    return found | {"told": True, "facts": ranked[:6], **_spread(values[: len(y)], values[len(y) :], y, names)}


def _sums(x: np.ndarray, y: np.ndarray, units: np.ndarray, several: bool, rng: np.random.Generator) -> np.ndarray:
    """(n_units, S): what `_score` needs of each unit's out-of-fold predictions, to be added up."""
    from scipy.stats import rankdata
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    first = np.zeros(units.max() + 1, int)
    first[units] = y.argmax(axis=1) if y.ndim == 2 else 0
    fold = np.empty(len(first), int)
    fold[np.lexsort((rng.random(len(first)), first))] = np.arange(len(first)) % K  # stratified, each unit whole
    fold = fold[units]
    n_trees = int(np.clip(100 // (y.shape[1] if y.ndim == 2 else 1), 8, 24))
    how = {"max_iter": n_trees, "learning_rate": 5 / n_trees, "max_leaf_nodes": 6, "max_bins": 64, "random_state": 0,
           "min_samples_leaf": int(np.clip(len(y) // 40, 2, 10)), "early_stopping": False}  # fmt: skip
    said = np.zeros(y.shape)
    for k in range(K):
        held, fit = fold == k, fold != k
        if y.ndim == 1:
            said[held] = HistGradientBoostingRegressor(**how).fit(x[fit], y[fit]).predict(x[held])
            continue
        for column, target in enumerate(y.T) if several else [(0, y.argmax(axis=1))]:
            present, n = np.unique(target[fit], return_counts=True)
            answers = np.full(held.sum(), present[0])
            if len(present) > 1:
                probs = HistGradientBoostingClassifier(**how).fit(x[fit], target[fit]).predict_proba(x[held])
                # by the classes' shares, so that a rare one is as likely as the next: macro F1 counts them the same
                answers = present[(probs / n).argmax(axis=1)]
            said[held, column if several else answers] = answers if several else 1
    if y.ndim == 1:
        a, b = (rankdata(values) / len(y) - 0.5 for values in (y, said))
        parts = np.column_stack([np.ones(len(a)), a, b, a * b, a * a, b * b])
    else:
        parts = np.hstack([2 * (y * said), y + said])
    return np.stack([np.bincount(units, column) for column in parts.T], axis=1)


def _score(sums: np.ndarray, ndim: int) -> np.ndarray:
    """Of (..., S) sums: macro F1, over classes that occur; of numbers, the correlation of their ranks."""
    if ndim == 2:
        twice, both = np.split(sums, 2, axis=-1)
        return np.nanmean(np.where(both > 0, twice / np.maximum(both, 1e-12), np.nan), axis=-1)
    n, a, b, ab, aa, bb = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum((aa / n - (a / n) ** 2) * (bb / n - (b / n) ** 2), 1e-18))
    return (ab / n - a * b / n**2) / spread


def _spread(train: np.ndarray, test: np.ndarray, y: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Of the fact that tells most: whether test rows have it alike; median of the class that stands out, and others."""
    from scipy.stats import ks_2samp

    differs = ks_2samp(train, test) if len(test) else None
    on_test = "alike" if differs and (differs.statistic < 0.15 or differs.pvalue > 0.01) else "other"
    found: dict[str, Any] = {"on_test": on_test if differs else "none"}
    if y.ndim == 2:
        apart = [ks_2samp(train[has], train[~has]).statistic if 0 < has.sum() < len(has) else 0.0 for has in y.T]
        has = y[:, int(np.argmax(apart))]
        found |= {"class": names[int(np.argmax(apart))], "median": float(np.median(train[has]))}
        found["others"] = float(np.median(train[~has]))
    return found


def in_words(found: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """(level, title, what was seen, what to do, setting) of an entry; a level of "" where nothing is told."""
    if found["why_not"]:
        return "", "", f"Facts of {found['of']}: {found['why_not']}.", "", ""
    facts = [name for name in found["varying"] if name != OF_CONTENT]
    seen = (
        f"By {', '.join(facts) or OF_CONTENT} alone, gradient boosting reaches {found['metric']} {found['score']:.2f} "
    )
    seen += f"({found['low']:.2f} to {found['high']:.2f}) out of fold; with shuffled labels {found['null_low']:.2f} to "
    seen += f"{found['null_high']:.2f}."
    if not facts:
        seen += f" What a picture shows decides its {OF_CONTENT} as well, so this is no sign of a source."
    elif OF_CONTENT in found["varying"]:
        seen += f" With {OF_CONTENT}, which follow from what a picture shows as well, {found['score_with_bytes']:.2f}."
    if not found["told"]:
        return "", "", seen, "", ""
    fact, alone = found["facts"][0]
    do, setting = ADVICE.get(fact, (ORDER, "competition.group_column, competition.group_pattern"))
    name = fact[0].upper() + fact[1:]
    seen += f" {name} alone gives {alone:.2f}."
    if "class" in found and fact not in NAMED:
        seen += f" Its median is {found['median']:g} in class {found['class']} and {found['others']:g} elsewhere."
    if found["on_test"] == "alike":
        seen += " Test images have it spread alike."
    elif found["on_test"] == "other":
        seen += " Test images have it spread otherwise: cross-validation may promise too much."
    chance = (found["null_low"] + found["null_high"]) / 2
    grave = found["score"] - chance > 0.1 * (1 - chance) and (found["of"] == "the file" or found["on_test"] == "alike")
    level = "warning" if grave else "note"
    return level, f"{name} tells the label without the picture", seen, " ".join(do.split()), setting
