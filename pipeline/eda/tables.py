"""What the tables say: classes, parts of labels, groups, and labels that contradict each other inside a group."""

from collections import Counter
from itertools import combinations
from typing import Any

from pipeline.competition.contract import PART, Competition, labels_of

CONSTANT = 0.95  # of the groups with several rows: from here on, something that varies in a group is an exception


def describe_tables(competition: Competition) -> dict[str, Any]:
    """Counts as plain data, the first half of `findings.json`."""
    rows = competition.train_rows
    counts = Counter(label for row in rows for label in labels_of(row))
    n_of_class = [counts[name] for name in competition.classes]
    smallest = min((n for n in n_of_class if n), default=0)
    means = competition.class_means or ("",) * len(competition.classes)
    described = zip(competition.classes, means, n_of_class, strict=True)
    sizes = Counter(Counter(row["group"] for row in rows if row.get("group")).values())
    return {
        "name": competition.name,
        "metric": competition.metric,
        "n_train": len(rows),
        "n_test": len(competition.test_rows),
        "n_classes": len(competition.classes),
        "n_groups": sum(sizes.values()),
        "imbalance_ratio": round(max(n_of_class, default=0) / smallest, 1) if smallest else 0.0,
        "classes": [
            {"name": name, "means": mean, "n": n, "share": n / max(len(rows), 1)} for name, mean, n in described
        ],
        "parts": _parts(competition),
        "joint": _joint(competition),
        "group_sizes": {str(size): sizes[size] for size in sorted(sizes)},
    }


def _parts(competition: Competition) -> list[dict[str, Any]]:
    return [
        {"name": name, "values": list(values), "counts": [counts[value] for value in values]}
        for name, values in competition.parts.items()
        for counts in [Counter(row.get(PART + name) for row in competition.train_rows)]
    ]


def _joint(competition: Competition) -> list[dict[str, Any]]:
    """A table of counts for each two parts."""
    tables = []
    for (one, one_values), (other, other_values) in combinations(competition.parts.items(), 2):
        counts = Counter((row.get(PART + one), row.get(PART + other)) for row in competition.train_rows)
        table = [[counts[a, b] for b in other_values] for a in one_values]
        values = {"row_values": list(one_values), "column_values": list(other_values)}
        tables.append({"rows": one, "columns": other, **values, "counts": table})
    return tables


def conflicts(competition: Competition) -> list[dict[str, Any]]:
    """Groups in which something varies that is the same throughout nearly all other groups.

    A person has one gender in 499 of 500 folders: in the 500th it is a slip. Where labels vary within groups as a rule
    (faces of one photo), nothing is said.
    """
    if not competition.has_groups:
        return []
    members: dict[str, list[dict[str, str]]] = {}
    for row in competition.train_rows:
        if row["group"]:
            members.setdefault(row["group"], []).append(row)
    several = {group: rows for group, rows in members.items() if len(rows) > 1}
    found = []
    for key in ["label", *(PART + name for name in competition.parts)]:
        varying = [group for group, rows in several.items() if len({row[key] for row in rows}) > 1]
        if not varying or len(several) < 5 or len(varying) > max(1, (1 - CONSTANT) * len(several)):
            continue
        for group in varying:
            counts = Counter(row[key] for row in several[group])
            ids = {value: [row["image_id"] for row in several[group] if row[key] == value] for value in counts}
            found.append({"what": key.removeprefix(PART), "group": group, "counts": dict(counts), "ids": ids})
    return found
