"""Competitions given as CSV tables and image files.

In: `Tables` settings. Out: a `Competition` and every mistake in its tables, each with file and row. Ids and paths are
a stranger's words: they may not climb out of the competition's folder, by `..`, an absolute path or a link.
Values stay the strings they are in the file (`0007` is not 7), because the submission must repeat them exactly.
"""

import csv
import math
import os
from pathlib import Path
from string import Formatter

from pipeline.competition.contract import WHERE, Competition, Row
from pipeline.config.mistakes import Mistake, nearest, shown
from pipeline.config.settings import ROOT, Tables


def read(settings: Tables) -> Competition:
    """Reads the tables. The images themselves are looked at by `missing_images` and by the images room."""
    root = ROOT / settings.root
    mistakes: list[Mistake] = []
    needed = [settings.id_column, settings.label_column]
    if settings.group_column != "none":
        needed.append(settings.group_column)
    train = _read_table(root / settings.train_csv, "competition.train_csv", needed, mistakes)
    sample = _read_table(root / settings.sample_csv, "competition.sample_csv", [], mistakes)
    sample_columns = _sample_columns(sample, settings, root / settings.sample_csv, mistakes)
    ids, label = sample_columns
    if settings.test_csv == settings.sample_csv:
        test = [dict(row) for row in sample]
    else:
        test = _read_table(root / settings.test_csv, "competition.test_csv", [ids], mistakes)
        _check_same_ids(sample, test, ids, root / settings.test_csv, mistakes)

    roles = {"image_id": settings.id_column, "label": settings.label_column}
    if settings.group_column != "none":
        roles["group"] = settings.group_column
    train = _as_rows(train, roles, settings.train_images, "competition.train_images", root, mistakes)
    test = _as_rows(test, {"image_id": ids}, settings.test_images, "competition.test_images", root, mistakes)
    if settings.test_csv != settings.sample_csv:
        by_id = {row["image_id"]: row for row in test}
        test = [by_id[image_id] for image_id in _unique_ids(sample, ids, mistakes) if image_id in by_id]
    classes = _classes(train, settings, mistakes)
    for row in train:
        if settings.group_column != "none" and not row["group"]:
            valid = f"valid: a value in column {settings.group_column!r}"
            mistakes.append(Mistake(row[WHERE], "the group is empty", valid, "empty groups"))
    placeholders = [row.get(label, "") for row in sample]
    label_texts = _label_texts(classes, placeholders, shown(root / settings.sample_csv), label, mistakes)
    for row in test:
        row.pop(label, None)  # the sample's placeholder is not a prediction
    trained_on = {row["path"]: row[WHERE] for row in train}
    for row in test:
        if row["path"] in trained_on:
            found = f"test image {row['image_id']!r} is a training image too ({trained_on[row['path']]})"
            mistakes.append(Mistake(row[WHERE], found, "valid: an image on one side only", "images in train and test"))
    return Competition(
        name=settings.name,
        metric=settings.metric,
        classes=classes,
        has_groups=settings.group_column != "none",
        train_rows=train,
        test_rows=test,
        sample_columns=sample_columns,
        sample_csv=root / settings.sample_csv,
        label_texts=label_texts,
        mistakes=mistakes,
    )


def missing_images(settings: Tables, competition: Competition) -> list[Mistake]:
    """Each row whose image is not a file inside the competition's folder."""
    root = ROOT / settings.root
    real_root = os.path.realpath(root)
    real_folders: dict[str, str] = {}
    mistakes = []
    for row in [*competition.train_rows, *competition.test_rows]:
        path = row["path"]
        folder = os.path.dirname(path)
        real = real_folders.setdefault(folder, os.path.realpath(folder))
        if os.path.islink(path):
            real = os.path.realpath(path)
        if os.path.commonpath([real, real_root]) != real_root:
            found = f"image {row['image_id']!r} is a link to outside the competition's folder"
            mistakes.append(Mistake(row[WHERE], found, f"valid: a file under {shown(root)}", "links out of the folder"))
        elif not os.path.isfile(path):
            there = sorted(os.listdir(folder))[:20_000] if os.path.isdir(folder) else []
            hint = nearest(os.path.basename(path), there) if len(mistakes) < 3 else ""
            found = f"image {row['image_id']!r} is missing{hint}"
            mistakes.append(Mistake(row[WHERE], found, f"valid: a file {shown(Path(path))}", "missing images"))
    return mistakes


