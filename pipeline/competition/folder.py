"""Competitions given as one folder of images per class.

In: `FolderCompetition` settings. Out: a `Competition`; the id of an image is its path from `train_folder` (or
`test_folder`), extension and all.
"""

import os
from pathlib import Path

from pipeline.competition.assemble import Found, Item, assemble
from pipeline.competition.contract import WHERE, Competition, Row
from pipeline.competition.paths import IMAGE_SUFFIXES, is_inside, root_of
from pipeline.competition.tables import read_table, sample_columns, unique_rows
from pipeline.config.data import FolderCompetition
from pipeline.config.mistakes import Mistake, nearest, shown


def read(settings: FolderCompetition) -> Competition:
    """Lists the folders; links that lead out of the competition's folder are told and not followed."""
    root = root_of(settings)
    mistakes: list[Mistake] = []
    notes: list[Mistake] = []
    train_root = root / settings.train_folder
    train = []
    for relative in _images(train_root, "competition.train_folder", root, mistakes, notes):
        label, _, name = relative.partition("/")
        if not name:
            valid = "valid: one folder a class, with its images inside"
            found = "an image beside the classes' folders; left out"
            notes.append(Mistake(shown(train_root / relative), found, valid, "images in no class folder"))
            continue
        raw = {"folder": label, "file": Path(name).stem, WHERE: shown(train_root / relative)}
        train.append(Item(raw, relative, str(train_root / relative), label))
    if not train and not mistakes:
        valid = f"valid: folders of {', '.join(sorted(IMAGE_SUFFIXES))} files (competition.train_folder)"
        mistakes.append(Mistake(shown(train_root), "no images in class folders", valid, "empty folders"))
    found = Found(root=root, train_place=shown(train_root), train=train, test=[], notes=notes, label_column="folder")
    if settings.test_folder != "none":
        test_root = root / settings.test_folder
        names = _images(test_root, "competition.test_folder", root, mistakes, notes)
        found.test = [Item({WHERE: shown(test_root / name)}, name, str(test_root / name)) for name in names]
    if settings.sample_csv != "none":
        _in_the_order_of_the_sample(found, root / settings.sample_csv, mistakes)
    return assemble(settings, found, mistakes)


def _in_the_order_of_the_sample(found: Found, path: Path, mistakes: list[Mistake]) -> None:
    """The sample names each test file, with or without its extension, and the test folder holds no other."""
    found.sample_csv = path
    found.sample = read_table(path, "competition.sample_csv", [], mistakes)
    found.sample_columns, found.sample_classes = sample_columns(found.sample, path, "image_id", mistakes)
    ids = found.sample_columns[0]
    by_name = {name: item for item in found.test for name in (os.path.splitext(item.image_id)[0], item.image_id)}
    rows: list[Row] = []
    for row in unique_rows(found.sample, ids, mistakes):
        if row[ids] in by_name:
            rows.append(row)
        else:
            hint = nearest(row[ids], by_name) if len(mistakes) < 10 else ""
            valid = "valid: a file of competition.test_folder"
            told = f"{ids} {row[ids]!r} is no test image{hint}"
            mistakes.append(Mistake(row[WHERE], told, valid, "sample ids not in the test folder"))
    named = {by_name[row[ids]].path for row in rows}
    for item in found.test:
        if item.path not in named:
            told = f"test image {item.image_id!r} is not in the sample submission"
            valid = "valid: the sample lists each test image once"
            mistakes.append(Mistake(item.raw[WHERE], told, valid, "test images not in the sample"))
    found.test = [Item(row, row[ids], by_name[row[ids]].path) for row in rows]


def _images(folder: Path, setting: str, root: Path, mistakes: list[Mistake], notes: list[Mistake]) -> list[str]:
    """Paths of all image files under a folder, from it, sorted; hidden files are nobody's images."""
    if not folder.is_dir():
        there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        hint = nearest(folder.name, there)
        valid = f"{setting} names it, relative to competition.root; there: {', '.join(there) or 'nothing'}"
        mistakes.append(Mistake(shown(folder), f"there is no such folder{hint}", valid, "missing folders"))
        return []
    real_root = os.path.realpath(root)
    found: list[str] = []
    left = [str(folder)]
    seen: set[str] = set()
    n_other = 0
    while left:
        here = left.pop()
        real = os.path.realpath(here)
        if not is_inside(here, real_root):
            valid = f"valid: a folder under {shown(root)}"
            mistakes.append(Mistake(shown(Path(here)), "a link out of the folder", valid, "links out of the folder"))
            continue
        if real in seen:  # links that go round in circles, or a folder under two names
            told = "a link to a folder that is there under another name; left out"
            notes.append(Mistake(shown(Path(here)), told, "each folder under one name", "folders met twice"))
            continue
        seen.add(real)
        for entry in os.scandir(here):
            if entry.name.startswith("."):
                continue
            if not entry.name.isprintable():  # bytes that are no UTF-8, line ends
                valid = "valid: names of letters, digits and signs"
                mistakes.append(Mistake(shown(Path(here)), f"the name {entry.name!r}", valid, "odd names"))
                continue
            if entry.is_dir():
                left.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                found.append(os.path.relpath(entry.path, folder))
            else:
                n_other += 1
    if n_other:
        told = f"{n_other:,} files are no images by their extension; left out"
        notes.append(Mistake(shown(folder), told, f"images: {', '.join(sorted(IMAGE_SUFFIXES))}", "other files"))
    return sorted(found)
