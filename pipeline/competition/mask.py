"""The mask-wearing competition's layout: a table of persons, a folder of photos for each, and a list of test photos.

In: `MaskCompetition` settings. Out: a `Competition` of photos: id `FOLDER/NAME` (without extension, which varies and
says nothing), group = the person, columns of the person's row besides `file`, the photo's name, from which the
declared parts of the label read whether a mask is worn.
"""

import os
from collections import Counter

from pipeline.competition.assemble import Found, Item, assemble
from pipeline.competition.contract import WHERE, Competition, Row
from pipeline.competition.paths import Finder, by_stem, is_inside, leaves, root_of
from pipeline.competition.tables import read_table, sample_columns, unique_rows
from pipeline.config.data import MaskCompetition
from pipeline.config.mistakes import Mistake, nearest, shown


def read(settings: MaskCompetition) -> Competition:
    """Reads the tables and lists each person's folder."""
    root = root_of(settings)
    mistakes: list[Mistake] = []
    notes: list[Mistake] = []
    needed = [settings.person_column, settings.path_column]
    needed += [part.column for part in settings.parts.values() if part.column != "file"]
    table = read_table(root / settings.train_csv, "competition.train_csv", list(dict.fromkeys(needed)), mistakes)
    persons = unique_rows(table, settings.person_column, mistakes)
    found = Found(
        root=root,
        train_place=f"{settings.root}/{settings.train_csv}",
        train=_photos(persons, settings, mistakes, notes),
        test=[],
        has_groups=True,
        notes=notes,
        label_column="file",
    )
    if settings.sample_csv != "none":
        found.sample_csv = root / settings.sample_csv
        found.sample = read_table(found.sample_csv, "competition.sample_csv", [], mistakes)
        found.sample_columns, found.sample_classes = sample_columns(found.sample, found.sample_csv, "ImageID", mistakes)
        ids = found.sample_columns[0]
        finder = Finder(f"{settings.test_images}/{{{ids}}}", "competition.test_images", root, trains=False)
        rows = unique_rows(found.sample, ids, mistakes)
        found.test = [Item(row, row[ids], finder.find(row, row[ids], mistakes)) for row in rows]
    return assemble(settings, found, mistakes)


def _photos(persons: list[Row], settings: MaskCompetition, mistakes: list[Mistake], notes: list[Mistake]) -> list[Item]:
    """Every photo of every person. Who has other photos than most is told."""
    root = root_of(settings)
    real_root = os.path.realpath(root)
    photos = root / settings.train_images
    all_folders = sorted(os.listdir(photos)) if photos.is_dir() else []
    items: list[Item] = []
    names_of: dict[str, list[str]] = {}  # place of the person's row -> names of the photos
    first: dict[str, str] = {}
    for person in persons:
        where, relative = person[WHERE], person[settings.path_column]
        folder = str(photos / relative)
        valid = f"valid: a folder under {shown(photos)}"
        if not relative or leaves(relative) or not is_inside(folder, real_root):
            found = f"the path {relative!r} leaves the competition's folder" if relative else "the path is empty"
            mistakes.append(Mistake(where, found, valid, "paths out of the folder"))
            continue
        if (other := first.setdefault(os.path.normpath(folder), where)) != where:
            found = f"the folder {relative!r} is another person's too ({other})"
            mistakes.append(Mistake(where, found, "valid: a folder a person", "duplicate folders"))
            continue
        stems = by_stem(folder)
        if not stems:
            hint = nearest(relative, all_folders) if len(mistakes) < 5 else ""
            mistakes.append(Mistake(where, f"no photos in {relative!r}{hint}", valid, "missing images"))
            continue
        names_of[where] = list(stems)
        for stem, names in stems.items():
            image_id = f"{relative}/{stem}"
            if len(names) > 1:
                found = f"photo {stem!r} of {relative!r} is there {len(names)} times ({', '.join(names[:3])})"
                mistakes.append(Mistake(where, found, "valid: one file a photo", "ambiguous images", image_id))
                continue
            raw = {**person, "file": stem}
            items.append(Item(raw, image_id, os.path.join(folder, names[0]), group=person[settings.person_column]))
    _note_incomplete(names_of, notes)
    named = {os.path.normpath(person[settings.path_column]).split("/")[0] for person in persons}
    if unknown := [name for name in all_folders if name not in named and not name.startswith(".")]:
        told = f"{len(unknown):,} folders that no row names, e.g. {unknown[0]!r}; left out"
        notes.append(Mistake(shown(photos), told, "each person's folder in a row", "folders without a row"))
    return items


def _note_incomplete(names_of: dict[str, list[str]], notes: list[Mistake]) -> None:
    """Persons who lack a photo that most have."""
    counts = Counter(name for names in names_of.values() for name in names)
    usual = {name for name, n in counts.items() if n > len(names_of) / 2}
    for where, names in names_of.items():
        if lacking := usual - set(names):
            told = f"no photo {', '.join(sorted(lacking))}"
            notes.append(Mistake(where, told, f"most have {', '.join(sorted(usual))}", "incomplete persons"))
