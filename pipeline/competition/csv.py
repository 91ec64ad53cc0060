"""Competitions given as CSV tables and image files.

In: `Tables` settings. Out: a `Competition` and every mistake in its tables, each with file and row. Images are found by
path templates over the tables' columns (`paths`), labels and groups by column.
"""

from pathlib import Path

from pipeline.competition.assemble import Found, Item, assemble
from pipeline.competition.contract import Competition, Row
from pipeline.competition.paths import Finder, root_of
from pipeline.competition.tables import check_same_ids, read_table, sample_columns, unique_rows
from pipeline.config.data import Tables
from pipeline.config.mistakes import Mistake


def read(settings: Tables) -> Competition:
    """Reads the tables. The images themselves are looked at by `missing_images` and by the images room."""
    root = root_of(settings)
    mistakes: list[Mistake] = []
    needed = [settings.id_column]
    needed += [part.column for part in settings.parts.values()] or [settings.label_column]
    needed += [settings.group_column] if settings.group_column != "none" else []
    table = read_table(root / settings.train_csv, "competition.train_csv", list(dict.fromkeys(needed)), mistakes)
    finder = Finder(settings.train_images, "competition.train_images", root, trains=True)
    train = [_with_roles(item, settings) for item in _items(table, settings.id_column, finder, mistakes)]
    found = Found(
        root=root,
        train_place=f"{settings.root}/{settings.train_csv}",
        train=train,
        test=[],
        has_groups=settings.group_column != "none",
        label_column=settings.label_column,
    )
    if settings.sample_csv != "none":
        found.sample_csv = root / settings.sample_csv
        found.sample = read_table(found.sample_csv, "competition.sample_csv", [], mistakes)
        columns = sample_columns(found.sample, found.sample_csv, settings.id_column, mistakes)
        found.sample_columns, found.sample_classes = columns
        if not found.sample or found.sample_classes:
            found.sample_columns = (columns[0][0], settings.label_column)
        found.test = _test_items(settings, found, root, mistakes)
    return assemble(settings, found, mistakes)


def _test_items(settings: Tables, found: Found, root: Path, mistakes: list[Mistake]) -> list[Item]:
    """In the order of the sample submission."""
    ids = found.sample_columns[0]
    finder = Finder(settings.test_images, "competition.test_images", root, trains=False)
    if settings.test_csv in (settings.sample_csv, "none"):
        return _items(found.sample, ids, finder, mistakes)
    test = read_table(root / settings.test_csv, "competition.test_csv", [ids], mistakes)
    check_same_ids(found.sample, test, ids, root / settings.test_csv, mistakes)
    by_id = {item.image_id: item for item in _items(test, ids, finder, mistakes)}
    return [by_id[row[ids]] for row in unique_rows(found.sample, ids, mistakes) if row[ids] in by_id]


def _items(table: list[Row], id_column: str, finder: Finder, mistakes: list[Mistake]) -> list[Item]:
    """The rows with an id and a path of their own."""
    if not finder.check(table, mistakes):
        return []
    rows = unique_rows(table, id_column, mistakes)
    return [Item(row, row[id_column], finder.find(row, row[id_column], mistakes)) for row in rows]


def _with_roles(item: Item, settings: Tables) -> Item:
    """Every role is read from the table's own row: its columns may bear the contract's names with another meaning."""
    label = "" if settings.parts else item.raw[settings.label_column]
    group = item.raw[settings.group_column] if settings.group_column != "none" else ""
    return Item(item.raw, item.image_id, item.path, label, group)
