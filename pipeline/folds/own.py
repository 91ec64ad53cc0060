"""A folds file of the user's own, which must pass the same audit as ours.

In: a CSV with `image_id,fold` (and `fold_1`, ... for repeats; further columns are ignored). Out: the folds table, or
every mistake with its row. What is a leak in our own folds is a leak in anybody's, so a group or a set of duplicates on
both sides is refused.
"""

from pathlib import Path

import pandas as pd

from pipeline.competition.contract import WHERE, Competition
from pipeline.competition.grouping import Sets, merged_groups
from pipeline.competition.tables import columns_of, read_table
from pipeline.config.mistakes import Mistake, Mistakes, nearest, shown
from pipeline.folds.audit import audit_folds
from pipeline.folds.split import ALWAYS_TRAINED

MAX_FOLDS = 1_000


def read_own_folds(path: Path, competition: Competition, duplicates: Sets = ()) -> pd.DataFrame:
    """The table in our own form: sorted by id, labels and groups from the competition. Raises `Mistakes`."""
    mistakes: list[Mistake] = []
    rows = read_table(path, "folds.file", ["image_id", "fold"], mistakes, "the repository")
    columns = ["fold", *(c for c in columns_of(rows) if c.startswith("fold_") and c[5:].isdecimal())]
    known = {row["image_id"]: row["label"] for row in competition.train_rows}
    first: dict[str, str] = {}
    for row in rows:
        image_id, where = row["image_id"], row[WHERE]
        if image_id not in known:
            hint = nearest(image_id, known) if len(mistakes) < 10 else ""
            valid = "valid: an id of the training table"
            mistakes.append(Mistake(where, f"no training image {image_id!r}{hint}", valid, "folds file"))
        elif first.setdefault(image_id, where) != where:
            found = f"duplicate id {image_id!r}, first in {first[image_id]}"
            mistakes.append(Mistake(where, found, "valid: each training row once", "folds file"))
        for column in columns:
            text = row[column]
            if not (text.isdecimal() and text.isascii() and int(text) < MAX_FOLDS) and text != str(ALWAYS_TRAINED):
                valid = "valid: 0, 1, 2, ... or -1 for a row that is always trained on"
                mistakes.append(Mistake(where, f"{column} is {text!r}", valid, "folds file"))
    if rows:
        absent = [image_id for image_id in known if image_id not in first]
        valid = "valid: each training row once"
        mistakes += [Mistake(shown(path), f"training image {i!r} is missing", valid, "folds file") for i in absent]
    if mistakes:
        raise Mistakes(mistakes)
    group_of = merged_groups(competition, duplicates)
    rows = sorted(rows, key=lambda row: row["image_id"])
    ids = [row["image_id"] for row in rows]
    table = pd.DataFrame({"image_id": ids, "fold": [int(row["fold"]) for row in rows],
                          "label": [known[i] for i in ids], "group": [group_of[i] for i in ids]})  # fmt: skip
    for column in columns[1:]:
        table[column] = [int(row[column]) for row in rows]
    audit_folds(table, competition, duplicates, shown(path))
    return table