def _read_table(path: Path, setting: str, needed: list[str], mistakes: list[Mistake]) -> list[Row]:
    """The rows as dicts of strings, each with its place under `where`."""
    name = shown(path)
    if not path.is_file():
        found = "there is no such file"
        valid = (
            f"{setting} names it, relative to competition.root (a part-made data/digits: delete it, it is made anew)"
        )
        mistakes.append(Mistake(name, found, valid, "missing tables"))
        return []
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            absent = [column for column in needed if column not in header]
            twice = {column for column in header if header.count(column) > 1}
            if absent or twice or not header:
                found = f"columns {', '.join(header) or 'none'}"
                valid = f"valid: a header with {', '.join(needed) or 'names'}, each once (competition.*_column)"
                mistakes.append(Mistake(f"{name}:1", found, valid, "columns"))
                return []
            for values in reader:
                if not values:
                    continue  # a blank line, as editors leave at the end
                if len(values) != len(header):
                    found = f"{len(values)} values under {len(header)} columns"
                    mistakes.append(
                        Mistake(f"{name}:{reader.line_num}", found, f"valid: {','.join(header)}", "ragged rows")
                    )
                    continue
                rows.append({**dict(zip(header, values, strict=True)), WHERE: f"{name}:{reader.line_num}"})
    except (UnicodeDecodeError, csv.Error) as error:
        mistakes.append(
            Mistake(name, f"not readable as CSV ({error})", "valid: UTF-8 text, comma-separated", "unreadable tables")
        )
        return []
    if not rows and not any(m.where.startswith(name) for m in mistakes):
        mistakes.append(Mistake(name, "no rows", "valid: at least one row under the header", "empty tables"))
    return rows


def _sample_columns(sample: list[Row], settings: Tables, path: Path, mistakes: list[Mistake]) -> tuple[str, str]:
    """(id column, label column) of the sample submission, which may be named otherwise than in train."""
    columns = [column for column in sample[0] if column != WHERE] if sample else []
    if not sample:
        return settings.id_column, settings.label_column
    if len(columns) != 2:
        valid = "valid: two columns, the image ids and the label to predict"
        mistakes.append(Mistake(f"{shown(path)}:1", f"columns {', '.join(columns)}", valid, "columns"))
    ids = settings.id_column if settings.id_column in columns else columns[0]
    return ids, next((column for column in columns if column != ids), settings.label_column)


def _check_same_ids(sample: list[Row], test: list[Row], column: str, test_path: Path, mistakes: list[Mistake]) -> None:
    in_test = {row.get(column) for row in test}
    in_sample = {row.get(column) for row in sample}
    if not test or not sample:
        return
    for row in sample:
        if row.get(column) not in in_test:
            hint = nearest(str(row.get(column)), [str(i) for i in in_test]) if len(mistakes) < 10 else ""
            found = f"{column} {row.get(column)!r} is not in the test table{hint}"
            mistakes.append(
                Mistake(row[WHERE], found, f"valid: an id of {shown(test_path)}", "sample ids not in the test table")
            )
    for row in test:
        if row.get(column) not in in_sample:
            found = f"{column} {row.get(column)!r} is not in the sample submission"
            mistakes.append(
                Mistake(row[WHERE], found, "valid: the sample lists each test id once", "test ids not in the sample")
            )


def _unique_ids(table: list[Row], column: str, mistakes: list[Mistake]) -> list[str]:
    """The ids in order; one that stands twice is told with both places."""
    first: dict[str, str] = {}
    for row in table:
        image_id = row.get(column, "")
        if image_id in first:
            found = f"duplicate id {image_id!r}, first in {first[image_id]}"
            mistakes.append(Mistake(row[WHERE], found, "valid: each id once", "duplicate ids"))
        first.setdefault(image_id, row[WHERE])
    return list(first)


