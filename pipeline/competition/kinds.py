"""Labels that are not one class a row: several at once, or a number.

Everything that looks at labels class by class (the first look, the folds) sees them through `labels_of`; what is
trained on is `target_of`. A number's class is the tenth of the training rows that it falls into.
"""

from collections.abc import Sequence

from pipeline.competition.contract import SEVERAL, VALUE, Row
from pipeline.config.metric import number
from pipeline.config.mistakes import Mistake

N_BINS = 10
BETWEEN = "\x1f"  # no label holds it: tables are refused that hold control characters


def split_labels(rows: list[Row], separator: str) -> None:
    """`a b` and `b a` are the same two labels; an empty cell is none at all."""
    for row in rows:
        row[SEVERAL] = ""
        set_labels(row, [label for label in map(str.strip, row["label"].split(separator)) if label], separator)


def set_labels(row: Row, labels: Sequence[str], separator: str) -> None:
    """Gives a row these labels in place of its own: one, or as many as it has where it may have several."""
    labels = sorted(set(labels))
    if SEVERAL in row:
        row[SEVERAL] = BETWEEN.join(labels)
        row["label"] = separator.join(labels) if separator.strip() else " ".join(labels)
    else:
        [row["label"]] = labels


def read_numbers(rows: list[Row], place: str, mistakes: list[Mistake]) -> tuple[str, ...]:
    """Turns each row's number into its bin, as equal in size as equal numbers allow; the bins in order."""
    values = []
    for row in rows:
        value = number(row["label"])
        if value is None:
            found = f"label {row['label']!r} is no number"
            mistakes.append(Mistake(row["file:row"], found, "valid: a finite number", "labels", row["image_id"]))
        else:
            values.append(value)
    ranked = sorted(values)
    edges = sorted({ranked[i * len(ranked) // N_BINS] for i in range(N_BINS)}) if ranked else []
    if len(edges) == 1 and ranked[-1] > edges[0]:  # most are the lowest: zeros, and some that are not
        edges.append(next(value for value in ranked if value > edges[0]))
    if ranked and len(edges) < 2:
        found = f"all labels are {ranked[0]:g}"
        mistakes.append(Mistake(place, found, "valid: numbers that differ (competition.target=regression)", "classes"))
    ends = [*edges[1:], ranked[-1]] if ranked else []
    names = tuple(f"{low:g} to {high:g}" for low, high in zip(edges, ends, strict=True))
    if len(set(names)) < len(names):  # edges that six digits do not tell apart
        names = tuple(f"{low!r} to {high!r}" for low, high in zip(edges, ends, strict=True))
    for row in rows:
        value = number(row["label"])
        row[VALUE] = row["label"]
        row["label"] = "" if value is None else names[max(sum(value >= edge for edge in edges) - 1, 0)]
    return names


def target_of(row: Row) -> str:
    """All that the row's label says, as text: what a change of would change the training."""
    return row.get(VALUE, row.get(SEVERAL, row["label"]))
