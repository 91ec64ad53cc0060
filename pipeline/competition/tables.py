"""CSV tables as the organisers wrote them: rows of strings, each with its place, and every mistake in their shape.

Values stay the strings they are in the file (`0007` is not 7), because the submission must repeat them exactly.
"""

import csv
from pathlib import Path

from pipeline.competition.contract import WHERE, Row
from pipeline.config.mistakes import Mistake, listed, nearest, shown


def read_table(path: Path, setting: str, needed: list[str], mistakes: list[Mistake], root: str = "") -> list[Row]:
    """The rows under `needed` columns and all others. setting: what names the file; root: what its path starts from."""
    name = shown(path)
    if not path.is_file():
        valid = f"{setting} names it, relative to {root or 'competition.root'}"
        if name.startswith("data/digits/"):
            valid += " (a part-made data/digits: delete it, it is made anew)"
        mistakes.append(Mistake(name, "there is no such file", valid, "missing tables"))
        return []
    rows: list[Row] = []
    n_before = len(mistakes)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            absent = set(needed) - set(header)
            if absent or len(set(header)) < len(header) or not header:
                found = f"columns {listed(header) or 'none'}"
                valid = f"valid: a header with {', '.join(needed) or 'names'}, each once (competition.*_column)"
                mistakes.append(Mistake(f"{name}:1", found, valid, "columns"))
                return []
            for values in reader:
                if not values:
                    continue  # a blank line, as editors leave at the end
                if len(values) != len(header):
                    found = f"{len(values)} values under {len(header)} columns"
                    place, valid = f"{name}:{reader.line_num}", f"valid: {listed(header)}"
                    mistakes.append(Mistake(place, found, valid, "ragged rows"))
                    continue
                rows.append({**dict(zip(header, values, strict=True)), WHERE: f"{name}:{reader.line_num}"})
    except (UnicodeDecodeError, csv.Error) as error:
        valid = "valid: UTF-8 text, comma-separated"
        mistakes.append(Mistake(name, f"not readable as CSV ({error})", valid, "unreadable tables"))
        return []
    if not rows and len(mistakes) == n_before:
        mistakes.append(Mistake(name, "no rows", "valid: at least one row under the header", "empty tables"))
    return rows


def columns_of(table: list[Row]) -> list[str]:
    """The table's own columns, in its order."""
    return [column for column in table[0] if column != WHERE] if table else []


def sample_columns(
    sample: list[Row], path: Path, id_column: str, mistakes: list[Mistake]
) -> tuple[tuple[str, str], tuple[str, ...]]:
    """((id column, label column), columns of classes) of the sample submission; named otherwise than in train, maybe.

    One column beside the ids is the label; several are probabilities, and each must be a class (`assemble` looks).
    """
    columns = columns_of(sample)
    if not sample:
        return (id_column, "label"), ()
    if len(columns) < 2:
        valid = "valid: the image ids, and the label to predict or a probability for each class"
        mistakes.append(Mistake(f"{shown(path)}:1", f"columns {', '.join(columns)}", valid, "columns"))
    ids = id_column if id_column in columns else columns[0]
    others = [column for column in columns if column != ids]
    if len(others) > 1:
        return (ids, "label"), tuple(others)
    return (ids, others[0] if others else "label"), ()


def check_same_ids(sample: list[Row], test: list[Row], column: str, test_path: Path, mistakes: list[Mistake]) -> None:
    """Each id of the sample in the test table and the other way round."""
    in_test = {row.get(column) for row in test}
    in_sample = {row.get(column) for row in sample}
    if not test or not sample:
        return
    for row in sample:
        if row.get(column) not in in_test:
            hint = nearest(str(row.get(column)), [str(i) for i in in_test]) if len(mistakes) < 10 else ""
            found = f"{column} {row.get(column)!r} is not in the test table{hint}"
            valid = f"valid: an id of {shown(test_path)}"
            mistakes.append(Mistake(row[WHERE], found, valid, "sample ids not in the test table"))
    for row in test:
        if row.get(column) not in in_sample:
            found = f"{column} {row.get(column)!r} is not in the sample submission"
            valid = "valid: the sample lists each test id once"
            mistakes.append(Mistake(row[WHERE], found, valid, "test ids not in the sample"))


def unique_rows(rows: list[Row], column: str, mistakes: list[Mistake]) -> list[Row]:
    """The rows with an id of their own; an empty id, and one that stands twice, is told with its places."""
    first: dict[str, str] = {}
    unique = []
    for row in rows:
        image_id = row.get(column, "")
        if not image_id:
            valid = f"valid: a value in column {column!r}"
            mistakes.append(Mistake(row[WHERE], "the id is empty", valid, "empty ids"))
        elif not image_id.isprintable():
            found = f"the id {image_id!r} holds a control character"
            mistakes.append(Mistake(row[WHERE], found, "valid: an id of letters, digits and signs", "odd ids"))
        elif image_id in first:
            found = f"duplicate id {image_id!r}, first in {first[image_id]}"
            mistakes.append(Mistake(row[WHERE], found, "valid: each id once", "duplicate ids"))
        else:
            first[image_id] = row[WHERE]
            unique.append(row)
    return unique