def _as_rows(
    table: list[Row], roles: dict[str, str], template: str, setting: str, root: Path, mistakes: list[Mistake]
) -> list[Row]:
    """Adds the columns of the contract (roles: `group` -> the table's name for it) and `path`; leaves out bad rows.

    Every role is read from the table's own row: its columns may bear the contract's names with another meaning, and a
    group column called `image_id` must not become the id.
    """
    id_column = roles["image_id"]
    columns = [column for column in table[0] if column != WHERE] if table else []
    known = {*columns, "image_id"}
    try:
        parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:  # an unbalanced brace
        parts = []
    # plain names only: `{id:04d}` cannot work on strings, and attributes are nobody's business
    if table and (not parts or any(name not in known or spec or conversion for name, spec, conversion in parts)):
        valid = f"valid: a path with {{column}} in it, of the columns {', '.join(columns)}"
        mistakes.append(Mistake(setting, f"found {template!r}", valid, "path templates"))
        return []
    rows: list[Row] = []
    first: dict[str, str] = {}
    for row in table:
        image_id = row.get(id_column, "")
        if not image_id:
            mistakes.append(
                Mistake(row[WHERE], "the id is empty", f"valid: a value in column {id_column!r}", "empty ids")
            )
            continue
        if image_id in first:
            found = f"duplicate id {image_id!r}, first in {first[image_id]}"
            mistakes.append(Mistake(row[WHERE], found, "valid: each id once", "duplicate ids"))
            continue
        first[image_id] = row[WHERE]
        relative = template.format_map({"image_id": image_id, **row})
        if "\0" in relative or os.path.isabs(relative) or ".." in relative.replace("\\", "/").split("/"):
            found = f"the path {relative!r} leaves the competition's folder"
            mistakes.append(Mistake(row[WHERE], found, f"valid: a path under {shown(root)}", "paths out of the folder"))
            continue
        contract = {role: row[column] for role, column in roles.items()}
        rows.append({**row, **contract, "path": os.path.join(root, relative)})
    return rows


def _classes(train: list[Row], settings: Tables, mistakes: list[Mistake]) -> tuple[str, ...]:
    """The classes in order: as set, or as found in train, by number where all are numbers."""
    labels = {row["label"] for row in train}
    if settings.classes == "from train":
        named = sorted(labels - {""}, key=lambda c: (0, int(c), c) if c.isdecimal() else (1, 0, c))
        if train and len(named) < 2:
            found = f"{len(named)} class in column {settings.label_column!r}"
            mistakes.append(Mistake(f"{settings.root}/{settings.train_csv}", found, "valid: at least two", "classes"))
    else:
        named = list(settings.classes)
        if len(set(named)) < len(named):
            mistakes.append(
                Mistake("competition.classes", "a class is named twice", "valid: each class once", "classes")
            )
    for row in train:
        label = row["label"]
        if label not in named:
            valid = f"valid: {', '.join(named)}"
            mistakes.append(
                Mistake(row[WHERE], f"label {label!r} is no class{nearest(label, named)}", valid, "labels in no class")
            )
    if settings.classes != "from train" and train:
        for absent in [c for c in named if c not in labels]:
            valid = "valid: a class that has training rows (competition.classes)"
            mistakes.append(
                Mistake(f"{settings.root}/{settings.train_csv}", f"no row of class {absent!r}", valid, "classes")
            )
    return tuple(named)


def _label_texts(
    classes: tuple[str, ...], placeholders: list[str], sample: str, column: str, mistakes: list[Mistake]
) -> tuple[str, ...]:
    """Each class as a submission writes it: whole numbers where the sample's placeholders are, decimal ones likewise.

    Judged by what stands in the sample and by the classes, never by what happens to be predicted: a column of which
    only `1` was predicted reads as a number even where another class is `10+`.
    """
    given = [text for text in placeholders if text]
    values = [_number(text) for text in given]
    if not given or any(value is None for value in values):
        return classes  # blank promises no type, and a word takes any label
    whole = all(text.lstrip("+-").isdecimal() for text in given)
    texts = tuple(_written(name, whole) for name in classes)
    if "" in texts or len(set(texts)) < len(texts):
        kind = "whole numbers" if whole else "numbers"
        found = f"column {column!r} holds {kind} such as {given[0]}, and the classes are {', '.join(classes)}"
        mistakes.append(
            Mistake(sample, found, f"valid: classes that are distinct {kind}, or a sample of words", "labels")
        )
        return classes
    return texts


def _written(name: str, whole: bool) -> str:
    """A class in the sample's type; empty where it has no such form."""
    value = _number(name)
    if value is None:
        return ""
    if not whole:
        return str(value)
    return name if name.lstrip("+-").isdecimal() else str(int(value)) if value == int(value) else ""


def _number(text: str) -> float | None:
    """The finite number that a text says, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
